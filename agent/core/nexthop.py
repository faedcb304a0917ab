# SPDX-License-Identifier: Apache-2.0
"""Finding out what kind of underlay a host is on: a decision on route look-ups; pure, for agent/node.py."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from agent.core.datapath import NextHop
from agent.core.network import Hop


def choose(
    *, setting: str, nodes: Iterable[Hop | None], locators: Iterable[Hop | None]
) -> tuple[NextHop, ipaddress.IPv6Address | None]:
    """Return how translated packets find their next hop, and the gateway if one takes them all.

    `nodes` are look-ups of the other nodes' addresses, `locators` of addresses in the locator space.  With
    'auto' a node on this link means a shared layer 2, since no gateway takes packets to its locator.
    ValueError if 'gateway' is set and the routes name none, or several.
    """
    if setting == "neighbour":
        return NextHop.NEIGHBOUR, None
    on_link = any(hop is not None and hop.gateway is None for hop in nodes)
    gateways = {hop.gateway for hop in locators if hop is not None and not hop.ours and hop.gateway is not None}
    if setting == "auto" and (on_link or len(gateways) != 1):
        return NextHop.NEIGHBOUR, None
    if len(gateways) != 1:
        found = ", ".join(sorted(map(str, gateways))) or "none"
        raise ValueError(f"next_hop is 'gateway', but the routes to locators have these gateways: {found}")
    return NextHop.GATEWAY, gateways.pop()
