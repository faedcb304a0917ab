# SPDX-License-Identifier: Apache-2.0
"""The life of the datapath: adopted, replaced without a gap, killed anywhere, removed whole; on tcx and on clsact."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from agent.core.datapath import DatapathError, DatapathSettings, EndpointEntry, pack_mapping
from agent.kernel import libbpf
from agent.kernel.bpf_map import Map
from agent.kernel.bpf_object import ObjectFile
from agent.kernel.datapath import BpfDatapath
from agent.kernel.libbpf import BpfError, TcHook, TcOptions, call
from agent.kernel.places import Direction
from lab.namespace import run
from tests.bpf.world import (
    DOMAIN,
    HOST_ROUTING,
    OBJECT,
    POD_A,
    REMOTE,
    SETTINGS,
    THERE,
    UNDERLAY,
    A,
    from_a,
    from_fabric,
    ila,
    sir,
)

PLACES = {(UNDERLAY, Direction.INGRESS), (UNDERLAY, Direction.EGRESS), (POD_A, Direction.INGRESS)}
ROLES = {UNDERLAY: "inside", POD_A: "pod"}
Make = Callable[[], BpfDatapath]
NO_PREALLOC = 1
"""BPF_F_NO_PREALLOC of linux/bpf.h."""


@pytest.fixture(params=[True, False], ids=["tcx", "clsact"])
def make(request: pytest.FixtureRequest, bpffs: Path) -> Iterator[Make]:
    """Return what makes the datapath of a fresh agent, each on the same pins."""

    def fresh() -> BpfDatapath:
        return BpfDatapath(object_path=OBJECT, pin_directory=bpffs / "ilanet", tcx=request.param)

    try:
        yield fresh
    finally:
        fresh().unload()


def _attached(make: Make) -> BpfDatapath:
    datapath = make()
    datapath.load(SETTINGS)
    datapath.attach_underlay(UNDERLAY, edge=False)
    datapath.attach_pod(POD_A, limited=False)
    return datapath


def _ids(datapath: BpfDatapath) -> dict[Any, int]:
    return dict(datapath._links.programs())


def _check_whole(datapath: BpfDatapath, bpffs: Path) -> None:
    """All attachments have the programs that are loaded, and no other set of programs is kept."""
    loaded = {name: program.id for name, program in datapath._programs.items()}
    assert _ids(datapath) == {
        (UNDERLAY, Direction.INGRESS): loaded["from_wire"],
        (UNDERLAY, Direction.EGRESS): loaded["to_wire"],
        (POD_A, Direction.INGRESS): loaded["from_pod"],
    }
    assert len(list((bpffs / "ilanet" / "programs").iterdir())) == 1
    used = set().union(*(program.map_ids() for program in datapath._programs.values()))
    assert {one.info.id for one in datapath._maps.values()} <= used


def test_adopts_what_is_pinned(make: Make) -> None:
    """A restarted agent with the same settings keeps every program, link and entry."""
    first = _attached(make)
    first.write_mappings([1 << 61 | 1], [bytes(32)])
    first.set_complete(complete=True)
    before, programs = _ids(first), {name: one.id for name, one in first._programs.items()}
    second = make()
    second.load(SETTINGS)
    assert _ids(second) == before
    assert {name: one.id for name, one in second._programs.items()} == programs
    assert second.read_mappings() == {1 << 61 | 1: bytes(32)}
    assert second.attached() == ROLES


def test_memory_of_maps_grows_with_use(make: Make) -> None:
    """Nothing is allocated ahead (BPF_F_NO_PREALLOC, says the kernel); each mapping takes memory when it is written.

    Before 6.4 kernels say of a map's memory what it would be if it were full, so that there the flag is all to see.
    """
    datapath = _attached(make)

    def told(name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(run("bpftool", "-j", "map", "show", "id", str(datapath._maps[name].info.id)))
        return found

    for name in ("mappings", "endpoints", "nodes"):
        assert told(name)["flags"] & NO_PREALLOC
    before = int(told("mappings")["bytes_memlock"])
    count = 10_000
    datapath.write_mappings([1 << 61 | number for number in range(1, count + 1)], [bytes(32)] * count)
    grown = int(told("mappings")["bytes_memlock"]) - before
    if tuple(map(int, platform.release().split(".")[:2])) >= (6, 4):
        assert count * 40 <= grown <= count * 200
    else:
        assert grown == 0


def test_survives_its_process(make: Make) -> None:
    """What a process attached goes on when the process has been killed."""
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            _attached(make)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    datapath = make()
    datapath.load(SETTINGS)
    assert datapath.attached() == ROLES


def test_other_settings_replace(make: Make, bpffs: Path) -> None:
    """Other settings put other programs in every link; maps and attachments stay."""
    first = _attached(make)
    first.write_mappings([1 << 61 | 1], [bytes(32)])
    before = _ids(first)
    second = make()
    second.load(HOST_ROUTING)
    after = _ids(second)
    assert before.keys() == after.keys() == PLACES
    assert not set(before.values()) & set(after.values())
    _check_whole(second, bpffs)
    assert second.read_mappings() == {1 << 61 | 1: bytes(32)}


def test_replaces_without_a_gap(make: Make) -> None:
    """While programs are replaced over and over, every packet of a stream meets one of them."""
    datapath = _attached(make)
    refused = from_fabric(ila(A, THERE))
    sent = 0
    stop = threading.Event()

    def send() -> None:
        nonlocal sent
        while not stop.is_set():
            for _ in range(20):
                sent += bool(wire.send(refused))
            time.sleep(0.0005)

    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind(("under-end", 0))
        sender = threading.Thread(target=send)
        sender.start()
        for turn in range(40):
            datapath.load(HOST_ROUTING if turn % 2 == 0 else SETTINGS)
        stop.set()
        sender.join()
    time.sleep(0.1)
    counts = {(count.hook, count.verdict): count.packets for count in datapath.verdicts()}
    assert sent > 1000
    assert counts["from_wire", "foreign_locator"] == sent


def test_vlan_tags(make: Make) -> None:
    """A pod's frame with a VLAN's tag never reaches that VLAN of the underlay; a priority tag goes to the stack."""
    datapath = _attached(make)
    datapath.load(HOST_ROUTING)
    entry = EndpointEntry(interface_index=POD_A, pod_mac=bytes(6), host_mac=bytes(6))
    datapath.write_endpoint(int(A), entry)
    address = DOMAIN.ila_address(REMOTE, THERE).packed
    datapath.write_mappings([int(REMOTE)], [pack_mapping(address, 1, 1)])
    plain = from_a(sir(REMOTE))
    for vlan, verdict in ((5, "not_ipv6"), (0, "to_stack")):
        tagged = plain[:12] + b"\x81\0" + vlan.to_bytes(2, "big") + plain[12:]
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as pod:
            pod.bind(("host-a-end", 0))
            pod.send(tagged)
        deadline = time.monotonic() + 5
        while not any(one.verdict == verdict and one.packets for one in datapath.verdicts()):
            assert time.monotonic() < deadline, f"VLAN {vlan}: no {verdict}"
            time.sleep(0.01)
    assert not any(one.verdict == "forwarded" and one.packets for one in datapath.verdicts())


def test_attaching_repeats(make: Make, bpffs: Path) -> None:
    """Attaching again changes nothing; detaching twice, or what never was attached, is no error."""
    datapath = _attached(make)
    before = _ids(datapath)
    datapath.attach_underlay(UNDERLAY, edge=False)
    datapath.attach_pod(POD_A, limited=False)
    assert _ids(datapath) == before
    datapath.detach(POD_A)
    datapath.detach(POD_A)
    datapath.detach(4711)
    assert datapath.attached() == {UNDERLAY: "inside"}
    assert not list((bpffs / "ilanet" / "links").glob(f"{POD_A}-*"))


def test_inside_becomes_edge(make: Make) -> None:
    """An underlay device changes its role in place, and a pod's device has nothing on egress."""
    datapath = _attached(make)
    datapath.attach_underlay(UNDERLAY, edge=True)
    assert datapath.attached() == {UNDERLAY: "edge", POD_A: "pod"}
    datapath.attach_pod(UNDERLAY, limited=False)
    assert datapath.attached() == {UNDERLAY: "pod", POD_A: "pod"}


def test_half_attached_is_not_attached(make: Make) -> None:
    """A device that has only one of its programs is not reported."""
    datapath = _attached(make)
    datapath._links.remove((UNDERLAY, Direction.EGRESS))
    assert datapath.attached() == {POD_A: "pod"}


def test_device_goes(make: Make, bpffs: Path) -> None:
    """A device that is gone can be detached, and leaves no pin once somebody has asked what is attached."""
    datapath = _attached(make)
    for index, name in ((900, "gone"), (901, "lost")):
        subprocess.run(f"ip link add {name} index {index} type veth peer name {name}-end".split(), check=True)
        datapath.attach_underlay(index, edge=False)
    assert datapath.attached() == {**ROLES, 900: "inside", 901: "inside"}
    for name in ("gone", "lost"):
        subprocess.run(["ip", "link", "del", name], check=True)
    datapath.detach(900)
    links = bpffs / "ilanet" / "links"
    assert not list(links.glob("900-*"))
    assert list(links.glob("901-*"))
    assert datapath.attached() == ROLES
    assert not list(links.glob("901-*"))
    datapath.detach(901)
    with pytest.raises(DatapathError, match="interface 900"):
        datapath.attach_pod(900, limited=False)


def test_device_index_is_used_again(make: Make) -> None:
    """A new device with the index of one that is gone is attached afresh."""
    datapath = _attached(make)
    for _ in range(2):
        subprocess.run(
            ["ip", "link", "add", "again", "index", "902", "type", "veth", "peer", "name", "again-end"], check=True
        )
        assert 902 not in datapath.attached()
        datapath.attach_pod(902, limited=False)
        assert datapath.attached()[902] == "pod"
        subprocess.run(["ip", "link", "del", "again"], check=True)


def test_unload_leaves_nothing_of_ours(make: Make, bpffs: Path, compiled: Callable[[str], Path]) -> None:
    """Unloading, by an agent that loaded nothing, removes programs and pins; others' filters stay."""
    _attached(make)
    hook = TcHook(ifindex=UNDERLAY, attach_point=1)
    with contextlib.suppress(BpfError):  # clsact is there where our own filters use it
        call("bpf_tc_hook_create", hook, what="make a clsact qdisc")
    with ObjectFile(compiled("binding")) as opened:
        opened.load()
        others = TcOptions(prog_fd=opened.programs()["give_answer"], handle=1, priority=7)
        call("bpf_tc_attach", hook, others, what="attach a filter of others")
    try:
        make().unload()
        assert not (bpffs / "ilanet").exists()
        shown = _shown("bpftool", "net", "show")
        assert "from_" not in shown
        assert "to_wire" not in shown
        assert "give_answer" in shown
        make().unload()
    finally:
        call("bpf_tc_hook_destroy", TcHook(ifindex=UNDERLAY, attach_point=3), what="remove the qdisc")


def _shown(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_unload_removes_a_qdisc_of_ours(make: Make) -> None:
    """A clsact qdisc that we made goes with the last of our filters; one that was there stays."""
    subprocess.run(["tc", "qdisc", "add", "dev", "host-a", "clsact"], check=True)
    try:
        datapath = _attached(make)
        datapath.detach(UNDERLAY)
        assert "clsact" not in _shown("tc", "qdisc", "show", "dev", "under")
        datapath.unload()
        assert "clsact" in _shown("tc", "qdisc", "show", "dev", "host-a")
    finally:
        subprocess.run(["tc", "qdisc", "del", "dev", "host-a", "clsact"], check=True)


def test_lost_map_pin(make: Make, bpffs: Path) -> None:
    """If pinned maps are missing (a load killed half way, a hand that slipped), all is loaded anew."""
    datapath = _attached(make)
    (bpffs / "ilanet" / "maps" / "nodes").unlink()
    datapath.load(SETTINGS)
    _check_whole(datapath, bpffs)


def test_bpffs_unmounted_under_an_agent(make: Make, bpffs: Path) -> None:
    """Programs stay attached while the pins are away; in a new bpffs they are pinned again, with the same maps."""
    datapath = _attached(make)
    value = pack_mapping(bytes(range(16)), 1, 1)
    datapath.write_mappings([A.value], [value])
    before = _ids(datapath)
    datapath.check()
    subprocess.run(["umount", bpffs], check=True)
    for work in (datapath.check, lambda: datapath.load(SETTINGS)):
        with pytest.raises(DatapathError, match="no bpffs"):
            work()
    subprocess.run(["mount", "-t", "bpf", "bpf", bpffs], check=True)
    datapath.load(SETTINGS)
    datapath.check()
    assert _ids(datapath) == before
    _check_whole(datapath, bpffs)
    next_agent = make()
    with pytest.raises(DatapathError, match="no program is loaded"):
        next_agent.check()
    next_agent.load(SETTINGS)
    assert _ids(next_agent) == before
    assert next_agent.read_mappings() == {A.value: value}


def test_bpffs_unmounted_without_an_agent(make: Make, bpffs: Path) -> None:
    """Filters outlive their marks: the next agent knows them for ours, puts its programs there and removes them."""
    datapath = _attached(make)
    del datapath
    gc.collect()
    subprocess.run(["umount", bpffs], check=True)
    subprocess.run(["mount", "-t", "bpf", "bpf", bpffs], check=True)
    datapath = _attached(make)
    _check_whole(datapath, bpffs)
    datapath.unload()
    assert _shown("tc", "filter", "show", "dev", "host-a", "ingress") == ""


def test_replaced_map_pin(make: Make, bpffs: Path) -> None:
    """Pinned programs that use other maps than the pinned ones are not adopted."""
    datapath = _attached(make)
    with ObjectFile(OBJECT) as opened:
        opened.load()
        with Map(os.dup(opened.maps()["nodes"]), "nodes") as other:
            (bpffs / "ilanet" / "maps" / "nodes").unlink()
            other.pin(bpffs / "ilanet" / "maps" / "nodes")
    datapath.load(SETTINGS)
    _check_whole(datapath, bpffs)


def test_map_of_another_version(make: Make, bpffs: Path, compiled: Callable[[str], Path]) -> None:
    """A pinned map of another shape is refused by name, and what runs goes on."""
    datapath = _attached(make)
    before = _ids(datapath)
    pin = bpffs / "ilanet" / "maps" / "mappings"
    with ObjectFile(compiled("binding")) as opened:
        opened.load()
        with Map(os.dup(opened.maps()["table"]), "table") as other:
            pin.unlink()
            other.pin(pin)
    with pytest.raises(DatapathError, match=re.escape(str(pin))):
        make().load(HOST_ROUTING)
    assert _ids(datapath) == before


def test_not_a_bpffs(tmp_path: Path) -> None:
    """A pin directory elsewhere is refused with the command that mounts one."""
    datapath = BpfDatapath(object_path=OBJECT, pin_directory=tmp_path / "ilanet")
    with pytest.raises(DatapathError, match="mount -t bpf"):
        datapath.load(SETTINGS)
    with pytest.raises(DatapathError, match="not loaded"):
        datapath.read_mappings()
    assert not list(tmp_path.iterdir())


def test_finds_out_about_tcx(bpffs: Path) -> None:
    """On a kernel with tcx links (6.6), a datapath that is not told uses them."""
    datapath = BpfDatapath(object_path=OBJECT, pin_directory=bpffs / "found-out")
    try:
        datapath.load(SETTINGS)
        assert datapath._tcx is True
    finally:
        datapath.unload()


def test_ways_are_mixed(bpffs: Path) -> None:
    """A pod without a limit has a filter, one with a limit a link; either is replaced, kept and removed in its way."""
    pins = bpffs / "mixed"
    try:
        datapath = _attached(lambda: BpfDatapath(object_path=OBJECT, pin_directory=pins, tcx=True))
        assert datapath.limits
        assert (pins / "links" / f"{POD_A}-ingress").is_dir()
        assert (pins / "links" / f"{UNDERLAY}-ingress").is_file()
        datapath.attach_pod(POD_A, limited=True)
        assert (pins / "links" / f"{POD_A}-ingress").is_dir()
        datapath.detach(POD_A)
        datapath.attach_pod(POD_A, limited=True)
        assert (pins / "links" / f"{POD_A}-ingress").is_file()
        datapath.load(HOST_ROUTING)
        assert datapath.attached() == ROLES
    finally:
        BpfDatapath(object_path=OBJECT, pin_directory=pins).unload()
    assert not pins.exists()


def test_a_limit_needs_tcx(bpffs: Path) -> None:
    """Without it a pod with a limit is attached like the others, and the datapath says that limits do not work."""
    datapath = BpfDatapath(object_path=OBJECT, pin_directory=bpffs / "old", tcx=False)
    try:
        datapath.load(SETTINGS)
        assert not datapath.limits
        datapath.attach_pod(POD_A, limited=True)
        assert datapath.attached() == {POD_A: "pod"}
    finally:
        datapath.unload()


def test_too_many_ports(make: Make) -> None:
    """More closed ports than the programs have room for are refused before anything is changed."""
    datapath = _attached(make)
    before = _ids(datapath)
    with pytest.raises(DatapathError, match="closed_ports"):
        make().load(replace(SETTINGS, closed_ports=tuple(range(1, 18))))
    assert _ids(datapath) == before


def test_endpoints_and_nodes(make: Make) -> None:
    """Endpoints and nodes are read back as written; deleting what is absent is no error."""
    datapath = _attached(make)
    entry = EndpointEntry(interface_index=POD_A, pod_mac=bytes(range(6)), host_mac=bytes(range(6, 12)))
    datapath.write_endpoint(int(A), entry)
    assert datapath.read_endpoints() == {int(A): entry}
    datapath.delete_endpoint(int(A))
    datapath.delete_endpoint(int(A))
    assert datapath.read_endpoints() == {}
    with pytest.raises(DatapathError, match="has 5 bytes"):
        datapath.write_endpoint(int(A), replace(entry, pod_mac=bytes(5)))
    with pytest.raises(DatapathError, match="0x1 has 31 bytes"):
        datapath.write_mappings([1], [bytes(31)])
    with pytest.raises(DatapathError, match="1 identifiers for 2"):
        datapath.write_mappings([1], [bytes(32), bytes(32)])


_READS = {"bpf_obj_get", "bpf_obj_get_info_by_fd", "bpf_prog_get_fd_by_id", "bpf_tc_query"}
_CHANGES = {"mkdir", "rename", "rmdir", "unlink"}


def _killed_at(step: int, work: Callable[[], object]) -> bool:
    """Do the work in a process that kills itself before its n-th change; tell whether it came so far.

    A change is a call of libbpf other than those that read, or of the system that changes the bpffs.
    """
    child = os.fork()
    if not child:
        changes = 0

        def watch(frame: FrameType, event: str, argument: Any) -> None:
            nonlocal changes
            if event == "c_call":
                changing = argument.__name__ in _CHANGES
            else:
                ours = event == "call" and frame.f_code is libbpf.call.__code__
                changing = ours and frame.f_locals["function"] not in _READS
            changes += changing
            if changes == step:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(watch)
        with contextlib.suppress(BaseException):
            work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_killed_while_replacing(make: Make, bpffs: Path) -> None:
    """Killed before any change of a load that replaces, every device keeps its programs; the next load completes."""
    datapath = _attached(make)
    step, killed = 1, True
    while killed:
        settings = HOST_ROUTING if step % 2 else SETTINGS
        killed = _killed_at(step, partial(_load, make, settings))
        assert _ids(datapath).keys() == PLACES
        datapath.load(settings)
        _check_whole(datapath, bpffs)
        assert datapath.attached() == ROLES
        step += 1
    assert step > 15


def _load(make: Make, settings: DatapathSettings) -> None:
    make().load(settings)


def test_killed_while_starting(make: Make, bpffs: Path) -> None:
    """Killed before any change of the first load and of attaching, the next attempt completes."""
    step = 1
    while _killed_at(step, partial(_attached, make)):
        datapath = _attached(make)
        _check_whole(datapath, bpffs)
        assert datapath.attached() == ROLES
        datapath.unload()
        assert not (bpffs / "ilanet").exists()
        step += 1
    assert step > 20


@pytest.mark.parametrize("attaching", [True, False], ids=["attaching", "detaching"])
def test_killed_before_the_device_goes(make: Make, bpffs: Path, *, attaching: bool) -> None:
    """Killed before any change of attaching or detaching a pod, nothing stays of it once its device is gone."""
    datapath = _attached(make)
    there = set((bpffs / "ilanet" / "links").iterdir())

    def work() -> None:
        again = make()
        again.load(SETTINGS)
        if attaching:
            again.attach_pod(903, limited=False)
        else:
            again.detach(903)

    step, killed = 1, True
    while killed:
        pair = ["type", "veth", "peer", "name", "brief-end"]
        subprocess.run(["ip", "link", "add", "brief", "index", "903", *pair], check=True)
        if not attaching:
            datapath.attach_pod(903, limited=False)
        killed = _killed_at(step, work)
        subprocess.run(["ip", "link", "del", "brief"], check=True)
        datapath.attached()
        assert set((bpffs / "ilanet" / "links").iterdir()) == there
        step += 1
    assert step > 3


def test_killed_while_unloading(make: Make, bpffs: Path) -> None:
    """Killed before any change of unloading, another attempt removes the rest."""
    step, killed = 1, True
    while killed:
        _attached(make)
        killed = _killed_at(step, lambda: make().unload())
        make().unload()
        assert not (bpffs / "ilanet").exists()
        step += 1
    assert step > 10
