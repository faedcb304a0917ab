# SPDX-License-Identifier: Apache-2.0
"""Addresses: the vectors that Linux's own arithmetic gives, and what holds for every address."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ila.address import (
    C_BIT,
    ChecksumMode,
    Identifier,
    Locator,
    SirPrefix,
    checksum_difference,
    fold,
    outward_difference,
    to_identifier,
    to_ila,
)

MAP, AUTO = ChecksumMode.NEUTRAL_MAP, ChecksumMode.NEUTRAL_MAP_AUTO

VECTORS = {
    "V1": (MAP, "3333:0:0:1:2000:0:1:87", "2001:0:87:0", 0x12AC, "2001:0:87:0:3000:0:1:333"),
    "V2": (AUTO, "3333:0:0:1:2000:0:2:87", "2001:0:87:1", 0x12AB, "2001:0:87:1:2000:0:2:1332"),
    "V3": (AUTO, "3333:0:0:1::c078", "fd00:10:244:1", 0x33DE, "fd00:10:244:1::f456"),
    "V4": (MAP, "fd00:10:244:0:2000:0:a:1", "fd00:c0de:0:17", 0x415E, "fd00:c0de:0:17:3000:0:a:315f"),
    "V5": (AUTO, "fd00:10:244:0:2000:0:a:ffff", "fd00:c0de:0:17", 0x415E, "fd00:c0de:0:17:2000:0:a:415e"),
    "V6": (
        MAP,
        "2001:db8:0:f:2fff:ffff:ffff:efff",
        "2001:db8:ffff:fffe",
        0x0010,
        "2001:db8:ffff:fffe:3fff:ffff:ffff:e00f",
    ),
}
"""Mode, SIR address, locator, difference, ILA address (reference/ila.md, section 5)."""

LOST = {
    "N1": (AUTO, "fd00:10:244:0:2000:0:a:0", "fd00:c0de:0:17", "fd00:c0de:0:17:2000:0:a:415e"),
    "N2": (MAP, "fd00:10:244:0:2000:0:a:0", "fd00:c0de:0:17", "fd00:c0de:0:17:3000:0:a:315e"),
}

prefixes = st.integers(0x2000_0000_0000_0000, 0xFDFF_FFFF_FFFF_FFFF)
modes = st.sampled_from(ChecksumMode)
identifiers = st.builds(
    lambda high, low: Identifier(1 << 61 | high << 16 | low),
    st.integers(0, (1 << 44) - 1),
    st.one_of(st.integers(1, 0xFFFF), st.sampled_from([1, 0xEFFF, 0xF000, 0xFFFE, 0xFFFF])),
)


def halves(text: str) -> tuple[int, int]:
    """Return the upper and the lower 64 bits of an address."""
    value = int(ipaddress.IPv6Address(text))
    return value >> 64, value & (1 << 64) - 1


def prefix(text: str) -> int:
    """Return the 64 bits of a prefix written as four groups."""
    return halves(f"{text}::")[0] if text.count(":") < 3 else halves(f"{text}:0:0:0:0")[0]


@pytest.mark.parametrize("name", VECTORS)
def test_vector(name: str) -> None:
    """Each positive vector holds in both directions, with the difference that Linux computes."""
    mode, sir, locator, difference, ila = VECTORS[name]
    sir_prefix, identifier = halves(sir)
    assert checksum_difference(new=prefix(locator), old=sir_prefix) == difference
    translated = to_ila(identifier, sir_prefix=sir_prefix, locator=prefix(locator), mode=mode)
    assert translated == int(ipaddress.IPv6Address(ila))
    assert to_identifier(translated, sir_prefix=sir_prefix, mode=mode) == identifier


@pytest.mark.parametrize("name", LOST)
def test_low_word_zero_is_lost(name: str) -> None:
    """A low word of zero translates as in Linux, and comes back as 0xffff."""
    mode, sir, locator, ila = LOST[name]
    sir_prefix, identifier = halves(sir)
    translated = to_ila(identifier, sir_prefix=sir_prefix, locator=prefix(locator), mode=mode)
    assert translated == int(ipaddress.IPv6Address(ila))
    assert to_identifier(translated, sir_prefix=sir_prefix, mode=mode) == identifier | 0xFFFF


def test_c_bit_is_not_translated() -> None:
    """An identifier whose C-bit is set is refused (N3), and what Linux makes of it comes back as another."""
    sir_prefix, identifier = halves("2001:db8:0:f:3fff:ffff:ffff:efff")
    with pytest.raises(ValueError, match=r"'3fff:ffff:ffff:efff' has the C-bit set"):
        to_ila(identifier, sir_prefix=sir_prefix, locator=prefix("2001:db8:ffff:fffe"), mode=MAP)
    linux = int(ipaddress.IPv6Address("2001:db8:ffff:fffe:3fff:ffff:ffff:efff"))
    assert to_identifier(linux, sir_prefix=sir_prefix, mode=MAP) == halves("::2fff:ffff:ffff:ffef")[1]


def test_address_without_c_bit_is_no_ila_address() -> None:
    """Under neutral-map an address without the C-bit is refused, quoted."""
    with pytest.raises(ValueError, match=r"fd00:c0de:0:17:2000:0:a:315f has no C-bit"):
        to_identifier(int(ipaddress.IPv6Address("fd00:c0de:0:17:2000:0:a:315f")), sir_prefix=1 << 62, mode=MAP)


@given(identifier=identifiers, sir_prefix=prefixes, locator=prefixes, mode=modes)
def test_round_trip(identifier: Identifier, sir_prefix: int, locator: int, mode: ChecksumMode) -> None:
    """Every identifier that can exist comes back from every locator."""
    translated = to_ila(identifier.value, sir_prefix=sir_prefix, locator=locator, mode=mode)
    assert translated >> 64 == locator
    assert bool(translated & C_BIT) is (mode is MAP)
    assert to_identifier(translated, sir_prefix=sir_prefix, mode=mode) == identifier.value


def checksum(source: int, destination: int, protocol: int, segment: bytes) -> int:
    """Return the checksum over pseudo header and segment (RFC 8200 section 8.1, RFC 1071), from scratch."""
    pseudo = source.to_bytes(16, "big") + destination.to_bytes(16, "big") + struct.pack("!II", len(segment), protocol)
    whole = pseudo + segment + b"\0" * (len(segment) % 2)
    total: int = sum(struct.unpack(f"!{len(whole) // 2}H", whole))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@pytest.mark.parametrize("protocol", [6, 17, 58], ids=["tcp", "udp", "icmpv6"])
@given(
    identifier=identifiers,
    sir_prefix=prefixes,
    locator=prefixes,
    mode=modes,
    source=st.integers(0, (1 << 128) - 1),
    segment=st.binary(min_size=8, max_size=80),
)
def test_checksum_is_the_same(
    *,
    protocol: int,
    identifier: Identifier,
    sir_prefix: int,
    locator: int,
    mode: ChecksumMode,
    source: int,
    segment: bytes,
) -> None:
    """Checksums of TCP, UDP and ICMPv6 are equal to the SIR and to the ILA destination."""
    translated = to_ila(identifier.value, sir_prefix=sir_prefix, locator=locator, mode=mode)
    sir = sir_prefix << 64 | identifier.value
    assert checksum(source, sir, protocol, segment) == checksum(source, translated, protocol, segment)


@given(sir_prefix=prefixes, locator=prefixes, mode=modes, identifier=identifiers)
def test_difference_is_fixed_for_a_locator(
    sir_prefix: int, locator: int, mode: ChecksumMode, identifier: Identifier
) -> None:
    """The number that translation adds to the low word depends on the locator alone."""
    difference = outward_difference(sir_prefix=sir_prefix, locator=locator, mode=mode)
    translated = to_ila(identifier.value, sir_prefix=sir_prefix, locator=locator, mode=mode)
    assert translated & 0xFFFF == fold((identifier.value & 0xFFFF) + difference)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0:0:0:c078", "type 0"),
        ("4000:0:a:1", "type 2"),
        ("2000:0:a:0", "16 zero bits"),
        ("3fff:ffff:ffff:efff", "C-bit"),
    ],
    ids=["V3", "type", "N1-N2", "N3"],
)
def test_identifier_refuses(text: str, reason: str) -> None:
    """An identifier of another type, with the C-bit or with a low word of zero cannot be constructed."""
    with pytest.raises(ValueError, match=reason) as refused:
        Identifier.parse(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize(
    "text", ["", "2000:0:a", "2000:0:a:1:2", "2000::1", "2000:0:a:xyz1", "20000:0:a:1", " 2000:0:a:1", "2000:0:a:-1"]
)
def test_identifier_text_is_quoted(text: str) -> None:
    """Text that is no identifier is refused and quoted."""
    with pytest.raises(ValueError, match="four groups") as refused:
        Identifier.parse(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_identifier_number_out_of_range(value: int) -> None:
    """A number that has no 64 bits is refused and quoted."""
    with pytest.raises(ValueError, match=f"{value:#x} is not a 64-bit number"):
        Identifier(value)


@given(identifier=identifiers)
def test_identifier_forms(identifier: Identifier) -> None:
    """Text, bytes and number of an identifier lead back to it."""
    assert Identifier.parse(str(identifier)) == identifier
    assert Identifier.from_bytes(bytes(identifier)) == identifier
    assert Identifier(int(identifier)) == identifier


@pytest.mark.parametrize("raw", [b"", b"1234567", b"123456789"])
def test_wrong_number_of_bytes(raw: bytes) -> None:
    """Bytes that are not 8 are refused and quoted."""
    for kind in (Identifier, Locator, SirPrefix):
        with pytest.raises(ValueError, match="not 8") as refused:
            kind.from_bytes(raw)
        assert raw.hex() in str(refused.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("fd00:10:244::/63", "no /64"),
        ("fd00:10:244::", "no /64"),
        ("fd00:10:244::1/64", "not an IPv6 prefix"),
        ("10.0.0.0/8", "not an IPv6 prefix"),
        ("nonsense", "not an IPv6 prefix"),
    ],
)
def test_prefix_refuses(text: str, reason: str) -> None:
    """A prefix that is no /64 is refused and quoted."""
    for kind in (Locator, SirPrefix):
        with pytest.raises(ValueError, match=reason) as refused:
            kind.parse(text)
        assert repr(text) in str(refused.value)


@pytest.mark.parametrize("text", ["::/64", "fe80::/64", "ff02::/64"])
def test_prefix_that_cannot_be_routed(text: str) -> None:
    """The zero prefix, link-local and multicast prefixes are refused."""
    with pytest.raises(ValueError, match="not a unicast prefix"):
        Locator.parse(text)


@given(value=prefixes)
def test_prefix_forms(value: int) -> None:
    """Text, bytes and number of a prefix lead back to it."""
    locator = Locator(value)
    assert Locator.parse(str(locator)) == locator
    assert Locator.from_bytes(bytes(locator)) == locator
    assert int(locator.network.network_address) >> 64 == int(locator)


def test_sir_address_names_its_identifier() -> None:
    """A SIR address leads to the identifier; one under another prefix is refused and quoted."""
    sir = SirPrefix.parse("fd00:10:244::/64")
    identifier = Identifier.parse("2000:0:a:1")
    address = sir.address(identifier)
    assert str(address) == "fd00:10:244:0:2000:0:a:1"
    assert sir.identifier(address) == identifier
    with pytest.raises(ValueError, match=r"'fd00:10:245:0:2000:0:a:1' is not under"):
        sir.identifier(ipaddress.IPv6Address("fd00:10:245:0:2000:0:a:1"))


def test_checksum_mode_names() -> None:
    """Modes are named as in Linux; an unknown name is refused and quoted."""
    assert ChecksumMode.parse("neutral-map") is MAP
    assert ChecksumMode.parse("neutral-map-auto") is AUTO
    with pytest.raises(ValueError, match="'adj-transport' is unknown"):
        ChecksumMode.parse("adj-transport")
