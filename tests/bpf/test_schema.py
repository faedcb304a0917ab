# SPDX-License-Identifier: Apache-2.0
"""An upgrade that changes the form of a map: what it held is there before the first packet meets the new programs."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.datapath import DatapathError, EndpointEntry
from agent.kernel import datapath as datapath_module
from agent.kernel import schema
from agent.kernel.datapath import BpfDatapath
from agent.kernel.tables import STRUCT_SIZES
from tests.bpf.world import (
    HOST_B_MAC,
    OBJECT,
    POD_A,
    POD_A_MAC,
    POD_B,
    POD_B_MAC,
    REMOTE,
    SETTINGS,
    THERE,
    UNDERLAY,
    A,
    B,
    Host,
    from_a,
    sir,
)

SOURCES = Path(__file__).parents[2] / "agent/bpf"
OLD_ENTRY = struct.Struct("=I6s6s")
"""An endpoint before it said by which way its packets go."""


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the programs as they were before `struct endpoint` grew, with fewer mappings too."""
    folder = tmp_path_factory.mktemp("older")
    shutil.copytree(SOURCES, folder / "bpf")
    for name, old, new in (
        ("abi.h", "	__u32 by_stack; ", "	/* "),
        ("abi.h", "/* /* plugins", "/* plugins"),
        ("forward.h", "endpoint->by_stack", "false"),
        ("pod.h", "endpoint->by_stack", "false"),
        ("maps.h", "1048576", "1024"),
    ):
        file = folder / "bpf" / name
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
    headers = Path("/usr/include") / sysconfig.get_config_var("MULTIARCH")
    flags = ["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-I", str(folder / "bpf"), "-isystem", str(headers)]
    target = folder / "older.bpf.o"
    source = folder / "bpf/ilanet.bpf.c"
    subprocess.run(["clang", *flags, "-c", str(source), "-o", str(target)], check=True)
    return target


@pytest.fixture
def pins(bpffs: Path) -> Iterator[Path]:
    folder = bpffs / "schema"
    try:
        yield folder
    finally:
        BpfDatapath(object_path=OBJECT, pin_directory=folder).unload()


def before(older: Path, pins: Path, monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Run the agent of before the upgrade, with two endpoints and a mapping; return its programs by place."""
    with monkeypatch.context() as patch:
        patch.setattr(datapath_module, "STRUCT_SIZES", {**STRUCT_SIZES, "endpoint": OLD_ENTRY.size})
        running = BpfDatapath(object_path=older, pin_directory=pins)
        running.load(SETTINGS)
    running.attach_underlay(UNDERLAY, edge=False)
    running.attach_pod(POD_A, limited=False)
    for identifier, index, pod, host in ((A, POD_A, POD_A_MAC, POD_A_MAC), (B, POD_B, POD_B_MAC, HOST_B_MAC)):
        macs = (bytes.fromhex(mac.replace(":", "")) for mac in (pod, host))
        running._maps["endpoints"].put(int(identifier).to_bytes(8), OLD_ENTRY.pack(index, *macs))
    ila = SETTINGS.domain.ila_address(REMOTE, THERE).packed
    running.write_mappings([int(REMOTE)], [struct.pack("=16sQQ", ila, 1, 7)])
    return {index: number for (index, _), number in running._links.programs().items()}


def check(upgraded: BpfDatapath, pins: Path, old: dict[int, int]) -> None:
    """Assert that nothing is missing after the upgrade, and that the new programs work with it."""
    entries = upgraded.read_endpoints()
    assert entries.keys() == {int(A), int(B)}
    assert all(not entry.by_stack for entry in entries.values())
    assert entries[int(B)].interface_index == POD_B
    assert upgraded.read_mappings().keys() == {int(REMOTE)}
    assert upgraded._maps["mappings"].info.max_entries == 1 << 20
    assert {path.name for path in (pins / "maps").iterdir()} == upgraded._maps.keys()
    new = {index: number for (index, _), number in upgraded._links.programs().items()}
    assert new.keys() == old.keys()
    assert set(new.values()).isdisjoint(old.values())
    host = Host.__new__(Host)
    host.datapath = upgraded
    assert [item[1] for item in host.run("from_pod", from_a(sir(B)), index=POD_A).counted] == ["local"]
    assert [item[1] for item in host.run("from_pod", from_a(sir(REMOTE)), index=POD_A).counted] == ["remote"]


def test_what_the_maps_held_is_carried_over(older: Path, pins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values grow by zeros, the table of mappings by room."""
    old = before(older, pins, monkeypatch)
    upgraded = BpfDatapath(object_path=OBJECT, pin_directory=pins)
    upgraded.load(SETTINGS)
    check(upgraded, pins, old)
    upgraded.write_endpoint(
        int(A), EndpointEntry(interface_index=POD_A, pod_mac=bytes(6), host_mac=bytes(6), by_stack=True)
    )
    assert upgraded.read_endpoints()[int(A)].by_stack


@pytest.mark.parametrize("step", ["carry_over", "forget"])
def test_an_upgrade_that_is_killed_is_finished_by_the_next(
    older: Path, pins: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Before the new maps are full, or before the old ones are let go: the old programs go on meanwhile."""
    old = before(older, pins, monkeypatch)

    def killed(_: Path) -> None:
        raise DatapathError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(schema, step, killed)
        with pytest.raises(DatapathError, match="killed"):
            BpfDatapath(object_path=OBJECT, pin_directory=pins).load(SETTINGS)
    assert any(path.name.endswith("-old") for path in (pins / "maps").iterdir())
    upgraded = BpfDatapath(object_path=OBJECT, pin_directory=pins)
    upgraded.load(SETTINGS)
    check(upgraded, pins, old)
