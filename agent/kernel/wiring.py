# SPDX-License-Identifier: Apache-2.0
"""A pod's links: one veth pair, wired in two system calls on each side; implements core.network.Wiring.

Every call works in the namespace of the calling thread: the host's.
"""

from __future__ import annotations

import errno
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from agent.core.network import (
    GATEWAY,
    HostLink,
    InterfaceExists,
    Neighbour,
    NetworkError,
    NotWired,
    PodLink,
    PodRoute,
    Route,
    WiredPod,
    parse_alias,
    pod_route,
)
from agent.kernel import rtnetlink, sysctl
from agent.kernel.namespace import in_namespace
from agent.kernel.netlink import NetlinkError, Socket
from agent.kernel.rtnetlink import Link

_LOOPBACK = 1
_EVERYWHERE = ipaddress.IPv6Network("::/0")


def _set(root: Path, device: str, **settings: int) -> None:
    for name, value in settings.items():
        try:
            descriptor = os.open(f"{root}/net/ipv6/conf/{device}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, b"%d" % value)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise NetworkError(f"sysctl net.ipv6.conf.{device}.{name}: {error.strerror}") from error


def find_link(netlink: Socket, name: str) -> Link | None:
    """Return the link of that name in the socket's namespace; None if there is none."""
    try:
        return rtnetlink.parse_link(netlink.get(rtnetlink.get_link(name))[1])
    except NetlinkError as error:
        if error.errno == errno.ENODEV:
            return None
        raise


def marked_links(netlink: Socket) -> list[HostLink]:
    """Return the links that bear our mark in the socket's namespace."""
    found = []
    for body in netlink.dump(rtnetlink.dump_links("veth")):
        link = rtnetlink.parse_link(body)
        owner = parse_alias(link.alias)
        if owner is not None and link.group == rtnetlink.LINK_GROUP:
            container_id, interface = owner
            found.append(
                HostLink(
                    name=link.name,
                    index=link.index,
                    mac=link.mac,
                    mtu=link.mtu,
                    up=link.up,
                    container_id=container_id,
                    interface=interface,
                )
            )
    return found


class KernelWiring:
    """The kernel's way to attach pods."""

    def __init__(self, *, sysctls: Path = sysctl.ROOT) -> None:
        """Take where sysctls can be written, of whichever namespace the calling thread is in."""
        self._root = sysctls

    def wire(self, pod: PodLink, netns_fd: int) -> WiredPod:
        """Attach the pod, or find it attached (see core.network.Wiring)."""
        with Socket.open() as host:
            present = None if host.index(pod.host_name) is None else find_link(host, pod.host_name)
            if present is not None:
                if not _is_ours(present, pod):
                    raise NetworkError(f"interface {pod.host_name} of the host is not ours: alias {present.alias!r}")
                try:
                    return self._check(host, present, pod, netns_fd)
                except NotWired:
                    _delete(host, present.index, present.name)
            return _wire(host, pod, netns_fd, self._root)

    def check(self, pod: PodLink, netns_fd: int) -> WiredPod:
        """Return the pod's links if all is as wire() made it; NotWired says what is not."""
        with Socket.open() as host:
            present = find_link(host, pod.host_name)
            if present is None or not _is_ours(present, pod):
                raise NotWired(f"interface {pod.host_name} of the host is gone")
            return self._check(host, present, pod, netns_fd)

    def unwire(self, host_name: str) -> None:
        """Remove a pod's links; none of that name is no error, one that is not ours stays."""
        with Socket.open() as host:
            present = find_link(host, host_name)
            if present is None:
                return
            if present.group != rtnetlink.LINK_GROUP:
                raise NetworkError(f"interface {host_name} of the host is not ours: alias {present.alias!r}")
            _delete(host, present.index, host_name)

    def links(self) -> Sequence[HostLink]:
        """Return the host's ends of all pods."""
        with Socket.open() as host:
            return marked_links(host)

    def _check(self, host: Socket, present: Link, pod: PodLink, netns_fd: int) -> WiredPod:
        _check_host(host, present, pod, netns_fd)
        in_namespace(netns_fd, lambda: _check_pod(pod))
        return WiredPod(host_index=present.index, host_mac=pod.host_mac, pod_mac=pod.pod_mac, mtu=pod.mtu)


def _is_ours(link: Link, pod: PodLink) -> bool:
    return link.group == rtnetlink.LINK_GROUP and link.alias == pod.alias


def _delete(host: Socket, index: int, name: str) -> None:
    outcome = host.attempt([rtnetlink.delete_link(index, name)])[0]
    if outcome is not None and outcome.errno != errno.ENODEV:
        raise outcome


def _wire(host: Socket, pod: PodLink, netns_fd: int, root: Path) -> WiredPod:
    index = _new_pair(host, pod, netns_fd)
    try:
        _set(root, pod.host_name, accept_ra=0, accept_redirects=0)
        in_namespace(netns_fd, lambda: _wire_pod(pod, root))
        way = PodRoute(address=pod.address, device=index, mac=pod.pod_mac)
        host.run(
            rtnetlink.set_up(index, pod.host_name),
            rtnetlink.put_neighbour(Neighbour(address=pod.address, device=index, mac=pod.pod_mac)),
            rtnetlink.put_route(pod_route(way, pod.source)),
        )
    except BaseException:
        _delete(host, index, pod.host_name)
        raise
    return WiredPod(host_index=index, host_mac=pod.host_mac, pod_mac=pod.pod_mac, mtu=pod.mtu)


def _new_pair(host: Socket, pod: PodLink, netns_fd: int) -> int:
    """Make the pair, marked, and return the index of the host's end."""
    made, marked = host.attempt(
        [
            rtnetlink.new_veth(
                name=pod.host_name,
                mac=pod.host_mac,
                peer=pod.interface,
                peer_mac=pod.pod_mac,
                peer_namespace=netns_fd,
                mtu=pod.mtu,
            ),
            rtnetlink.mark_link(name=pod.host_name, alias=pod.alias),
        ]
    )
    if made is not None:
        if made.errno == errno.EEXIST:
            raise InterfaceExists(f"interface {pod.interface!r} exists in the pod's namespace") from made
        raise made
    index = host.index(pod.host_name)
    if index is None:
        raise NetworkError(f"interface {pod.host_name} vanished while it was made: the pod's namespace is gone")
    if marked is not None:
        _delete(host, index, pod.host_name)
        raise marked
    return index


def _wire_pod(pod: PodLink, root: Path) -> None:
    """Do the pod's side, inside its namespace."""
    with Socket.open() as netlink:
        _set(root, pod.interface, disable_ipv6=0, accept_ra=0, accept_redirects=0, accept_dad=0)
        index = netlink.index(pod.interface)
        if index is None:
            raise NetworkError(f"interface {pod.interface!r} vanished from the pod's namespace")
        netlink.run(
            rtnetlink.mark_link(name=pod.interface, alias=pod.alias),
            rtnetlink.set_up(_LOOPBACK, "lo"),
            rtnetlink.new_address(index, pod.address),
            rtnetlink.set_up(index, pod.interface),
            rtnetlink.put_neighbour(Neighbour(address=GATEWAY, device=index, mac=pod.host_mac)),
            rtnetlink.put_route(Route(destination=_EVERYWHERE, device=index, gateway=GATEWAY)),
        )


def _check_host(host: Socket, present: Link, pod: PodLink, netns_fd: int) -> None:
    where = rtnetlink.parse_namespace_id(host.get(rtnetlink.namespace_id(netns_fd))[1])
    if present.peer_namespace != where:
        raise NotWired(f"interface {pod.host_name} of the host leads to another namespace than the pod's")
    _check_link(present, "of the host", mac=pod.host_mac, mtu=pod.mtu)
    try:
        listed = rtnetlink.parse_route(host.get(rtnetlink.find_route(pod.address))[1])
    except NetlinkError as error:
        raise NotWired(f"the host has no route to {pod.address}") from error
    if listed.route.device != present.index:
        raise NotWired(f"the host's route to {pod.address} does not lead to {pod.host_name}")
    _check_neighbour(host, Neighbour(address=pod.address, device=present.index, mac=pod.pod_mac))


def _check_pod(pod: PodLink) -> None:
    with Socket.open() as netlink:
        link = find_link(netlink, pod.interface)
        if link is None:
            raise NotWired(f"interface {pod.interface!r} is gone from the pod's namespace")
        _check_link(link, "of the pod", mac=pod.pod_mac, mtu=pod.mtu)
        addresses = map(rtnetlink.parse_address, netlink.dump(rtnetlink.dump_addresses()))
        if not any(
            found.device == link.index
            and found.address == pod.address
            and not found.flags & (rtnetlink.TENTATIVE | rtnetlink.DAD_FAILED)
            for found in addresses
        ):
            raise NotWired(f"address {pod.address} is gone from interface {pod.interface!r} of the pod")
        routes = [rtnetlink.parse_route(body).route for body in netlink.dump(rtnetlink.dump_routes())]
        if not any((r.destination, r.device, r.gateway) == (_EVERYWHERE, link.index, GATEWAY) for r in routes):
            raise NotWired(f"the pod's default route by {GATEWAY} is gone")
        _check_neighbour(netlink, Neighbour(address=GATEWAY, device=link.index, mac=pod.host_mac))


def _check_link(link: Link, whose: str, *, mac: bytes, mtu: int) -> None:
    for what, found, wanted in (
        ("MAC", link.mac.hex(":"), mac.hex(":")),
        ("MTU", link.mtu, mtu),
        ("up", link.up, True),
    ):
        if found != wanted:
            raise NotWired(f"interface {link.name} {whose} has {what} {found}, not {wanted}")


def _check_neighbour(netlink: Socket, wanted: Neighbour) -> None:
    try:
        body = netlink.get(rtnetlink.find_neighbour(wanted.device, wanted.address))[1]
    except NetlinkError as error:
        raise NotWired(f"the permanent neighbour {wanted.address} is gone") from error
    found, permanent, _ = rtnetlink.parse_neighbour(body)
    if found != wanted or not permanent:
        raise NotWired(f"the neighbour {wanted.address} is not the permanent one with {wanted.mac.hex(':')}")
