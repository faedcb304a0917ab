# SPDX-License-Identifier: Apache-2.0
"""What the kernel must hold of this node's endpoints: decisions on records, links and mappings; pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping

from agent.core.datapath import EndpointEntry
from agent.core.endpoint import Endpoint
from agent.core.ipv4 import Ipv4Link
from agent.core.network import HostLink, PodLink
from agent.core.ports import Registration
from ila.address import Locator
from ila.mapping import Generation

Locate = Callable[[int], tuple[int, Generation] | None]
"""Returns the upper half of the locator that an identifier is at, and the mapping's generation."""


def pod_link(endpoint: Endpoint, registration: Registration, source: ipaddress.IPv6Address) -> PodLink:
    """Return how an endpoint is attached; `source` is the node address."""
    return PodLink(
        container_id=endpoint.container_id,
        interface=endpoint.interface,
        address=registration.domain.sir_prefix.address(endpoint.identifier),
        mtu=endpoint.mtu,
        source=source,
        ipv4=Ipv4Link(pod=endpoint.host_name, address=endpoint.ipv4, mtu=endpoint.mtu) if endpoint.ipv4 else None,
    )


def is_active(endpoint: Endpoint, *, own: Locator, locate: Locate) -> bool:
    """Tell whether a claim holds: no mapping newer than the one it made points elsewhere (invariant 2)."""
    located = locate(endpoint.identifier.value)
    if located is None:
        return True
    locator, generation = located
    return locator == own.value or generation < endpoint.generation


def wanted_entries(
    endpoints: Iterable[Endpoint],
    *,
    links: Mapping[str, HostLink],
    own: Locator,
    locate: Locate,
    pod_link: Callable[[Endpoint], PodLink],
) -> dict[int, EndpointEntry]:
    """Return the entries by identifier: of claims on one identifier the newest active one that has its link."""
    wanted: dict[int, EndpointEntry] = {}
    wired = (endpoint for endpoint in endpoints if endpoint.attached)
    for endpoint in sorted(wired, key=lambda item: item.generation):
        link = links.get(endpoint.host_name)
        if link is not None and is_active(endpoint, own=own, locate=locate):
            pod = pod_link(endpoint)
            wanted[endpoint.identifier.value] = EndpointEntry(
                interface_index=link.index,
                pod_mac=pod.pod_mac,
                host_mac=pod.host_mac,
                by_stack=endpoint.by_stack,
            )
    return wanted
