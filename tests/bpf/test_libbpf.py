# SPDX-License-Identifier: Apache-2.0
"""The libbpf binding: constants, errors with the verifier's log, maps in batches, the ring buffer."""

from __future__ import annotations

import errno
import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.core.datapath import DatapathError
from agent.kernel.bpf_map import Map, RingBuffer
from agent.kernel.bpf_object import ObjectFile
from agent.kernel.descriptor import Program
from agent.kernel.libbpf import BpfError
from lab.namespace import run
from tests.bpf.world import CHECKSUM_COMPLETE, OBJECT, SETTINGS, A, World, from_a, sir

Compile = Callable[[str], Path]
FRAME = from_a(sir(A))


@pytest.fixture
def opened(compiled: Compile) -> Iterator[ObjectFile]:
    """Return the test object, opened and not loaded."""
    with ObjectFile(compiled("binding")) as one:
        yield one


def _program(opened: ObjectFile, name: str) -> Program:
    return Program(os.dup(opened.programs()[name]), name)


def _map(opened: ObjectFile, name: str) -> Map:
    return Map(os.dup(opened.maps()[name]), name)


def _u32(*values: int) -> bytes:
    return struct.pack(f"={len(values)}I", *values)


def _u64(*values: int) -> bytes:
    return struct.pack(f"={len(values)}Q", *values)


def test_constants(opened: ObjectFile) -> None:
    """A constant set by name is what the loaded program sees; its neighbour keeps its value."""
    opened.set_constants({"answer": _u32(35)})
    opened.load()
    assert _program(opened, "give_answer").run(FRAME).code == 42


def test_wrong_constants(opened: ObjectFile) -> None:
    """A constant that is not there, or too small for the value, is refused by name."""
    with pytest.raises(DatapathError, match="no constant 'question'"):
        opened.set_constants({"question": _u32(1)})
    with pytest.raises(DatapathError, match="'answer' has 4 bytes, got 8"):
        opened.set_constants({"answer": _u64(1)})


def test_no_object(tmp_path: Path) -> None:
    """A file that is not there says how to get it; one that is no object says what libbpf thinks of it."""
    with pytest.raises(DatapathError, match="make build"), ObjectFile(tmp_path / "none.o"):
        pass
    (tmp_path / "text.o").write_text("no object")
    with pytest.raises(BpfError, match=r"open .*text\.o") as caught, ObjectFile(tmp_path / "text.o"):
        pass
    assert "text.o" in caught.value.log


def test_verifier_log(compiled: Compile) -> None:
    """A program that the verifier refuses raises an error with the verifier's own words."""
    with ObjectFile(compiled("refused")) as opened, pytest.raises(BpfError) as caught:
        opened.load()
    assert caught.value.number == errno.EACCES
    assert "invalid access to packet" in caught.value.log
    assert "reads_beyond_the_end" in str(caught.value)


def test_log_is_of_its_own_call(compiled: Compile, opened: ObjectFile) -> None:
    """An error after another carries nothing of the other's log."""
    with ObjectFile(compiled("refused")) as refused, pytest.raises(BpfError):
        refused.load()
    opened.load()
    with pytest.raises(BpfError) as caught:
        _map(opened, "table").pin(Path("/proc/nowhere"))
    assert "packet" not in caught.value.log


def test_checksum_damage_shows(opened: ObjectFile) -> None:
    """BPF_F_TEST_SKB_CHECKSUM_COMPLETE sees the damage that the tests of the programs look for."""
    opened.load()
    program = _program(opened, "break_checksum")
    assert program.run(FRAME).code == 0
    with pytest.raises(BpfError) as caught:
        program.run(FRAME, flags=CHECKSUM_COMPLETE)
    assert caught.value.number == errno.EBADMSG


def test_ring_buffer(opened: ObjectFile) -> None:
    """Records arrive in order; an exception of the receiver comes out of consume()."""
    opened.load()
    program = _program(opened, "send_record")
    received: list[int] = []
    with RingBuffer(_map(opened, "records"), lambda raw: received.append(*struct.unpack("=Q", raw))) as ring:
        for extra in range(3):
            program.run(FRAME + bytes(extra))
        assert ring.consume() == 3
        assert received == [len(FRAME) + extra for extra in range(3)]
        assert ring.consume() == 0

    def refuse(raw: bytes) -> None:
        raise ValueError(raw.hex())

    with RingBuffer(_map(opened, "records"), refuse) as ring:
        program.run(FRAME)
        with pytest.raises(ValueError, match=_u64(len(FRAME)).hex()):
            ring.consume()


def test_single_entries(opened: ObjectFile) -> None:
    """put, get, delete and next_key; what is not there is None or no error."""
    opened.load()
    table = _map(opened, "table")
    assert table.get(_u32(1)) is None
    assert table.next_key(None) is None
    table.put(_u32(1), _u64(10))
    assert table.get(_u32(1)) == _u64(10)
    assert table.next_key(None) == _u32(1)
    assert table.next_key(_u32(1)) is None
    table.delete(_u32(1))
    table.delete(_u32(1))
    assert list(table.batches()) == [(b"", b"")]


def test_batches(opened: ObjectFile) -> None:
    """Batches write, read and delete; absent keys among the deleted are no error, wherever they stand."""
    opened.load()
    table = _map(opened, "table")
    numbers = range(900)
    table.put_all(_u32(*numbers), _u64(*numbers))
    keys = b"".join(keys for keys, _ in table.batches())
    values = b"".join(values for _, values in table.batches())
    read = dict(zip(struct.unpack("=900I", keys), struct.unpack("=900Q", values), strict=True))
    assert read == {number: number for number in numbers}
    table.delete_all(_u32(5000, *range(450), 5001, 5001, *range(450, 900), 5002))
    assert b"".join(keys for keys, _ in table.batches()) == b""
    table.delete_all(b"")


def test_full_map(opened: ObjectFile) -> None:
    """A batch that does not fit says how far it came."""
    opened.load()
    with pytest.raises(BpfError, match="map table took 1000 of 1200 entries") as caught:
        _map(opened, "table").put_all(_u32(*range(1200)), _u64(*range(1200)))
    assert caught.value.number == errno.E2BIG


def test_million_mappings(world: World) -> None:
    """The whole mapping table is written, read back equal, and deleted; one more does not fit."""
    datapath = world.host(SETTINGS).datapath
    datapath.delete_mappings(list(datapath.read_mappings()))
    identifiers = [1 << 61 | number << 16 | 1 for number in range(1 << 20)]
    values = [identifier.to_bytes(32, "little") for identifier in identifiers]
    datapath.write_mappings(identifiers, values)
    assert datapath.read_mappings() == dict(zip(identifiers, values, strict=True))
    with pytest.raises(BpfError, match="map mappings took 0 of 1 entries"):
        datapath.write_mappings([1 << 61 | 7], [bytes(32)])
    datapath.delete_mappings(identifiers)
    assert datapath.read_mappings() == {}


def test_the_programs_need_no_btf_of_the_kernel() -> None:
    """They load where libbpf finds none: nothing in them is relocated by it."""
    script = (
        "from pathlib import Path\n"
        "from agent.core.datapath import DatapathError\n"
        "from agent.kernel.bpf_object import ObjectFile, kernel_words\n"
        "assert 'built without BTF' in kernel_words()\n"
        f"with ObjectFile(Path({str(OBJECT)!r})) as opened:\n"
        "    opened.load()\n"
        "    print(len(opened.programs()))\n"
    )
    hide = 'mount -t tmpfs none /sys/kernel/btf && exec "$@"'
    words = ("unshare", "--mount", "--propagation", "private", "sh", "-c", hide, "sh", sys.executable, "-c", script)
    assert int(run(*words, timeout=60)) > 4
