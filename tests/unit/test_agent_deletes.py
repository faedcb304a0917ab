# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.core.network import NetworkError
from agent.core.request import BadRequest, parse_header
from agent.deletes import DeleteQueue
from cni.plugin import AddRequest, CheckRequest, DelRequest, GcRequest
from cni.result import Attachment
from cni.spec import TryAgain

CONFIG = b'{"cniVersion": "1.0.0", "name": "ilanet", "type": "ilanet"}'


def request(container: str, stdin: bytes = CONFIG) -> bytes:
    variables = (f"CNI_COMMAND=DEL\0CNI_CONTAINERID={container}\0CNI_IFNAME=eth0\0CNI_PATH=/opt/cni/bin\0").encode()
    return struct.pack("!4sII", b"ILA1", len(variables), len(stdin)) + variables + stdin


class FakeNetwork:
    """Deletes everything, but those that are to be tried again."""

    def __init__(self) -> None:
        self.deleted: list[str] = []
        self.later: set[str] = set()

    async def delete(self, request: DelRequest) -> None:
        if request.container_id in self.later:
            raise TryAgain("not now")
        self.deleted.append(request.container_id)

    async def add(self, request: AddRequest) -> Attachment:
        raise AssertionError(request)

    async def check(self, request: CheckRequest) -> Attachment:
        raise AssertionError(request)

    async def gc(self, request: GcRequest) -> None:
        raise AssertionError(request)

    async def status(self) -> None:
        raise AssertionError


@pytest.fixture
def network() -> FakeNetwork:
    return FakeNetwork()


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[DeleteQueue]:
    """Yield a queue whose folder is not there yet."""
    with ThreadPoolExecutor(1) as pool:
        yield DeleteQueue(path=tmp_path / "deletes", pool=pool)


def put(folder: Path, container: str, *, second: int, raw: bytes | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / f"{container}:eth0"
    file.write_bytes(request(container) if raw is None else raw)
    os.utime(file, (second, second))
    return file


async def test_dels_are_replayed_in_the_order_in_which_they_came(
    tmp_path: Path, queue: DeleteQueue, network: FakeNetwork
) -> None:
    """Oldest first, each once; a folder that is not there yet holds none."""
    await queue.replay(network)
    for container, second in (("b", 2), ("a", 3), ("c", 1)):
        put(tmp_path / "deletes", container, second=second)
    await queue.replay(network)
    await queue.replay(network)
    assert network.deleted == ["c", "b", "a"]
    assert list((tmp_path / "deletes").iterdir()) == []


async def test_what_cannot_be_done_now_waits_and_holds_up_nobody(
    tmp_path: Path, queue: DeleteQueue, network: FakeNetwork
) -> None:
    """It is a problem with a name until it is done."""
    network.later = {"a"}
    for second, container in enumerate("abc"):
        put(tmp_path / "deletes", container, second=second)
    with pytest.raises(NetworkError, match="a:eth0: not now"):
        await queue.replay(network)
    assert network.deleted == ["b", "c"]
    network.later = set()
    await queue.replay(network)
    assert network.deleted == ["b", "c", "a"]


@pytest.mark.parametrize("raw", [b"", b"ILA1", b"x" * 100, request("a")[:-1], request("a") + b"x", request("a", b"{")])
async def test_a_del_whose_request_nobody_can_read_is_done(
    tmp_path: Path, queue: DeleteQueue, network: FakeNetwork, raw: bytes
) -> None:
    """Its runtime was told that it succeeded, and does not ask again."""
    put(tmp_path / "deletes", "a", second=1, raw=raw)
    await queue.replay(network)
    assert network.deleted == ["a"]
    assert list((tmp_path / "deletes").iterdir()) == []


async def test_a_file_that_is_no_del_is_dropped_by_name(
    tmp_path: Path, queue: DeleteQueue, network: FakeNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has it, and the others are carried out."""
    put(tmp_path / "deletes", "b", second=2)
    (tmp_path / "deletes/stray").touch()
    await queue.replay(network)
    assert f"{tmp_path}/deletes/stray is no queued DEL" in caplog.text
    assert network.deleted == ["b"]
    assert list((tmp_path / "deletes").iterdir()) == []


async def test_an_attachment_that_is_made_anew_outlives_its_old_del(
    tmp_path: Path, queue: DeleteQueue, network: FakeNetwork
) -> None:
    """ADD after a DEL that nobody had heard: the DEL is history."""
    put(tmp_path / "deletes", "a", second=1)
    queue.forget("a", "eth0")
    queue.forget("a", "eth0")
    await queue.replay(network)
    assert network.deleted == []


def test_a_request_that_announces_too_much_is_refused() -> None:
    """Before anything is read."""
    with pytest.raises(BadRequest, match="announces"):
        parse_header(struct.pack("!4sII", b"ILA1", 1 << 30, 0))
