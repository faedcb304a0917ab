# SPDX-License-Identifier: Apache-2.0
"""The underlay of the lab: one namespace that joins the hosts, as a router or as a shared layer 2."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field

from ila.address import Locator
from ila.domain import Domain
from lab.namespace import Namespace, cable, run

_GUARD = """
table {family} guard {{
  counter untranslated {{ }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    ip6 daddr {sir} counter name untranslated drop
  }}
}}
"""


OUTSIDE = "fd00:a::ffff"
OUTSIDE_IPV4 = "192.0.2.254"
"""The router's addresses on a shared layer 2, where hosts send what is for others."""


class Shape(enum.Enum):
    """How hosts reach each other."""

    ROUTED = "routed"
    """Each host on a link of its own to the router, which has a route for every locator."""

    LAYER2 = "layer2"
    """All hosts on one bridge; nobody routes locators but the hosts themselves."""


@dataclass(slots=True)
class Host:
    """One host: a namespace with an underlay device, a node address and a locator."""

    namespace: Namespace
    number: int
    name: str
    address: str
    locator: Locator
    gateway: str | None
    device: str = field(default="eth0")


def host_ipv4(host: Host) -> str:
    """Return a host's address of IPv4, where the outside is open to it; documentation's (RFC 5737)."""
    return f"192.0.2.{host.number}"


class Fabric:
    """The joining namespace and its hosts; close() removes all of it."""

    def __init__(self, *, prefix: str, shape: Shape, domain: Domain, mtu: int = 1500, announced: bool = False) -> None:
        """Take the shape; announced: the router has no routes of its own, hosts tell it what is behind them."""
        self.prefix = prefix
        self.shape = shape
        self.domain = domain
        self.mtu = mtu
        self._announced = announced
        self.hosts: list[Host] = []
        self.router = Namespace(f"{prefix}-fabric")

    def build(self, count: int) -> None:
        """Make the router and `count` hosts, cabled and addressed."""
        self.router = Namespace.create(self.router.name)
        self.router.sysctl(net__ipv6__conf__all__forwarding=1)
        for family in self._guards():
            self.router.run("nft", "-f", "-", stdin=_GUARD.format(family=family, sir=self.domain.sir_prefix))
        if self.shape is Shape.LAYER2:
            self.router.ip("link", "add", "br0", "mtu", str(self.mtu), "type", "bridge", "mcast_snooping", "0")
            self.router.ip("link", "set", "br0", "up")
        self.hosts = [self.join(number) for number in range(1, count + 1)]

    def join(self, number: int) -> Host:
        """Make one more host, cabled, addressed and routed to; build() has made those of lower numbers."""
        host = self._make(number)
        if self.shape is Shape.ROUTED:
            self._route(host)
        return host

    def host(self, number: int) -> Host:
        """Return what host `number` (from 1) is or would be: its namespace, addresses and locator."""
        space = self.domain.locator_space[0]
        locator = Locator((int(space.network_address) >> 64) + number)
        namespace, name = Namespace(f"{self.prefix}-host{number}"), f"host{number}"
        if self.shape is Shape.LAYER2:
            return Host(namespace, number, name, f"fd00:a::{number}", locator, None)
        return Host(namespace, number, name, f"fd00:a:0:{number}::2", locator, f"fd00:a:0:{number}::1")

    def _make(self, number: int) -> Host:
        """Make a host's namespace, and cable and address it."""
        host, port = self.host(number), f"h{number}"
        namespace = Namespace.create(host.namespace.name)
        cable((namespace, host.device), (self.router, port), mtu=self.mtu)
        namespace.ip("addr", "add", f"{host.address}/64", "dev", host.device, "nodad")
        if host.gateway is None:
            self.router.ip("link", "set", port, "master", "br0")
        else:
            namespace.ip("route", "add", "default", "via", host.gateway, "dev", host.device)
        return host

    def open_outside(self, *hosts: Host) -> None:
        """Give hosts of a shared layer 2 a default route, by the router, and addresses of IPv4 (host_ipv4)."""
        self.router.ip("addr", "replace", f"{OUTSIDE}/64", "dev", "br0", "nodad")
        self.router.run("ip", "addr", "replace", f"{OUTSIDE_IPV4}/24", "dev", "br0")
        for host in hosts:
            host.namespace.ip("route", "add", "default", "via", OUTSIDE, "dev", host.device)
            host.namespace.run("ip", "addr", "add", f"{host_ipv4(host)}/24", "dev", host.device)
            host.namespace.run("ip", "route", "add", "default", "via", OUTSIDE_IPV4, "dev", host.device)

    def untranslated(self) -> int:
        """Return how many packets to the SIR prefix the router has seen, routed or bridged, and dropped."""
        return sum(map(self._stray, self._guards()))

    def _stray(self, family: str) -> int:
        listing = json.loads(self.router.run("nft", "-j", "list", "counter", family, "guard", "untranslated"))
        return int(next(item["counter"]["packets"] for item in listing["nftables"] if "counter" in item))

    def _guards(self) -> tuple[str, ...]:
        """Return the families of the guard's tables: what a bridge forwards never meets the rules of ip6."""
        return ("ip6", "bridge") if self.shape is Shape.LAYER2 else ("ip6",)

    def unplug(self, host: Host) -> None:
        """Take the router's end of a host's link down."""
        self.router.ip("link", "set", f"h{host.number}", "down")

    def plug(self, host: Host) -> None:
        """Take it up again, with what the kernel removed when it went down."""
        self.router.ip("link", "set", f"h{host.number}", "up")
        if self.shape is Shape.ROUTED:
            self._route(host)

    def power_off(self, host: Host) -> None:
        """End a host's namespace with every process in it, and its link."""
        self.router.ip("link", "del", f"h{host.number}")
        host.namespace.close()

    def power_on(self, host: Host) -> None:
        """Make the namespace and the link of a host anew, as they were."""
        self._make(host.number)
        if self.shape is Shape.ROUTED:
            self._route(host)

    def _route(self, host: Host) -> None:
        """Give the router its address and routes on a host's link; the first host gets the SIR prefix."""
        port = f"h{host.number}"
        self.router.ip("addr", "replace", f"{host.gateway}/64", "dev", port, "nodad")
        if self._announced:
            return
        prefixes = [str(host.locator)] + [str(self.domain.sir_prefix)] * (host.number == 1)
        for prefix in prefixes:
            self.router.ip("route", "replace", prefix, "via", host.address, "dev", port)

    def close(self) -> None:
        """Remove every namespace of this fabric, also those of a killed run."""
        for line in run("ip", "netns", "list").splitlines():
            name = line.split()[0] if line else ""
            if name.startswith(f"{self.prefix}-"):
                Namespace(name).close()
