# SPDX-License-Identifier: Apache-2.0
"""What a node may say of itself, where Kubernetes knows better: its address, and its locator as its podCIDR; pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import replace

from controller.core.decision import Reason, Refused
from controller.core.kubernetes import NodeFacts
from controller.core.registration import Registration
from ila.address import Locator
from ila.domain import Domain


def checked(request: Registration, node: NodeFacts | None, *, by_pod_cidr: bool) -> Registration:
    """Return a registration as Kubernetes allows it; Refused if the node is not there or says something else.

    by_pod_cidr: the locator is the /64 that the controller manager has given the node.
    """
    if node is None:
        raise Refused(Reason.NOT_NOW, f"Kubernetes does not show node {request.node!r}")
    if request.address not in node.addresses:
        known = ", ".join(map(str, node.addresses)) or "none of IPv6"
        raise Refused(
            Reason.NOT_YOURS,
            f"address {request.address} is none of node {request.node!r}, whose internal addresses are {known}",
        )
    if not by_pod_cidr:
        return request
    locator = pod_cidr(node)
    if request.declared not in (None, locator):
        raise Refused(
            Reason.MALFORMED, f"node {request.node!r} declares locator {request.declared}, but its podCIDR is {locator}"
        )
    return replace(request, declared=locator)


def check_free(domain: Domain, taken: Mapping[str, str]) -> None:
    """Refuse a domain whose prefixes hold an address that is something else's; `taken` has them by what they are."""
    prefixes = [("SIR prefix", domain.sir_prefix.network), *(("locator space", one) for one in domain.locator_space)]
    for what, text in taken.items():
        try:
            address = ipaddress.IPv6Address(text)
        except ValueError:
            continue  # of IPv4, or the `None` of a headless Service
        for prefix, network in prefixes:
            if address in network:
                raise Refused(
                    Reason.MISCONFIGURED,
                    f"{prefix} {network} overlaps with what the cluster uses: {address} is {what}'s; "
                    "choose another prefix in [domain] of controller.toml",
                )


def addresses_of_services(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what the kubelet has put into a container's environment: one of them is as good as their whole range."""
    end = "_SERVICE_HOST"
    return {
        f"Service {name.removesuffix(end).lower().replace('_', '-')}": address
        for name, address in environment.items()
        if name.endswith(end)
    }


def pod_cidr(node: NodeFacts) -> Locator:
    """Return a node's podCIDR of IPv6 as a locator; Refused says what is wrong with it."""
    networks = [ipaddress.ip_network(text) for text in node.pod_cidrs]
    found = [network for network in networks if isinstance(network, ipaddress.IPv6Network)]
    if not found:
        raise Refused(
            Reason.NOT_NOW,
            f"node {node.name!r} has no podCIDR of IPv6: run the controller manager with --allocate-node-cidrs and "
            "--cluster-cidr, or let ilanet choose locators (locators = 'pool')",
        )
    if found[0].prefixlen != 64:
        raise Refused(
            Reason.MALFORMED,
            f"podCIDR {found[0]} of node {node.name!r} is no /64, as a locator must be: run the controller manager "
            "with --node-cidr-mask-size-ipv6=64, or let ilanet choose locators (locators = 'pool')",
        )
    return Locator.parse(str(found[0]))
