# SPDX-License-Identifier: Apache-2.0
"""A pod's second link, for IPv4 alone: wired, checked and taken away beside the first one; for agent/kernel/wiring.py.

Neither end takes IPv6: what a pod would send there by it has not been judged by `from_pod`.
"""

from __future__ import annotations

import ipaddress
from contextlib import ExitStack
from pathlib import Path

from agent.core.ipv4 import Ipv4Link, host_name
from agent.core.network import Neighbour, NotWired, PodRoute, Route, pod_route
from agent.kernel import rtnetlink, veth
from agent.kernel.namespace import in_namespace
from agent.kernel.netlink import NetlinkError, Socket

_EVERYWHERE = ipaddress.IPv4Network("0.0.0.0/0")
_SOMEWHERE = ipaddress.IPv4Address("192.0.2.1")  # documentation's (RFC 5737): it has no route of its own


def wire(host: Socket, link: Ipv4Link, netns_fd: int, root: Path) -> Socket:
    """Attach it, and return a socket in the pod that hears of its links; whatever fails leaves nothing behind."""
    veth.delete_named(host, link.host_name)  # the pod of an agent that was killed half way
    index = veth.new_pair(host, link, netns_fd)
    with ExitStack() as undo:
        undo.callback(veth.delete, host, index, link.host_name)
        veth.set_sysctls(root, link.host_name, disable_ipv6=1)
        inside = undo.enter_context(in_namespace(netns_fd, lambda: _wire_pod(link, root)))
        way = PodRoute(address=link.address.ip, device=index, mac=link.pod_mac)
        host.run(
            rtnetlink.set_up(index, link.host_name),
            rtnetlink.put_neighbour(Neighbour(address=way.address, device=index, mac=link.pod_mac)),
            rtnetlink.put_route(pod_route(way, None)),
        )
        undo.pop_all()
    return inside


def check(host: Socket, link: Ipv4Link, netns_fd: int) -> None:
    """Return if all is as wire() made it; NotWired says what is not."""
    present = veth.find_link(host, link.host_name)
    if present is None or not veth.is_ours(present, link):
        raise NotWired(f"interface {link.host_name} of the host is gone")
    veth.check_host(host, present, link, netns_fd)
    _check_route(host, link.address.ip, present.index, None)
    veth.check_neighbour(host, Neighbour(address=link.address.ip, device=present.index, mac=link.pod_mac))
    in_namespace(netns_fd, lambda: _check_pod(link))


def unwire(host: Socket, pod: str) -> None:
    """Remove the second link of the pod whose first one has that name; none is no error."""
    name = host_name(pod)
    if host.index(name) is not None:
        veth.delete_named(host, name)


def _wire_pod(link: Ipv4Link, root: Path) -> Socket:
    with ExitStack() as undo:
        netlink = undo.enter_context(Socket.open())
        veth.set_sysctls(root, link.interface, disable_ipv6=1)
        index = veth.index_inside(netlink, link)
        netlink.run(
            rtnetlink.mark_link(name=link.interface, alias=link.alias),
            rtnetlink.new_address(index, link.address.ip),
            rtnetlink.set_up(index, link.interface),
            rtnetlink.put_neighbour(Neighbour(address=link.gateway, device=index, mac=link.host_mac)),
            rtnetlink.put_route(Route(destination=_EVERYWHERE, device=index, gateway=link.gateway)),
        )
        netlink.subscribe(rtnetlink.LINKS)
        undo.pop_all()
    return netlink


def _check_pod(link: Ipv4Link) -> None:
    with Socket.open() as netlink:
        index = veth.check_inside(netlink, link)
        addresses = map(rtnetlink.parse_address, netlink.dump(rtnetlink.dump_addresses(version=4)))
        if not any((found.device, found.address) == (index, link.address.ip) for found in addresses):
            raise NotWired(f"address {link.address.ip} is gone from interface {link.interface!r} of the pod")
        _check_route(netlink, _SOMEWHERE, index, link.gateway)
        veth.check_neighbour(netlink, Neighbour(address=link.gateway, device=index, mac=link.host_mac))


def _check_route(
    netlink: Socket, target: ipaddress.IPv4Address, device: int, gateway: ipaddress.IPv4Address | None
) -> None:
    try:
        route = rtnetlink.parse_route(netlink.get(rtnetlink.find_route(target))[1]).route
    except NetlinkError as error:
        raise NotWired(f"there is no route to {target}") from error
    if (route.device, route.gateway) != (device, gateway):
        raise NotWired(f"the route to {target} is not the one that was made")
