# SPDX-License-Identifier: Apache-2.0
"""ILA addresses and their checksum-neutral translation: pure values and arithmetic, for everyone.

The arithmetic is that of Linux (net/ipv6/ila/ila_common.c, ila.h) and of draft-herbert-intarea-ila-01
section 5.4.1.  Below the types it works on plain integers: 64-bit prefixes and identifiers, 128-bit
addresses, 16-bit one's-complement sums.  The types add what may exist at all: an Identifier is a LUID
without the C-bit whose low 16 bits are not zero, because a zero there does not survive the round trip.
"""

from __future__ import annotations

import enum
import ipaddress
from dataclasses import dataclass
from typing import Self

LUID = 1
"""Identifier type of a locally unique identifier: the top three bits (draft section 4.2)."""

C_BIT = 1 << 60
"""The checksum-neutral flag: bit 4 of address byte 8 (ila.h, struct ila_identifier)."""

_C_WORD = C_BIT >> 48
_MASK64 = (1 << 64) - 1


class ChecksumMode(enum.Enum):
    """How the identifier absorbs the change of the upper 64 bits (Linux: ILA_CSUM_NEUTRAL_MAP*)."""

    NEUTRAL_MAP = "neutral-map"
    NEUTRAL_MAP_AUTO = "neutral-map-auto"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the mode named `text`; ValueError quotes an unknown name."""
        try:
            return cls(text)
        except ValueError:
            names = ", ".join(mode.value for mode in cls)
            raise ValueError(f"checksum mode {text!r} is unknown: one of {names}") from None


def fold(total: int) -> int:
    """Return the one's-complement sum `total` carried around to 16 bits (not complemented)."""
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _words(value: int) -> int:
    return (value >> 48) + (value >> 32 & 0xFFFF) + (value >> 16 & 0xFFFF) + (value & 0xFFFF)


def checksum_difference(*, new: int, old: int) -> int:
    """Return old - new, 16 bits, of two 64-bit prefixes (compute_csum_diff8 in ila.h)."""
    return fold(_words(~new & _MASK64) + _words(old))


def adjusted(identifier: int, difference: int) -> int:
    """Return the identifier with a 16-bit difference added to its low word."""
    return identifier & ~0xFFFF | fold((identifier & 0xFFFF) + difference)


def outward_difference(*, sir_prefix: int, locator: int, mode: ChecksumMode) -> int:
    """Return what SIR-to-ILA translation adds to the low word: fixed for a locator, so it can be kept."""
    difference = checksum_difference(new=locator, old=sir_prefix)
    if mode is ChecksumMode.NEUTRAL_MAP:
        return fold(difference + (~_C_WORD & 0xFFFF))
    return difference


def to_ila(identifier: int, *, sir_prefix: int, locator: int, mode: ChecksumMode) -> int:
    """Return the 128-bit ILA address of a 64-bit identifier, as Linux's SIR-to-ILA route does.

    A set C-bit is refused with ValueError (Linux warns, and breaks the checksum: vector N3).
    """
    if mode is ChecksumMode.NEUTRAL_MAP and identifier & C_BIT:
        raise ValueError(f"identifier {_groups(identifier)!r} has the C-bit set")
    difference = outward_difference(sir_prefix=sir_prefix, locator=locator, mode=mode)
    flag = C_BIT if mode is ChecksumMode.NEUTRAL_MAP else 0
    return locator << 64 | adjusted(identifier, difference) | flag


def to_identifier(ila_address: int, *, sir_prefix: int, mode: ChecksumMode) -> int:
    """Return the 64-bit identifier behind a 128-bit ILA address, as Linux's receive table does.

    Under neutral-map an address without the C-bit is no ILA address: ValueError.
    """
    difference = checksum_difference(new=sir_prefix, old=ila_address >> 64)
    identifier = ila_address & _MASK64
    if mode is ChecksumMode.NEUTRAL_MAP:
        if not identifier & C_BIT:
            raise ValueError(f"address {ipaddress.IPv6Address(ila_address)!s} has no C-bit: no ILA address")
        return adjusted(identifier, fold(difference + _C_WORD)) & ~C_BIT
    return adjusted(identifier, difference)


def _groups(value: int) -> str:
    return ":".join(f"{value >> shift & 0xFFFF:x}" for shift in (48, 32, 16, 0))


def _from_groups(text: str, what: str) -> int:
    groups = text.split(":")
    if len(groups) != 4 or not all(0 < len(g) <= 4 and set(g) <= set("0123456789abcdefABCDEF") for g in groups):
        raise ValueError(f"{what} {text!r} is not four groups of hexadecimal digits such as '2000:0:a:1'")
    value = 0
    for group in groups:
        value = value << 16 | int(group, 16)
    return value


def _from_bytes(raw: bytes, what: str) -> int:
    if len(raw) != 8:
        raise ValueError(f"{what} {raw.hex()!r} has {len(raw)} bytes, not 8")
    return int.from_bytes(raw, "big")


@dataclass(frozen=True, slots=True, order=True)
class Identifier:
    """Who: 64 bits of type LUID, C-bit clear, low 16 bits not zero.  Text form: '2000:0:a:1'."""

    value: int

    def __post_init__(self) -> None:
        """Refuse, with ValueError, whatever checksum-neutral translation could not bring back."""
        if not 0 <= self.value <= _MASK64:
            raise ValueError(f"identifier {self.value:#x} is not a 64-bit number")
        text = _groups(self.value)
        if self.value & C_BIT:
            raise ValueError(f"identifier {text!r} has the C-bit set")
        if self.value >> 61 != LUID:
            raise ValueError(f"identifier {text!r} is of type {self.value >> 61}, not {LUID} (LUID)")
        if not self.value & 0xFFFF:
            raise ValueError(f"identifier {text!r} ends in 16 zero bits, which translation does not bring back")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the identifier written as four groups; ValueError quotes wrong text."""
        return cls(_from_groups(text, "identifier"))

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Return the identifier in 8 bytes of network order."""
        return cls(_from_bytes(raw, "identifier"))

    def __bytes__(self) -> bytes:
        """Return 8 bytes in network order."""
        return self.value.to_bytes(8, "big")

    def __int__(self) -> int:
        """Return the 64-bit number."""
        return self.value

    def __str__(self) -> str:
        """Return four groups of hexadecimal digits."""
        return _groups(self.value)


@dataclass(frozen=True, slots=True, order=True)
class _Prefix64:
    value: int

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not 0 <= self.value <= _MASK64:
            raise ValueError(f"{name} {self.value:#x} is not a 64-bit number")
        first = self.value >> 48
        if not self.value or first >= 0xFE80:
            raise ValueError(f"{name} {self.network} is not a unicast prefix that can be routed")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the prefix written as 'fd00:10:244::/64'; ValueError quotes wrong text."""
        try:
            network = ipaddress.IPv6Network(text)
        except ValueError as error:
            raise ValueError(f"{cls.__name__} {text!r} is not an IPv6 prefix: {error}") from None
        if network.prefixlen != 64 or "/" not in text:
            raise ValueError(f"{cls.__name__} {text!r} is no /64")
        return cls(int(network.network_address) >> 64)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Return the prefix whose upper 8 bytes, in network order, are `raw`."""
        return cls(_from_bytes(raw, cls.__name__))

    @property
    def network(self) -> ipaddress.IPv6Network:
        """The /64 as a network."""
        return ipaddress.IPv6Network((self.value << 64, 64))

    def __bytes__(self) -> bytes:
        return self.value.to_bytes(8, "big")

    def __int__(self) -> int:
        return self.value

    def __str__(self) -> str:
        return str(self.network)


class Locator(_Prefix64):
    """Where: the /64 of one node, which carries nothing but ILA traffic."""

    __slots__ = ()


class SirPrefix(_Prefix64):
    """The /64 under which applications see all identifiers."""

    __slots__ = ()

    def address(self, identifier: Identifier) -> ipaddress.IPv6Address:
        """Return the SIR address of an identifier."""
        return ipaddress.IPv6Address(self.value << 64 | identifier.value)

    def identifier(self, address: ipaddress.IPv6Address) -> Identifier:
        """Return who a SIR address names; ValueError if it is under another prefix or no identifier."""
        if int(address) >> 64 != self.value:
            raise ValueError(f"address '{address}' is not under the SIR prefix {self}")
        return Identifier(int(address) & _MASK64)
