# SPDX-License-Identifier: Apache-2.0
"""What services say about interfaces and routes: values and ports, implemented in agent/kernel by wiring and host."""

from __future__ import annotations

import enum
import hashlib
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from agent.core.datapath import NextHop
from agent.core.ipv4 import Ipv4Link
from ila.address import Locator, SirPrefix

GATEWAY = ipaddress.IPv6Address("fe80::1")
"""The next hop of every pod: no interface has this address, a permanent neighbour gives it the host's MAC."""

UNDERLAY_GATEWAY = ipaddress.IPv6Address("fe80::11a0:1")
"""The made-up next hop of the SIR route on a shared layer 2, where to_wire finds the real one."""

UNDERLAY_GATEWAY_MAC = bytes.fromhex("0211a0000001")
"""Locally administered, on no device: a frame to it that ever reaches the wire goes nowhere."""

METRIC = 1024
"""The kernel's own default for IPv6 routes, given in words so that it reads back equal."""

LAST_METRIC = 1 << 30
"""Of the route that ends packets for our own locator: every other route of that prefix goes first."""

SMALLEST_MTU = 1280
"""IPv6 does not work on a link below it (RFC 8200 section 5)."""

_MARK = "ilanet"


IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class NetworkError(Exception):
    """The kernel refused or is not as it must be; the message names the object and the reason."""


class Renumbered(NetworkError):  # noqa: N818 - says what has happened
    """The node address is on no device of this host, and other addresses are; the message names them."""


class InterfaceExists(NetworkError):  # noqa: N818 - says what is there
    """The pod's namespace already has an interface of that name, which is not ours."""


class NotWired(NetworkError):  # noqa: N818 - says what is not there
    """A check found something missing or wrong; the message says what."""


def _digest(container_id: str, interface: str) -> bytes:
    return hashlib.sha256(f"{container_id}/{interface}".encode()).digest()


def host_name(container_id: str, interface: str) -> str:
    """Return the name of the host's end: 15 characters, the same whenever it is asked for."""
    return "ila" + _digest(container_id, interface).hex()[:12]


def parse_alias(alias: str) -> tuple[str, str] | None:
    """Return container id and interface from the alias that marks a link as ours; None if it does not."""
    mark, _, rest = alias.partition(":")
    container_id, _, interface = rest.partition(":")
    return (container_id, interface) if mark == _MARK and container_id and interface else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PodLink:
    """How one pod is to be attached to its host."""

    container_id: str
    interface: str
    """Name inside the pod."""

    address: ipaddress.IPv6Address
    """The SIR address."""

    mtu: int
    """Bytes, of both ends."""

    source: ipaddress.IPv6Address | None
    """The node address: source of the host's own packets and ICMPv6 errors to the pod; None: the kernel chooses."""

    ipv4: Ipv4Link | None = None
    """The second link, for IPv4; None: the pod has IPv6 only."""

    @property
    def host_name(self) -> str:
        """Name of the host's end."""
        return host_name(self.container_id, self.interface)

    @property
    def alias(self) -> str:
        """The mark on both ends."""
        return f"{_MARK}:{self.container_id}:{self.interface}"

    @property
    def host_mac(self) -> bytes:
        """6 bytes, locally administered: derived, so that a repeat gives the same."""
        return b"\x02" + _digest(self.container_id, self.interface)[6:11]

    @property
    def pod_mac(self) -> bytes:
        """6 bytes, locally administered."""
        return b"\x02" + _digest(self.container_id, self.interface)[11:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class WiredPod:
    """A pod's links as they are."""

    host_index: int
    host_mac: bytes
    pod_mac: bytes
    mtu: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLink:
    """The host's end of a pod's link, known by its mark; its pod's namespace lives, or it would be gone."""

    name: str
    index: int
    mac: bytes
    mtu: int
    up: bool
    container_id: str
    interface: str
    ipv4_index: int = 0
    """Interface index of the host's end of the pod's second link; 0 if there is none."""


class Wiring(Protocol):
    """Links between pods and their host; calls block for about a millisecond and may run in parallel."""

    def wire(self, pod: PodLink, netns_fd: int) -> WiredPod:
        """Attach the pod, or find it attached; whatever fails leaves nothing behind.

        InterfaceExists if the pod has a foreign interface of that name, NetworkError for everything else.
        """

    def settle(self, host_name: str) -> None:
        """Wait until a pod whose links wire() has just made sends and receives; NetworkError if it does not.

        It does so some time after both ends are up, in which there is other work to do.
        """

    def check(self, pod: PodLink, netns_fd: int) -> WiredPod:
        """Return the pod's links if all is as wire() made it; NotWired says what is not."""

    def unwire(self, host_name: str) -> None:
        """Remove a pod's links; none of that name is no error."""

    def links(self) -> Sequence[HostLink]:
        """Return the host's ends of all pods."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A network device of the host."""

    name: str
    index: int
    mtu: int
    mac: bytes
    up: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """Where the kernel would send a packet."""

    device: int
    gateway: ipaddress.IPv6Address | None
    """None: the destination is on the device's link, or local."""

    source: ipaddress.IPv6Address | None
    ours: bool
    """The route is one of ours, so it says nothing about the underlay."""


class RouteKind(enum.Enum):
    """What a route does; the values are the kernel's (RTN_UNICAST, RTN_UNREACHABLE)."""

    UNICAST = 1
    UNREACHABLE = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A route of the main table that bears our protocol number."""

    destination: IpNetwork
    device: int = 0
    """Interface index; 0 for unreachable."""

    gateway: IpAddress | None = None
    source: IpAddress | None = None
    mtu: int = 0
    """Bytes; 0: the device's."""

    metric: int = METRIC
    kind: RouteKind = RouteKind.UNICAST


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A permanent neighbour entry that bears our protocol number."""

    address: IpAddress
    device: int
    mac: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRoute:
    """The host's way to an address of one of its pods."""

    address: IpAddress
    device: int
    mac: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class HostState:
    """All that ilanet wants of a host's network, beside links."""

    routes: frozenset[Route]
    neighbours: frozenset[Neighbour]
    underlay: tuple[str, ...]
    """Devices whose default route, if learnt from router advertisements, must outlive forwarding."""

    ipv4: bool = False
    """Whether IPv4 must be forwarded too."""

    complete: bool = True
    """False while the other nodes are not known, as after a restart: then nothing of ours is removed."""


class HostNetworking(Protocol):
    """Routes, neighbours and sysctls of one host; calls block and raise NetworkError."""

    def device(self, name: str) -> Device:
        """Return the device of that name; NetworkError if there is none."""

    def device_of(self, address: ipaddress.IPv6Address) -> str:
        """Return the name of the device that has an address; NetworkError if none has, Renumbered if it has others."""

    def lookup(self, address: ipaddress.IPv6Address) -> Hop | None:
        """Return where a packet to the address would go; None if nowhere."""

    def reconcile(self, desired: HostState) -> Sequence[str]:
        """Read back, compare, apply; return in words what was changed: nothing, when all was right.

        Never touches what others made, nor removes the routes of pods' links (they go with the link).
        """

    def uninstall(self) -> None:
        """Remove all links, routes and neighbours that bear our mark, and restore the sysctls."""


class Changes(Protocol):
    """The kernel's word that links, addresses, routes or permanent neighbours changed."""

    async def wait(self) -> None:
        """Return when something changed since the last call; overflow counts as change."""


def host_state(
    *,
    sir_prefix: SirPrefix,
    node_address: ipaddress.IPv6Address,
    underlay: Sequence[Device],
    next_hop: NextHop,
    gateway: ipaddress.IPv6Address | None,
    own_locator: Locator,
    locators: Mapping[Locator, ipaddress.IPv6Address],
    pods: Iterable[PodRoute],
    ipv4: bool = False,
    complete: bool = True,
) -> HostState:
    """Return what a host must have; the first underlay device carries the SIR route.

    `gateway` is the real one of a routed underlay (NextHop.GATEWAY); `locators` are the other nodes' on a
    shared layer 2, by their node addresses (NextHop.NEIGHBOUR), and `complete` says whether those are all.
    """
    if not underlay:
        raise ValueError("a host needs at least one underlay device")
    if (gateway is None) is (next_hop is NextHop.GATEWAY):
        raise ValueError(f"gateway {gateway} does not fit next hop {next_hop.value!r}")
    first = underlay[0].index
    routes = {
        Route(
            destination=sir_prefix.network,
            device=first,
            gateway=gateway or UNDERLAY_GATEWAY,
            source=node_address,
            mtu=min(device.mtu for device in underlay),
        ),
        Route(destination=own_locator.network, metric=LAST_METRIC, kind=RouteKind.UNREACHABLE),
    }
    neighbours = set()
    if next_hop is NextHop.NEIGHBOUR:
        neighbours.add(Neighbour(address=UNDERLAY_GATEWAY, device=first, mac=UNDERLAY_GATEWAY_MAC))
        for locator, address in locators.items():
            if locator != own_locator:
                routes.add(Route(destination=locator.network, device=first, gateway=address))
    for pod in pods:
        routes.add(pod_route(pod, node_address))
        neighbours.add(Neighbour(address=pod.address, device=pod.device, mac=pod.mac))
    return HostState(
        routes=frozenset(routes),
        neighbours=frozenset(neighbours),
        underlay=tuple(device.name for device in underlay),
        ipv4=ipv4,
        complete=complete,
    )


def pod_route(pod: PodRoute, source: ipaddress.IPv6Address | None) -> Route:
    """Return the route to a pod of this host; `source` is for IPv6."""
    own = source if pod.address.version == 6 else None
    return Route(destination=ipaddress.ip_network(pod.address), device=pod.device, source=own)
