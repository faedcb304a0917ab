# SPDX-License-Identifier: Apache-2.0
"""A pod's links: one veth pair, wired in two system calls on each side, and for IPv4 one more; implements Wiring.

Every call works in the namespace of the calling thread: the host's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from agent.core.network import (
    GATEWAY,
    HostLink,
    Neighbour,
    NetworkError,
    NotWired,
    PodLink,
    PodRoute,
    Route,
    WiredPod,
    pod_route,
)
from agent.kernel import ipv4, rtnetlink, sysctl, veth
from agent.kernel.namespace import in_namespace
from agent.kernel.netlink import NetlinkError, Socket
from agent.kernel.rtnetlink import Link

_Links = list[tuple[Socket, veth.Pair]]

_LOOPBACK = 1
_EVERYWHERE = ipaddress.IPv6Network("::/0")


class KernelWiring:
    """The kernel's way to attach pods."""

    def __init__(self, *, sysctls: Path = sysctl.ROOT) -> None:
        """Take where sysctls can be written, of whichever namespace the calling thread is in."""
        self._root = sysctls
        self._new: dict[str, _Links] = {}
        """Links just made, by the host's name of the pod's."""

    def wire(self, pod: PodLink, netns_fd: int) -> WiredPod:
        """Attach the pod, or find it attached (see core.network.Wiring)."""
        with Socket.open() as host:
            present = None if host.index(pod.host_name) is None else veth.find_link(host, pod.host_name)
            if present is not None:
                if not veth.is_ours(present, pod):
                    raise NetworkError(f"interface {pod.host_name} of the host is not ours: alias {present.alias!r}")
                try:
                    return self._check(host, present, pod, netns_fd)
                except NotWired:
                    veth.delete(host, present.index, present.name)
            self._taken(pod.host_name).close()
            wired, self._new[pod.host_name] = _wire(host, pod, netns_fd, self._root)
            return wired

    def settle(self, host_name: str) -> None:
        """Wait until a new pod sends and receives (see core.network.Wiring)."""
        links = self._new.get(host_name, [])
        with self._taken(host_name):
            for inside, pair in links:
                veth.until_ready(inside, pair, pair.address if isinstance(pair, PodLink) else None)

    def _taken(self, host_name: str) -> ExitStack:
        """Forget that links are new; closing what is returned closes their sockets."""
        sockets = ExitStack()
        for inside, _ in self._new.pop(host_name, []):
            sockets.enter_context(inside)
        return sockets

    def check(self, pod: PodLink, netns_fd: int) -> WiredPod:
        """Return the pod's links if all is as wire() made it; NotWired says what is not."""
        with Socket.open() as host:
            present = veth.find_link(host, pod.host_name)
            if present is None or not veth.is_ours(present, pod):
                raise NotWired(f"interface {pod.host_name} of the host is gone")
            return self._check(host, present, pod, netns_fd)

    def unwire(self, host_name: str) -> None:
        """Remove a pod's links; none of that name is no error, one that is not ours stays."""
        self._taken(host_name).close()
        with Socket.open() as host:
            ipv4.unwire(host, host_name)  # first: what is left of a pod is known by its first link
            veth.delete_named(host, host_name)

    def links(self) -> Sequence[HostLink]:
        """Return the host's ends of all pods."""
        with Socket.open() as host:
            return veth.marked_links(host)

    def _check(self, host: Socket, present: Link, pod: PodLink, netns_fd: int) -> WiredPod:
        _check_host(host, present, pod, netns_fd)
        in_namespace(netns_fd, lambda: _check_pod(pod))
        if pod.ipv4 is not None:
            ipv4.check(host, pod.ipv4, netns_fd)
        return WiredPod(host_index=present.index, host_mac=pod.host_mac, pod_mac=pod.pod_mac, mtu=pod.mtu)


def _wire(host: Socket, pod: PodLink, netns_fd: int, root: Path) -> tuple[WiredPod, _Links]:
    """Make a pod's links; return them, each with a socket in the pod that hears of it, too."""
    index = veth.new_pair(host, pod, netns_fd)
    with ExitStack() as undo:
        undo.callback(veth.delete, host, index, pod.host_name)
        veth.set_sysctls(root, pod.host_name, accept_ra=0, accept_redirects=0)
        inside = undo.enter_context(in_namespace(netns_fd, lambda: _wire_pod(pod, root)))
        way = PodRoute(address=pod.address, device=index, mac=pod.pod_mac)
        host.run(
            rtnetlink.set_up(index, pod.host_name),
            rtnetlink.put_neighbour(Neighbour(address=pod.address, device=index, mac=pod.pod_mac)),
            rtnetlink.put_route(pod_route(way, pod.source)),
        )
        links: _Links = [(inside, pod)]
        if pod.ipv4 is not None:
            links.append((ipv4.wire(host, pod.ipv4, netns_fd, root), pod.ipv4))
        undo.pop_all()
    return WiredPod(host_index=index, host_mac=pod.host_mac, pod_mac=pod.pod_mac, mtu=pod.mtu), links


def _wire_pod(pod: PodLink, root: Path) -> Socket:
    """Do the pod's side, inside its namespace; return a socket there that hears of its links and routes."""
    with ExitStack() as undo, Socket.open() as netlink:
        hearing = undo.enter_context(Socket.open())
        hearing.subscribe(rtnetlink.LINKS)
        hearing.subscribe(rtnetlink.IPV6_ROUTES)
        veth.set_sysctls(root, pod.interface, disable_ipv6=0, accept_ra=0, accept_redirects=0, accept_dad=0)
        index = veth.index_inside(netlink, pod)
        netlink.run(
            rtnetlink.mark_link(name=pod.interface, alias=pod.alias),
            rtnetlink.set_up(_LOOPBACK, "lo"),
            rtnetlink.new_address(index, pod.address),
            rtnetlink.set_up(index, pod.interface),
            rtnetlink.put_neighbour(Neighbour(address=GATEWAY, device=index, mac=pod.host_mac)),
            rtnetlink.put_route(Route(destination=_EVERYWHERE, device=index, gateway=GATEWAY)),
        )
        undo.pop_all()
    return hearing


def _check_host(host: Socket, present: Link, pod: PodLink, netns_fd: int) -> None:
    veth.check_host(host, present, pod, netns_fd)
    try:
        listed = rtnetlink.parse_route(host.get(rtnetlink.find_route(pod.address))[1])
    except NetlinkError as error:
        raise NotWired(f"the host has no route to {pod.address}") from error
    if listed.route.device != present.index:
        raise NotWired(f"the host's route to {pod.address} does not lead to {pod.host_name}")
    veth.check_neighbour(host, Neighbour(address=pod.address, device=present.index, mac=pod.pod_mac))


def _check_pod(pod: PodLink) -> None:
    with Socket.open() as netlink:
        index = veth.check_inside(netlink, pod)
        addresses = map(rtnetlink.parse_address, netlink.dump(rtnetlink.dump_addresses()))
        if not any(
            found.device == index
            and found.address == pod.address
            and not found.flags & (rtnetlink.TENTATIVE | rtnetlink.DAD_FAILED)
            for found in addresses
        ):
            raise NotWired(f"address {pod.address} is gone from interface {pod.interface!r} of the pod")
        routes = [rtnetlink.parse_route(body).route for body in netlink.dump(rtnetlink.dump_routes())]
        if not any((r.destination, r.device, r.gateway) == (_EVERYWHERE, index, GATEWAY) for r in routes):
            raise NotWired(f"the pod's default route by {GATEWAY} is gone")
        veth.check_neighbour(netlink, Neighbour(address=GATEWAY, device=index, mac=pod.host_mac))
