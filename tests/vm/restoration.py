# SPDX-License-Identifier: Apache-2.0
"""The same ILA packets restored by Linux's ILA and by from_wire, as they go on to a pod; used inside the guest.

They come to both hosts of tests/vm/translation.py from the wire; each routes what it made of them to a second device.
"""

from __future__ import annotations

import ipaddress
import random
import socket
from dataclasses import dataclass

from agent.core.datapath import EndpointEntry
from ila.address import C_BIT, LUID, ChecksumMode, Identifier, Locator
from ila.domain import Domain
from lab.namespace import Namespace, cable
from tests.vm.linux_host import receive
from tests.vm.traffic import packet
from tests.vm.translation import (
    EACH,
    GATEWAY,
    GROUPS,
    LOW_WORDS,
    NOBODY,
    PREFIXES,
    SEED,
    Bench,
    bench,
    cases,
    inside,
    seen_by,
)

LOCATORS = 2
"""In a group; our programs are loaded anew for each."""

_SENDER = "2001:db8:ffff::2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """An ILA address at one of its group's locators."""

    domain: Domain
    locator: Locator
    ila: ipaddress.IPv6Address

    @property
    def identifier(self) -> Identifier:
        """Who it names, by ila.address."""
        return self.domain.identifier(self.ila)

    def packet(self, number: int) -> bytes:
        """Return a numbered datagram to it; its checksum holds for the SIR address as well."""
        return packet(_SENDER, str(self.ila), number.to_bytes(4, "big"), [])


def arrivals(group: str) -> list[Arrival]:
    """Return the group's addresses: the same ones whenever it is asked.

    The low words that are likely to go wrong are those of the first addresses, then those of who the next ones name;
    the others are random.
    """
    domain = cases(group)[0].domain
    _, _, _, where = group.split()
    rng = random.Random(f"{SEED} {group} arriving")  # noqa: S311 - the same addresses every time
    locators = [Locator(PREFIXES[where] | rng.getrandbits(31)) for _ in range(LOCATORS)]
    flag = C_BIT if domain.checksum_mode is ChecksumMode.NEUTRAL_MAP else 0
    lows = [*LOW_WORDS, *LOW_WORDS, *(rng.randrange(1, 0x10000) for _ in range(EACH - 2 * len(LOW_WORDS)))]
    found = []
    for number, low in enumerate(lows):
        locator = locators[number % LOCATORS]
        identifier = LUID << 61 | rng.getrandbits(44) << 16 | low
        ila = ipaddress.IPv6Address(int(locator) << 64 | identifier | flag)
        if len(LOW_WORDS) <= number < 2 * len(LOW_WORDS):
            ila = domain.ila_address(Identifier(identifier), locator)
        found.append(Arrival(domain=domain, locator=locator, ila=ila))
    return found


def recorded() -> dict[str, list[dict[str, str]]]:
    """Have every address restored in both ways; return it and both packets (hex), by group."""
    with bench() as made:
        for host in (made.linux, made.bpf):
            cable((host, "inner"), (made.wire, _inner(host)))
            host.sysctl(net__ipv6__conf__all__forwarding=1)
            host.ip("neigh", "replace", GATEWAY, "lladdr", NOBODY, "dev", "inner", "nud", "permanent")
        return {group: _restored(made, arrivals(group)) for group in GROUPS}


def _inner(host: Namespace) -> str:
    """Return the other end of a host's second device."""
    return f"{host.name}-in"


def _restored(made: Bench, group: list[Arrival]) -> list[dict[str, str]]:
    """Send a datagram to each address in both ways."""
    domain = group[0].domain
    for host in (made.linux, made.bpf):
        host.ip("route", "replace", str(domain.sir_prefix), "via", GATEWAY, "dev", "inner")
    found: dict[Arrival, dict[str, str]] = {}
    for locator in dict.fromkeys(arrival.locator for arrival in group):
        here = [arrival for arrival in group if arrival.locator == locator]
        made.linux.run("ip", "ila", "add", *receive(locator, domain).split())
        made.load(domain, locator)
        index = inside(made.bpf, lambda: socket.if_nametoindex("inner"))
        entry = EndpointEntry(interface_index=index, pod_mac=bytes(6), host_mac=bytes(6))
        for arrival in here:
            made.datapath.write_endpoint(int(arrival.identifier), entry)
        by_linux, by_bpf = (_arrived(made.wire, host, here) for host in (made.linux, made.bpf))
        for arrival, one, other in zip(here, by_linux, by_bpf, strict=True):
            found[arrival] = {"ila": str(arrival.ila), "linux": one.hex(), "bpf": other.hex()}
    return [found[arrival] for arrival in group]


def _arrived(wire: Namespace, host: Namespace, group: list[Arrival]) -> list[bytes]:
    """Send to a host from the wire, and return the packets as the host sent them on, in the group's order."""
    header = host.mac("under") + wire.mac(host.name) + b"\x86\xdd"

    def make() -> socket.socket:
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        raw.bind((host.name, 0))
        return raw

    def send() -> None:
        with inside(wire, make) as raw:
            for number, arrival in enumerate(group):
                raw.send(header + arrival.packet(number))

    return seen_by((wire, _inner(host)), send, len(group))
