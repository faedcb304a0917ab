# SPDX-License-Identifier: Apache-2.0
"""The same datagrams translated by Linux's ILA and by to_wire, as they stand on the wire; used inside the guest.

Two namespaces send from one address to the same SIR addresses; a third sees what leaves either.
"""

from __future__ import annotations

import contextlib
import ipaddress
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

from agent.core.datapath import DatapathSettings, HostPath, pack_mapping
from agent.kernel.datapath import BpfDatapath
from agent.kernel.namespace import in_namespace
from ila.address import ChecksumMode, Identifier, Locator, SirPrefix
from ila.domain import Domain
from lab.capture import Capture
from lab.namespace import Namespace, cable
from tests.bpf.world import OBJECT, mounted_bpffs
from tests.vm.linux_host import route
from tests.vm.traffic import PATIENCE

T = TypeVar("T")

SEED = 20180305
EACH = 32
LOW_WORDS = (1, 0xFFFF, 2, 0x0FFF, 0x1000, 0xEFFF, 0xF000, 0xFFFE)
"""Where the low 16 bits of an identifier are likely to go wrong; the others are random."""

PREFIXES = {"gua": 0x2001_0DB8 << 32, "ula": 0xFD00_0000 << 32}
"""Upper 32 bits of a SIR prefix or locator; the lower are random."""

GROUPS = [f"{mode.value} {sir} to {locator}" for mode in ChecksumMode for sir in PREFIXES for locator in PREFIXES]

GATEWAY = "fe80::ffff"
NOBODY = "02:00:00:00:ff:ff"
"""The next hop of what leaves a namespace: nobody has this MAC address, but who listens sees the packet."""

_SOURCE = "2001:db8:ffff::1"
_PORT = 7000
_UDP = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One mapping of a domain of its own group."""

    domain: Domain
    identifier: Identifier
    locator: Locator

    @property
    def sir(self) -> str:
        """The SIR address."""
        return str(self.domain.sir_prefix.address(self.identifier))


def cases(group: str) -> list[Case]:
    """Return the group's cases: the same ones whenever it is asked."""
    mode, sir, _, locator = group.split()
    rng = random.Random(f"{SEED} {group}")  # noqa: S311 - the same addresses every time
    prefix = SirPrefix(PREFIXES[sir] | 1 << 31 | rng.getrandbits(31))
    space = ipaddress.IPv6Network((PREFIXES[locator] << 64, 33))
    domain = Domain(sir_prefix=prefix, locator_space=(space,), checksum_mode=ChecksumMode(mode))
    lows = [*LOW_WORDS, *(rng.randrange(1, 0x10000) for _ in range(EACH - len(LOW_WORDS)))]
    return [
        Case(
            domain=domain,
            identifier=Identifier(1 << 61 | rng.getrandbits(44) << 16 | low),
            locator=Locator(PREFIXES[locator] | rng.getrandbits(31)),
        )
        for low in lows
    ]


def recorded() -> dict[str, list[dict[str, str]]]:
    """Translate every case in both ways; return SIR address, locator and both packets (hex), by group."""
    with bench() as made:
        return {group: made.translate(cases(group)) for group in GROUPS}


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """Yield two hosts on the wire, and remove them."""
    with ExitStack() as stack:
        wire, linux, bpf = (Namespace.create(f"vm-{name}") for name in ("wire", "linux", "bpf"))
        for namespace in (wire, linux, bpf):
            stack.callback(namespace.close)
        for namespace in (linux, bpf):
            cable((namespace, "under"), (wire, namespace.name))
            namespace.run("ethtool", "-K", "under", "tx", "off")
            namespace.sysctl(net__ipv6__auto_flowlabels=0)
            namespace.ip("addr", "add", f"{_SOURCE}/128", "dev", "lo", "nodad")
            namespace.ip("neigh", "replace", GATEWAY, "lladdr", NOBODY, "dev", "under", "nud", "permanent")
        pins = stack.enter_context(mounted_bpffs())
        datapath = BpfDatapath(object_path=OBJECT, pin_directory=pins / "ilanet")
        stack.callback(lambda: inside(bpf, datapath.unload))
        yield Bench(wire=wire, linux=linux, bpf=bpf, datapath=datapath)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The hosts, and the namespace that has the other end of each one's underlay device, called like the host's."""

    wire: Namespace
    linux: Namespace
    bpf: Namespace
    datapath: BpfDatapath

    def translate(self, group: list[Case]) -> list[dict[str, str]]:
        """Send a datagram to each case's SIR address in both ways."""
        self._program_linux(group)
        self._program_bpf(group)
        by_linux, by_bpf = (self._sent(namespace, group) for namespace in (self.linux, self.bpf))
        return [
            {"sir": case.sir, "locator": str(case.locator), "linux": one.hex(), "bpf": other.hex()}
            for case, one, other in zip(group, by_linux, by_bpf, strict=True)
        ]

    def _program_linux(self, group: list[Case]) -> None:
        lines = (
            f"{route(case.sir, case.locator, case.domain.checksum_mode.value)} via {GATEWAY} dev under"
            for case in group
        )
        self.linux.run("ip", "-6", "-batch", "-", stdin="\n".join(lines) + "\n")

    def _program_bpf(self, group: list[Case]) -> None:
        domain = group[0].domain
        self.load(domain, Locator(int(group[0].locator) ^ 1 << 30))
        self.datapath.write_mappings(
            [int(case.identifier) for case in group],
            [pack_mapping(domain.ila_address(case.identifier, case.locator).packed, 1, 1) for case in group],
        )
        self.bpf.ip("route", "replace", str(domain.sir_prefix), "via", GATEWAY, "dev", "under")

    def load(self, domain: Domain, locator: Locator) -> None:
        """Attach our programs, as a host has them whose own locator this is."""
        index = inside(self.bpf, lambda: socket.if_nametoindex("under"))
        settings = DatapathSettings(
            domain=domain,
            locator=locator,
            host_path=HostPath.STACK,
            gateway=ipaddress.IPv6Address(GATEWAY),
            underlay_index=index,
            closed_ports=(),
            reject_mark=1,
        )
        inside(self.bpf, lambda: self.datapath.load(settings))
        inside(self.bpf, lambda: self.datapath.attach_underlay(index, edge=False))

    def _sent(self, namespace: Namespace, group: list[Case]) -> list[bytes]:
        """Send from a namespace, and return the packets as the wire saw them, in the group's order."""

        def send() -> None:
            with inside(namespace, _bound) as sender:
                for number, case in enumerate(group):
                    sender.sendto(number.to_bytes(4, "big"), (case.sir, _PORT))

        return seen_by((self.wire, namespace.name), send, len(group))


def seen_by(device: tuple[Namespace, str], send: Callable[[], None], count: int) -> list[bytes]:
    """Send `count` datagrams, and return them as a device received them, by the numbers that they carry."""
    capture = Capture.open(*device)
    found: dict[int, bytes] = {}
    try:
        send()
        while len(found) < count:
            seen = capture.first(lambda seen: not seen.outgoing and seen.protocol == _UDP, PATIENCE)
            found[int.from_bytes(seen.raw[48:52], "big")] = seen.raw
    finally:
        capture.close()
    return [found[number] for number in range(count)]


def _bound() -> socket.socket:
    made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    made.bind((_SOURCE, _PORT))
    return made


def inside(namespace: Namespace, work: Callable[[], T]) -> T:
    """Return what the work returns, done in a namespace."""
    with namespace.path.open("rb") as file:
        return in_namespace(file.fileno(), work)
