# SPDX-License-Identifier: Apache-2.0
"""A pod's way to destinations that have IPv4 alone: an address that only its node knows, on a link of its own; pure.

The node masquerades it (agent/kernel/nftables.py).  Runtimes never hear of it: to them a pod has its SIR address.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

INTERFACE = "v4if0"
"""Its name in the pod, by which users of the big clouds' IPv6 clusters know it."""

HOST_PREFIX = "il4"
"""Of the names of the host's ends: they are no pods' links to kube-proxy, nor to anything else that goes by names."""

_MARK = "ilanet-ipv4"


def host_name(pod: str) -> str:
    """Return the name of the host's end, from that of the pod's own link."""
    return f"{HOST_PREFIX}{pod[len(HOST_PREFIX) :]}"


def parse_alias(alias: str) -> str | None:
    """Return the pod's own link from the alias that marks an IPv4 link as ours; None if it does not."""
    mark, _, pod = alias.partition(":")
    return pod if mark == _MARK and pod else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ipv4Link:
    """The second link of a pod."""

    pod: str
    """Name of the host's end of the first."""

    address: ipaddress.IPv4Interface
    """With the network that it is from, whose first address is the gateway's."""

    mtu: int
    """Bytes, of both ends."""

    @property
    def interface(self) -> str:
        """Name inside the pod."""
        return INTERFACE

    @property
    def host_name(self) -> str:
        """Name of the host's end."""
        return host_name(self.pod)

    @property
    def alias(self) -> str:
        """The mark on both ends."""
        return f"{_MARK}:{self.pod}"

    @property
    def gateway(self) -> ipaddress.IPv4Address:
        """The pod's next hop: no interface has it, a permanent neighbour gives it the host's MAC."""
        return gateway(self.address.network)

    @property
    def host_mac(self) -> bytes:
        """6 bytes, locally administered: derived, so that a repeat gives the same."""
        return b"\x02" + self._digest()[:5]

    @property
    def pod_mac(self) -> bytes:
        """6 bytes, locally administered."""
        return b"\x02" + self._digest()[5:10]

    def _digest(self) -> bytes:
        return hashlib.sha256(self.alias.encode()).digest()


def gateway(network: ipaddress.IPv4Network) -> ipaddress.IPv4Address:
    """Return the address of a network that no pod gets."""
    return network.network_address + 1


class Exhausted(Exception):  # noqa: N818 - says what is
    """Every address of the network is in use."""


class Ipv4Pool:
    """The addresses of a node's network; who ends gives his back by not being there any more."""

    def __init__(self, network: ipaddress.IPv4Network) -> None:
        """Take a /30 or shorter: network, gateway and broadcast addresses are no pod's."""
        self._network = network
        self._last = int(gateway(network))
        self._lent: set[int] = set()

    def check(self, used: Collection[ipaddress.IPv4Address]) -> None:
        """Return if there is an address that nobody uses; Exhausted if not."""
        self._find(used)

    @contextmanager
    def lend(self, used: Collection[ipaddress.IPv4Address]) -> Iterator[ipaddress.IPv4Interface]:
        """Yield an address that nobody uses, and keep it from others until a record has it; Exhausted.

        The one after the last comes first: connections of a pod that has ended may still be tracked.
        """
        found = self._last = self._find(used)
        self._lent.add(found)
        try:
            yield ipaddress.IPv4Interface((found, self._network.prefixlen))
        finally:
            self._lent.discard(found)

    def _find(self, used: Collection[ipaddress.IPv4Address]) -> int:
        first, last = int(gateway(self._network)) + 1, int(self._network.broadcast_address) - 1
        count = last - first + 1
        taken = self._lent.union(map(int, used))
        candidates = (first + (self._last + 1 - first + step) % count for step in range(count))
        found = next((value for value in candidates if value not in taken), None)
        if found is None:
            raise Exhausted(f"all {count} addresses of {self._network} are in use")
        return found
