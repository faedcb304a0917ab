# SPDX-License-Identifier: Apache-2.0
"""What all nodes of one ILA domain agree on, and the translation that follows from it; for agent and controller."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from ila.address import ChecksumMode, Identifier, Locator, SirPrefix, to_identifier, to_ila


@dataclass(frozen=True, slots=True)
class Domain:
    """The SIR prefix, the locator space and the checksum mode, checked against each other once."""

    sir_prefix: SirPrefix
    """The one /64 that applications see (T1: a locator maps to one SIR prefix only)."""

    locator_space: tuple[ipaddress.IPv6Network, ...]
    """Prefixes of at most 64 bits that all locators lie in; at least one, disjoint from the SIR prefix."""

    checksum_mode: ChecksumMode = field(default=ChecksumMode.NEUTRAL_MAP)
    """How translation stays checksum-neutral; the same on all nodes (T6)."""

    def __post_init__(self) -> None:
        """Refuse, with ValueError, prefixes that are too long or overlap."""
        if not self.locator_space:
            raise ValueError("the locator space is empty: give at least one prefix")
        for number, space in enumerate(self.locator_space):
            if space.prefixlen > 64:
                raise ValueError(f"locator space {space} is longer than /64: no locator fits")
            if space.overlaps(self.sir_prefix.network):
                raise ValueError(f"locator space {space} overlaps the SIR prefix {self.sir_prefix}")
            for other in self.locator_space[:number]:
                if space.overlaps(other):
                    raise ValueError(f"locator spaces {other} and {space} overlap")

    @classmethod
    def parse(cls, *, sir_prefix: str, locator_space: Iterable[str], checksum_mode: str) -> Self:
        """Return the domain written as text; ValueError quotes what is wrong."""
        spaces = []
        for text in locator_space:
            try:
                spaces.append(ipaddress.IPv6Network(text))
            except ValueError as error:
                raise ValueError(f"locator space {text!r} is not an IPv6 prefix: {error}") from None
        return cls(
            sir_prefix=SirPrefix.parse(sir_prefix),
            locator_space=tuple(spaces),
            checksum_mode=ChecksumMode.parse(checksum_mode),
        )

    def contains(self, locator: Locator) -> bool:
        """Tell whether a locator lies in the locator space."""
        return any(locator.network.subnet_of(space) for space in self.locator_space)

    def ila_address(self, identifier: Identifier, locator: Locator) -> ipaddress.IPv6Address:
        """Return the address of an identifier at a locator, as it stands on the wire."""
        return ipaddress.IPv6Address(
            to_ila(
                identifier.value,
                sir_prefix=self.sir_prefix.value,
                locator=locator.value,
                mode=self.checksum_mode,
            )
        )

    def identifier(self, ila_address: ipaddress.IPv6Address) -> Identifier:
        """Return who an ILA address names; ValueError if no identifier can stand behind it."""
        return Identifier(to_identifier(int(ila_address), sir_prefix=self.sir_prefix.value, mode=self.checksum_mode))
