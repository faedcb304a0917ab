# SPDX-License-Identifier: Apache-2.0
"""What the nodes of a domain agree on, and what cannot be a domain."""

from __future__ import annotations

import ipaddress

import pytest

from ila.address import Identifier, Locator
from ila.domain import Domain

SIR = "fd00:10:244::/64"


def domain(
    sir_prefix: str = SIR, locator_space: tuple[str, ...] = ("fd00:c0de::/32",), mode: str = "neutral-map"
) -> Domain:
    """Return a domain, changed where the test says."""
    return Domain.parse(sir_prefix=sir_prefix, locator_space=locator_space, checksum_mode=mode)


def test_translation_of_a_domain() -> None:
    """A domain translates vector V4 in both directions."""
    address = domain().ila_address(Identifier.parse("2000:0:a:1"), Locator.parse("fd00:c0de:0:17::/64"))
    assert address == ipaddress.IPv6Address("fd00:c0de:0:17:3000:0:a:315f")
    assert domain().identifier(address) == Identifier.parse("2000:0:a:1")


def test_address_behind_which_no_identifier_stands() -> None:
    """An ILA address whose identifier cannot exist is refused."""
    with pytest.raises(ValueError, match="type 0"):
        domain(mode="neutral-map-auto").identifier(ipaddress.IPv6Address("fd00:c0de:0:17::1"))


def test_locator_space() -> None:
    """A locator is inside if any of the prefixes holds it."""
    both = domain(locator_space=("fd00:c0de::/32", "fd00:beef::/64"))
    assert both.contains(Locator.parse("fd00:c0de:0:17::/64"))
    assert both.contains(Locator.parse("fd00:beef::/64"))
    assert not both.contains(Locator.parse("fd00:beef:0:1::/64"))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"sir_prefix": "fd00:10:244::/56"}, "SirPrefix 'fd00:10:244::/56' is no /64"),
        ({"sir_prefix": "none"}, "'none' is not an IPv6 prefix"),
        ({"locator_space": ()}, "locator space is empty"),
        ({"locator_space": ("fd00:c0de::/65",)}, "fd00:c0de::/65 is longer than /64"),
        ({"locator_space": ("fd00:c0de::1/32",)}, "'fd00:c0de::1/32' is not an IPv6 prefix"),
        ({"locator_space": ("fd00::/16",)}, "fd00::/16 overlaps the SIR prefix"),
        ({"locator_space": (SIR,)}, "overlaps the SIR prefix"),
        ({"locator_space": ("fd01::/32", "fd01:0:1::/48")}, "fd01::/32 and fd01:0:1::/48 overlap"),
        ({"mode": "no-action"}, "'no-action' is unknown"),
    ],
)
def test_domain_refuses(changed: dict[str, str | tuple[str, ...]], reason: str) -> None:
    """Prefixes that are no /64, too long or overlapping are refused with the offending text."""
    with pytest.raises(ValueError, match=reason):
        domain(**changed)  # type: ignore[arg-type]
