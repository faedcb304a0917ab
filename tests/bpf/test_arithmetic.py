# SPDX-License-Identifier: Apache-2.0
"""The programs' arithmetic against ila/address.py and the vectors of reference/ila.md section 5."""

from __future__ import annotations

import ipaddress
import random
from dataclasses import dataclass, replace

import pytest
from scapy.layers.inet6 import ICMPv6TimeExceeded, IPv6

from ila.address import ChecksumMode, Identifier, Locator, to_ila
from ila.domain import Domain
from tests.bpf.world import (
    AUTO,
    DOMAIN,
    NODE,
    OUTSIDE,
    POD_A,
    SETTINGS,
    UNDERLAY,
    World,
    changed,
    from_fabric,
    ila,
    sir,
    tcp,
    to_fabric,
    udp,
)

SEED = 20180305
ROUNDS = 150
LOW_WORDS = (1, 2, 0x0FFF, 0x1000, 0xEFFF, 0xF000, 0xFFFE, 0xFFFF)
ELSEWHERE = Locator.parse("fd00:c0de:ffff::/64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """One row of the table; ila is empty where translation must refuse."""

    name: str
    mode: str
    sir_address: str
    locator: str
    ila: str = ""
    refused: str = ""


VECTORS = [
    Vector(
        name="V1",
        mode="neutral-map",
        sir_address="3333:0:0:1:2000:0:1:87",
        locator="2001:0:87:0::/64",
        ila="2001:0:87:0:3000:0:1:333",
    ),
    Vector(
        name="V2",
        mode="neutral-map-auto",
        sir_address="3333:0:0:1:2000:0:2:87",
        locator="2001:0:87:1::/64",
        ila="2001:0:87:1:2000:0:2:1332",
    ),
    Vector(
        name="V3",
        mode="neutral-map-auto",
        sir_address="3333:0:0:1::c078",
        locator="fd00:10:244:1::/64",
        refused="identifier_type",
    ),
    Vector(
        name="V4",
        mode="neutral-map",
        sir_address="fd00:10:244:0:2000:0:a:1",
        locator="fd00:c0de:0:17::/64",
        ila="fd00:c0de:0:17:3000:0:a:315f",
    ),
    Vector(
        name="V5",
        mode="neutral-map-auto",
        sir_address="fd00:10:244:0:2000:0:a:ffff",
        locator="fd00:c0de:0:17::/64",
        ila="fd00:c0de:0:17:2000:0:a:415e",
    ),
    Vector(
        name="V6",
        mode="neutral-map",
        sir_address="2001:db8:0:f:2fff:ffff:ffff:efff",
        locator="2001:db8:ffff:fffe::/64",
        ila="2001:db8:ffff:fffe:3fff:ffff:ffff:e00f",
    ),
    Vector(
        name="N1",
        mode="neutral-map-auto",
        sir_address="fd00:10:244:0:2000:0:a:0",
        locator="fd00:c0de:0:17::/64",
        refused="zero_low_bits",
    ),
    Vector(
        name="N2",
        mode="neutral-map",
        sir_address="fd00:10:244:0:2000:0:a:0",
        locator="fd00:c0de:0:17::/64",
        refused="zero_low_bits",
    ),
    Vector(
        name="N3",
        mode="neutral-map",
        sir_address="2001:db8:0:f:3fff:ffff:ffff:efff",
        locator="2001:db8:ffff:fffe::/64",
        refused="c_bit",
    ),
]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_vector(world: World, vector: Vector) -> None:
    """A vector's SIR address becomes its ILA address on the way out and comes back on the way in."""
    prefix = ipaddress.IPv6Network((vector.sir_address, 64), strict=False)
    domain = Domain.parse(
        sir_prefix=str(prefix),
        locator_space=[vector.locator, str(ELSEWHERE.network)],
        checksum_mode=vector.mode,
    )
    locator = Locator.parse(vector.locator)
    sender = world.host(replace(SETTINGS, domain=domain, locator=ELSEWHERE))
    receiver = world.host(replace(SETTINGS, domain=domain, locator=locator))
    outward = to_fabric(vector.sir_address, tcp(), source=OUTSIDE)
    if vector.refused:
        refused = sender.run("to_wire", outward, index=UNDERLAY)
        assert [verdict for _, verdict, _, _ in refused.counted] == [vector.refused]
        return
    identifier = Identifier(int(ipaddress.IPv6Address(vector.sir_address)) & (1 << 64) - 1)
    sender.add_mapping(identifier, locator)
    receiver.add_endpoint(identifier, POD_A, "02:00:00:00:00:0a", "02:00:00:00:00:0b")
    sent = sender.run("to_wire", outward, index=UNDERLAY)
    assert sent.frame == changed(outward, destination=vector.ila)
    assert sent.frame == to_fabric(vector.ila, tcp(), source=OUTSIDE), "the checksum fits the ILA address too"
    inward = from_fabric(vector.ila, tcp(), source=OUTSIDE)
    assert receiver.run("from_wire", inward, index=UNDERLAY).frame == changed(inward, destination=vector.sir_address)


def _random() -> random.Random:
    return random.Random(SEED)  # noqa: S311 - the same addresses every time


def _identifiers(rng: random.Random, number: int) -> list[Identifier]:
    upper = [1 << 61 | rng.getrandbits(60) & ~0xFFFF for _ in range(number)]
    return [
        Identifier(value | (LOW_WORDS[at] if at < len(LOW_WORDS) else rng.randrange(1, 0x10000)))
        for at, value in enumerate(upper)
    ]


def _locators(rng: random.Random, number: int) -> list[Locator]:
    return [Locator(0xFD00_C0DF_1200_0000 | rng.getrandbits(24)) for _ in range(number)]


@pytest.mark.parametrize("domain", [DOMAIN, AUTO], ids=lambda domain: domain.checksum_mode.value)
def test_restores_what_python_translates(world: World, domain: Domain) -> None:
    """At random locators, random addresses come back as the identifiers they were made of."""
    rng = _random()
    for locator in _locators(rng, 6):
        host = world.host(replace(SETTINGS, domain=domain, locator=locator))
        for identifier in _identifiers(rng, ROUNDS // 6):
            host.add_endpoint(identifier, POD_A, "02:00:00:00:00:0a", "02:00:00:00:00:0b")
            before = from_fabric(ila(identifier, locator, domain), udp())
            after = host.run("from_wire", before, index=UNDERLAY)
            assert after.counted[0][1] == "restored", f"seed {SEED}: {identifier} at {locator}"
            assert after.frame == changed(before, destination=sir(identifier))


@pytest.mark.parametrize("domain", [DOMAIN, AUTO], ids=lambda domain: domain.checksum_mode.value)
def test_quotes_of_any_locator(world: World, domain: Domain) -> None:
    """A quoted address of any locator in the space is undone as Python does it."""
    rng = _random()
    host = world.host(replace(SETTINGS, domain=domain))
    for identifier, locator in zip(_identifiers(rng, ROUNDS), _locators(rng, ROUNDS), strict=True):
        host.add_mapping(identifier, locator)
        quote = IPv6(src=NODE, dst=ila(identifier, locator, domain)) / udp()
        before = from_fabric(NODE, ICMPv6TimeExceeded() / quote, source=OUTSIDE)
        after = host.run("from_wire", before, index=UNDERLAY)
        assert after.counted[0][1] == "quote_restored", f"seed {SEED}: {identifier} at {locator}"
        assert ipaddress.IPv6Address(after.frame[86:102]) == ipaddress.IPv6Address(sir(identifier))


@pytest.mark.parametrize("domain", [DOMAIN, AUTO], ids=lambda domain: domain.checksum_mode.value)
def test_agrees_on_what_is_no_address(world: World, domain: Domain) -> None:
    """Of random lower halves, the program refuses those that Python refuses, and undoes the others alike."""
    rng = _random()
    host = world.host(replace(SETTINGS, domain=domain))
    refusals = {"no_c_bit", "c_bit", "identifier_type", "zero_low_bits"}
    restored = 0
    for _ in range(ROUNDS * 2):
        address = ipaddress.IPv6Address(int(host.locator) << 64 | rng.getrandbits(48) << 16 | rng.randrange(1, 0x10000))
        before = from_fabric(str(address), udp())
        after = host.run("from_wire", before, index=UNDERLAY)
        try:
            identifier = domain.identifier(address)
        except ValueError:
            assert after.counted[0][1] in refusals, f"seed {SEED}: {address}"
            continue
        restored += 1
        assert after.frame == changed(before, destination=sir(identifier)), f"seed {SEED}: {address}"
    assert restored > ROUNDS // 10


def test_translation_never_yields_zero_low_bits() -> None:
    """What the program refuses as an ILA address (low 16 bits zero), Python never makes."""
    rng = _random()
    for identifier, locator in zip(_identifiers(rng, 2000), _locators(rng, 2000), strict=True):
        for mode in ChecksumMode:
            made = to_ila(int(identifier), sir_prefix=int(DOMAIN.sir_prefix), locator=int(locator), mode=mode)
            assert made & 0xFFFF
