# SPDX-License-Identifier: Apache-2.0
"""A host's routes, neighbours and sysctls: read back, compare, apply; implements core.network.HostNetworking.

Every call works in the namespace of the calling thread: the host's.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Iterable, Sequence
from pathlib import Path

from agent.core.network import Device, Hop, HostState, IpAddress, Neighbour, NetworkError, Renumbered, Route
from agent.core.ports import Records
from agent.kernel import ipv4, rtnetlink, sysctl
from agent.kernel.netlink import NetlinkError, Request, Socket
from agent.kernel.veth import delete, find_link, marked_links

_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL)
"""What a look-up answers where there is no route, or an unreachable, prohibiting or black hole one."""

_GONE = (errno.ENODEV, errno.ESRCH, errno.ENOENT)


class KernelHost:
    """The kernel's side of a host's network."""

    def __init__(self, *, records: Records, sysctls: Path = sysctl.ROOT) -> None:
        """Keep what sysctls were before in `records`, which hold nothing else; `sysctls` is where they are."""
        self._root = sysctls
        self._sysctls = sysctl.SavedSysctls(records=records, root=sysctls)

    def device(self, name: str) -> Device:
        """Return the device of that name; NetworkError if there is none."""
        with Socket.open() as netlink:
            link = find_link(netlink, name)
        if link is None:
            raise NetworkError(f"device {name!r} does not exist on this host")
        return Device(name=link.name, index=link.index, mtu=link.mtu, mac=link.mac, up=link.up)

    def device_of(self, address: ipaddress.IPv6Address) -> str:
        """Return the name of the device that has an address; NetworkError if none has, Renumbered if it has others."""
        with Socket.open() as netlink:
            listed = list(map(rtnetlink.parse_address, netlink.dump(rtnetlink.dump_addresses())))
            having = [found.device for found in listed if found.address == address]
            for link in map(rtnetlink.parse_link, netlink.dump(rtnetlink.dump_links())):
                if link.index in having:
                    return link.name
        missing = f"no device of this host has the node address {address}"
        others = {
            str(found.address) for found in listed if not (found.address.is_loopback or found.address.is_link_local)
        }
        if others:
            raise Renumbered(f"{missing}, but {', '.join(sorted(others))}: the agent must be started with the new one")
        raise NetworkError(f"{missing}: which is its underlay?")

    def lookup(self, address: ipaddress.IPv6Address) -> Hop | None:
        """Return where a packet to the address would go; None if nowhere."""
        with Socket.open() as netlink:
            try:
                listed = rtnetlink.parse_route(netlink.get(rtnetlink.find_route(address))[1])
            except NetlinkError as error:
                if error.errno in _NO_ROUTE:
                    return None
                raise
        return Hop(
            device=listed.route.device,
            gateway=_ipv6(listed.route.gateway),
            source=_ipv6(listed.route.source),
            ours=listed.protocol == rtnetlink.ROUTE_PROTOCOL,
        )

    def reconcile(self, desired: HostState) -> Sequence[str]:
        """Read back, compare, apply; return in words what was changed (see core.network.HostNetworking)."""
        with Socket.open() as netlink:
            changes = sysctl.wanted(self._root, _with_learnt_routes(netlink, desired.underlay), ipv4=desired.ipv4)
            self._sysctls.apply(changes)
            words = [f"sysctl {name} = {value}" for name, value in changes.items()]
            neighbours, routes = _our_neighbours(netlink), _our_routes(netlink)
            links = marked_links(netlink)  # last: none of theirs must look like a stray
            pods = {index for link in links for index in (link.index, link.ipv4_index)}
            words += _reconcile_neighbours(netlink, desired, neighbours, pods)
            words += _reconcile_routes(netlink, desired, routes, pods)
        return words

    def uninstall(self) -> None:
        """Remove all links, routes and neighbours that bear our mark, and restore the sysctls."""
        with Socket.open() as netlink:
            for link in marked_links(netlink):
                ipv4.unwire(netlink, link.name)
                delete(netlink, link.index, link.name)
            _apply(netlink, [rtnetlink.delete_route(route) for route in _our_routes(netlink)])
            _apply(netlink, [rtnetlink.delete_neighbour(found) for found in _our_neighbours(netlink)])
        self._sysctls.restore()


def _ipv6(address: IpAddress | None) -> ipaddress.IPv6Address | None:
    return address if isinstance(address, ipaddress.IPv6Address) else None


def _with_learnt_routes(netlink: Socket, underlay: Sequence[str]) -> list[str]:
    """Return the underlay devices and every other one that routes were learnt on from router advertisements."""
    listed = map(rtnetlink.parse_route, netlink.dump(rtnetlink.dump_routes(rtnetlink.RA_PROTOCOL)))
    learnt = {found.route.device for found in listed}
    if not learnt:
        return list(underlay)
    links = map(rtnetlink.parse_link, netlink.dump(rtnetlink.dump_links()))
    names = {link.name for link in links if link.index in learnt}
    return [*underlay, *sorted(names.difference(underlay))]


def _our_routes(netlink: Socket) -> set[Route]:
    bodies = (
        body
        for version in rtnetlink.FAMILIES
        for body in netlink.dump(rtnetlink.dump_routes(rtnetlink.ROUTE_PROTOCOL, version))
    )
    listed = map(rtnetlink.parse_route, bodies)
    return {found.route for found in listed if found.protocol == rtnetlink.ROUTE_PROTOCOL}


def _our_neighbours(netlink: Socket) -> set[Neighbour]:
    bodies = (body for version in rtnetlink.FAMILIES for body in netlink.dump(rtnetlink.dump_neighbours(version)))
    listed = map(rtnetlink.parse_neighbour, bodies)
    return {neighbour for neighbour, permanent, ours in listed if ours and permanent}


def _reconcile_neighbours(netlink: Socket, state: HostState, present: set[Neighbour], pods: set[int]) -> list[str]:
    desired = state.neighbours
    missing = sorted(desired - present, key=str)
    keys = {(wanted.address, wanted.device) for wanted in desired}
    extra = [
        found
        for found in sorted(present - desired, key=str)
        if state.complete and (found.address, found.device) not in keys and found.device not in pods
    ]
    _apply(netlink, [rtnetlink.put_neighbour(wanted) for wanted in missing])
    _apply(netlink, [rtnetlink.delete_neighbour(found) for found in extra])
    return _words("neighbour", (str(wanted.address) for wanted in missing), (str(found.address) for found in extra))


def _reconcile_routes(netlink: Socket, state: HostState, present: set[Route], pods: set[int]) -> list[str]:
    desired = state.routes
    taken = {(found.destination, found.metric) for found in present}
    to_pods = {(found.destination, found.metric) for found in present if found.device in pods}
    missing = [
        wanted
        for wanted in sorted(desired - present, key=str)
        # a pod wired since the state was made has the address now: its route is newer than the state
        if wanted.device not in pods or (wanted.destination, wanted.metric) not in to_pods
    ]
    keys = {(wanted.destination, wanted.metric) for wanted in desired}
    extra = [
        found
        for found in sorted(present - desired, key=str)
        if state.complete and (found.destination, found.metric) not in keys and found.device not in pods
    ]
    requests = [
        rtnetlink.put_route(wanted) if (wanted.destination, wanted.metric) in taken else rtnetlink.add_route(wanted)
        for wanted in missing
    ]
    failures = _failures(netlink, requests)
    if any(error.errno == errno.EEXIST for error in failures):
        # a pod wired since we read has brought its route along
        still = {f"route to {wanted.destination}" for wanted in desired - _our_routes(netlink)}
        failures = [error for error in failures if error.what in still]
    _apply(netlink, [rtnetlink.delete_route(found) for found in extra])
    _raise(failures)
    return _words("route", (str(wanted.destination) for wanted in missing), (str(found.destination) for found in extra))


def _words(what: str, added: Iterable[str], removed: Iterable[str]) -> list[str]:
    return [f"{what} {name} set" for name in added] + [f"{what} {name} removed" for name in removed]


def _failures(netlink: Socket, requests: Sequence[Request]) -> list[NetlinkError]:
    """Carry out all requests; return the failures that matter: an object that is gone meanwhile does not."""
    return [error for error in netlink.attempt(requests) if error is not None and error.errno not in _GONE]


def _raise(failures: Sequence[NetlinkError]) -> None:
    if failures:
        raise NetworkError("; ".join(str(error) for error in failures)) from failures[0]


def _apply(netlink: Socket, requests: Sequence[Request]) -> None:
    _raise(_failures(netlink, requests))
