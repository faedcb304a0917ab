# SPDX-License-Identifier: Apache-2.0
"""A host without traffic: a namespace with an underlay device and two pods' devices, and packets for its programs."""

from __future__ import annotations

import ctypes
import ipaddress
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from agent.core.datapath import DatapathSettings, EndpointEntry, HostPath, VerdictCount, pack_mapping
from agent.kernel.datapath import BpfDatapath
from ila.address import ChecksumMode, Identifier, Locator
from ila.domain import Domain

OBJECT = Path(__file__).parents[2] / "build" / "ilanet.bpf.o"

UNDERLAY, POD_A, POD_B = 10, 11, 12
UNDERLAY_MAC, FABRIC_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
HOST_A_MAC, POD_A_MAC = "02:00:00:00:0a:01", "02:00:00:00:0a:02"
HOST_B_MAC, POD_B_MAC = "02:00:00:00:0b:01", "02:00:00:00:0b:02"

DOMAIN = Domain.parse(
    sir_prefix="fd00:10:244::/64",
    locator_space=["fd00:c0de::/48", "fd00:c0df:1200::/40"],
    checksum_mode="neutral-map",
)
AUTO = replace(DOMAIN, checksum_mode=ChecksumMode.NEUTRAL_MAP_AUTO)
HERE = Locator.parse("fd00:c0de:0:17::/64")
THERE = Locator.parse("fd00:c0df:1234:18::/64")

A = Identifier.parse("2000:0:a:1")
B = Identifier.parse("2000:0:a:2")
REMOTE = Identifier.parse("2000:0:b:1")
BY_STACK = Identifier.parse("2000:0:a:3")
"""At pod B's device too: a pod that takes the stack both ways."""

UNWIRED = Identifier.parse("2000:0:b:2")
UNKNOWN = Identifier.parse("2000:0:c:1")

NODE = "fd00:a::1"
OUTSIDE = "2001:db8::53"
CLOSED, OPEN = 7443, 443
MARK = 0x00410000

SETTINGS = DatapathSettings(
    domain=DOMAIN,
    locator=HERE,
    host_path=HostPath.STACK,
    gateway=ipaddress.IPv6Address("fe80::ffff"),
    underlay_index=UNDERLAY,
    closed_ports=(2379, CLOSED),
    reject_mark=MARK,
)
HOST_ROUTING = replace(SETTINGS, host_path=HostPath.BPF)

CHECKSUM_COMPLETE = 1 << 2
"""BPF_F_TEST_SKB_CHECKSUM_COMPLETE: the kernel says EBADMSG if the program broke the sum."""

_CONTEXT_SIZE = 192
_CONTEXT_FIELDS = {"mark": 8, "ifindex": 40, "gso_segs": 164, "gso_size": 176}


def sir(identifier: Identifier | str) -> str:
    """Return the SIR address of an identifier, or of four groups that no identifier has."""
    return str(ipaddress.IPv6Address(f"fd00:10:244:0:{identifier}"))


def ila(identifier: Identifier, locator: Locator = HERE, domain: Domain = DOMAIN) -> str:
    """Return the ILA address of an identifier."""
    return str(domain.ila_address(identifier, locator))


def udp(port: int = OPEN, size: int = 32) -> Packet:
    """Return a UDP datagram with a payload."""
    return UDP(sport=40000, dport=port) / Raw(bytes(range(256)) * (size // 256) + bytes(range(size % 256)))


def from_a(destination: str, payload: Packet | None = None, *, source: str = sir(A), **ip: Any) -> bytes:
    """Return a frame as pod A sends it."""
    return frame(POD_A_MAC, HOST_A_MAC, source, destination, payload, **ip)


def from_fabric(destination: str, payload: Packet | None = None, *, source: str = sir(REMOTE), **ip: Any) -> bytes:
    """Return a frame as the underlay device receives it."""
    return frame(FABRIC_MAC, UNDERLAY_MAC, source, destination, payload, **ip)


def to_fabric(destination: str, payload: Packet | None = None, *, source: str = sir(A), **ip: Any) -> bytes:
    """Return a frame as it is about to leave by the underlay device."""
    return frame(UNDERLAY_MAC, FABRIC_MAC, source, destination, payload, **ip)


def frame(
    source_mac: str,
    destination_mac: str,
    source: str,
    destination: str,
    payload: Packet | None = None,
    **ip: Any,
) -> bytes:
    """Return the bytes of an Ethernet frame with an IPv6 packet and right checksums."""
    header = IPv6(src=source, dst=destination, **{"hlim": 64, **ip})
    return bytes(Ether(src=source_mac, dst=destination_mac) / header / (udp() if payload is None else payload))


def changed(
    before: bytes,
    *,
    destination: str | None = None,
    hop_limit: int | None = None,
    macs: tuple[str, str] | None = None,
) -> bytes:
    """Return a frame with these bytes of it replaced and no other: macs are destination and source."""
    after = bytearray(before)
    if macs:
        after[:12] = bytes.fromhex("".join(macs).replace(":", ""))
    if hop_limit is not None:
        after[21] = hop_limit
    if destination:
        after[38:54] = ipaddress.IPv6Address(destination).packed
    return bytes(after)


def ping() -> Packet:
    """Return an echo request."""
    return ICMPv6EchoRequest(id=7, seq=1, data=b"abcdefgh")


def tcp(port: int = OPEN) -> Packet:
    """Return a TCP segment."""
    return TCP(sport=40000, dport=port, flags="PA") / Raw(b"hello")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a program did with a frame."""

    code: int
    frame: bytes
    mark: int
    counted: list[tuple[str, str, int, int]]
    """Hook, verdict, packets and bytes of every counter that moved."""


class Host:
    """Programs loaded with some settings, their maps filled with what every test knows."""

    def __init__(self, settings: DatapathSettings, pins: Path) -> None:
        self.datapath = BpfDatapath(object_path=OBJECT, pin_directory=pins)
        self.datapath.load(settings)
        self.domain = settings.domain
        self.locator = settings.locator
        self.add_endpoint(A, POD_A, POD_A_MAC, HOST_A_MAC)
        self.add_endpoint(B, POD_B, POD_B_MAC, HOST_B_MAC)
        self.add_endpoint(BY_STACK, POD_B, POD_B_MAC, HOST_B_MAC, by_stack=True)
        for identifier, locator in (
            (A, self.locator),
            (B, self.locator),
            (BY_STACK, self.locator),
            (UNWIRED, self.locator),
            (REMOTE, THERE),
        ):
            self.add_mapping(identifier, locator)
        self.datapath.write_nodes([ipaddress.IPv6Address(NODE)], [])
        self.datapath.set_complete(complete=True)

    def add_endpoint(
        self, identifier: Identifier, index: int, pod_mac: str, host_mac: str, *, by_stack: bool = False
    ) -> None:
        """Wire an endpoint."""
        macs = (bytes.fromhex(mac.replace(":", "")) for mac in (pod_mac, host_mac))
        pod, host = macs
        entry = EndpointEntry(interface_index=index, pod_mac=pod, host_mac=host, by_stack=by_stack)
        self.datapath.write_endpoint(int(identifier), entry)

    def add_mapping(self, identifier: Identifier, locator: Locator) -> None:
        """Map an identifier."""
        address = self.domain.ila_address(identifier, locator).packed
        self.datapath.write_mappings([int(identifier)], [pack_mapping(address, 1, 1)])

    def run(self, program: str, frame: bytes, *, index: int, flags: int = 0, **context: int) -> Outcome:
        """Run a program on a frame; context holds fields of struct __sk_buff."""
        raw = bytearray(_CONTEXT_SIZE)
        for name, value in {**context, "ifindex": index}.items():
            at = _CONTEXT_FIELDS[name]
            raw[at : at + 4] = value.to_bytes(4, "little")
        before = self._counts()
        result = self.datapath._programs[program].run(frame, context=bytes(raw), flags=flags)
        after = self._counts()
        counted = [
            (now.hook, now.verdict, now.packets - then.packets, now.bytes - then.bytes)
            for then, now in zip(before, after, strict=True)
            if now != then
        ]
        mark = int.from_bytes(result.context[8:12], "little")
        return Outcome(result.code, result.frame, mark, counted)

    def _counts(self) -> list[VerdictCount]:
        return self.datapath.verdicts()


class World:
    """The hosts of a test session by their settings: each is loaded once."""

    def __init__(self, bpffs: Path) -> None:
        self._bpffs = bpffs
        self._hosts: dict[DatapathSettings, Host] = {}

    def host(self, settings: DatapathSettings = SETTINGS) -> Host:
        """Return the host with these settings."""
        if settings not in self._hosts:
            self._hosts[settings] = Host(settings, self._bpffs / str(len(self._hosts)))
        return self._hosts[settings]


@contextmanager
def own_namespace() -> Iterator[None]:
    """Let this thread have a network namespace of its own, without a name, meanwhile."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.unshare(0x40000000):  # CLONE_NEWNET
            raise OSError(ctypes.get_errno(), "unshare")
        try:
            yield
        finally:
            if libc.setns(home, 0):
                raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(home)


@contextmanager
def mounted_bpffs() -> Iterator[Path]:
    """Mount a bpffs of our own."""
    folder = Path(tempfile.mkdtemp(prefix="ilb-"))
    try:
        subprocess.run(["mount", "-t", "bpf", "bpf", folder], check=True)
        try:
            yield folder
        finally:
            subprocess.run(["umount", folder], check=True)
    finally:
        folder.rmdir()


def make_devices() -> None:
    """Make the devices in the present namespace: indexes and MAC addresses are those above.

    Their kernel says nothing of its own (router solicitations, multicast reports): programs that are attached
    would count it beside a test's packet.
    """
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    for index, name, mac, peer_mac in (
        (UNDERLAY, "under", UNDERLAY_MAC, FABRIC_MAC),
        (POD_A, "host-a", HOST_A_MAC, POD_A_MAC),
        (POD_B, "host-b", HOST_B_MAC, POD_B_MAC),
    ):
        command = f"ip link add {name} index {index} address {mac} type veth peer name {name}-end address {peer_mac}"
        subprocess.run(command.split(), check=True)
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        subprocess.run(["ip", "link", "set", f"{name}-end", "up"], check=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A named packet pair: what a program gets, and what it must make of it."""

    name: str
    """Begins with the rows of the test matrix that it shows (reference/ila.md section 2.6)."""

    program: str
    index: int
    frame: bytes
    verdict: str
    after: bytes | None = None
    """None: the same bytes."""

    settings: DatapathSettings = SETTINGS
    marked: bool = False
    complete: bool = True
    gso: tuple[int, int] = (0, 0)
    """Segments and their size."""

    def __str__(self) -> str:
        return f"{self.program}-{self.name}"
