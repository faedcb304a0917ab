# SPDX-License-Identifier: Apache-2.0
"""One veth pair between host and pod: made with our mark, found, compared, deleted; for agent/kernel.

Every call works in the namespace of the socket it is given.
"""

from __future__ import annotations

import errno
import ipaddress
import os
from pathlib import Path
from typing import Protocol

from agent.core import ipv4
from agent.core.network import HostLink, InterfaceExists, Neighbour, NetworkError, NotWired, parse_alias
from agent.kernel import rtnetlink
from agent.kernel.netlink import NetlinkError, Socket
from agent.kernel.rtnetlink import Link


class Pair(Protocol):
    """What a pair is to be."""

    @property
    def interface(self) -> str:
        """Name inside the pod."""

    @property
    def host_name(self) -> str:
        """Name of the host's end."""

    @property
    def alias(self) -> str:
        """The mark on both ends."""

    @property
    def host_mac(self) -> bytes:
        """6 bytes."""

    @property
    def pod_mac(self) -> bytes:
        """6 bytes."""

    @property
    def mtu(self) -> int:
        """Bytes, of both ends."""


def set_sysctls(root: Path, device: str, **settings: int) -> None:
    """Set IPv6 sysctls of a device in the calling thread's namespace; NetworkError names the one that fails."""
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
    """Return the link of that name; None if there is none."""
    try:
        return rtnetlink.parse_link(netlink.get(rtnetlink.get_link(name))[1])
    except NetlinkError as error:
        if error.errno == errno.ENODEV:
            return None
        raise


def marked_links(netlink: Socket) -> list[HostLink]:
    """Return the pods' links that bear our mark, each with its second one."""
    listed = [rtnetlink.parse_link(body) for body in netlink.dump(rtnetlink.dump_links("veth"))]
    ours = [link for link in listed if link.group == rtnetlink.LINK_GROUP]
    second = {ipv4.parse_alias(link.alias): link.index for link in ours}
    return [
        HostLink(
            name=link.name,
            index=link.index,
            mac=link.mac,
            mtu=link.mtu,
            up=link.up,
            container_id=owner[0],
            interface=owner[1],
            ipv4_index=second.get(link.name, 0),
        )
        for link in ours
        if (owner := parse_alias(link.alias)) is not None
    ]


def is_ours(link: Link, pair: Pair) -> bool:
    """Tell whether a link bears this pair's mark."""
    return link.group == rtnetlink.LINK_GROUP and link.alias == pair.alias


def new_pair(host: Socket, pair: Pair, netns_fd: int) -> int:
    """Make the pair, marked, and return the index of the host's end."""
    made, marked = host.attempt(
        [
            rtnetlink.new_veth(
                name=pair.host_name,
                mac=pair.host_mac,
                peer=pair.interface,
                peer_mac=pair.pod_mac,
                peer_namespace=netns_fd,
                mtu=pair.mtu,
            ),
            rtnetlink.mark_link(name=pair.host_name, alias=pair.alias),
        ]
    )
    if made is not None:
        if made.errno == errno.EEXIST:
            raise InterfaceExists(f"interface {pair.interface!r} exists in the pod's namespace") from made
        raise made
    index = host.index(pair.host_name)
    if index is None:
        raise NetworkError(f"interface {pair.host_name} vanished while it was made: the pod's namespace is gone")
    if marked is not None:
        delete(host, index, pair.host_name)
        raise marked
    return index


def delete(host: Socket, index: int, name: str) -> None:
    """Delete a pair by one end; one that is gone is no error."""
    outcome = host.attempt([rtnetlink.delete_link(index, name)])[0]
    if outcome is not None and outcome.errno != errno.ENODEV:
        raise outcome


def delete_named(host: Socket, name: str) -> None:
    """Delete the pair of ours whose host's end has that name; none is no error, one that is not ours stays."""
    present = find_link(host, name)
    if present is None:
        return
    if present.group != rtnetlink.LINK_GROUP:
        raise NetworkError(f"interface {name} of the host is not ours: alias {present.alias!r}")
    delete(host, present.index, name)


def index_inside(netlink: Socket, pair: Pair) -> int:
    """Return the index of the pod's end, in the pod's namespace."""
    index = netlink.index(pair.interface)
    if index is None:
        raise NetworkError(f"interface {pair.interface!r} vanished from the pod's namespace")
    return index


def check_host(host: Socket, present: Link, pair: Pair, netns_fd: int) -> None:
    """Raise NotWired if the host's end is not as it was made, or leads elsewhere."""
    where = rtnetlink.parse_namespace_id(host.get(rtnetlink.namespace_id(netns_fd))[1])
    if present.peer_namespace != where:
        raise NotWired(f"interface {pair.host_name} of the host leads to another namespace than the pod's")
    _check_link(present, "of the host", mac=pair.host_mac, mtu=pair.mtu)


def until_ready(netlink: Socket, pair: Pair, address: ipaddress.IPv6Address | None) -> None:
    """Wait until the pod's end sends and, if it has an IPv6 address, receives.

    The socket has heard of links there since before the host's end was set up, and of IPv6 routes since before there
    was an address.  Both ends are up, but kernel threads come to the rest: the end that is up first gets its queue when
    it has a carrier (net/core/link_watch.c, linkwatch_do_dev), and an address its local route when detection of
    duplicates ends, also where there is none (net/ipv6/addrconf.c, addrconf_dad_work).  Until then what the pod sends
    is dropped, or what it is sent, and TCP tries again a second later.
    """
    sends, receives = False, address is None
    for kind, body in netlink.changes():
        if kind == rtnetlink.NEW_LINK:
            link = rtnetlink.parse_link(body)
            sends = sends or (link.name == pair.interface and link.active)
        elif kind == rtnetlink.NEW_ROUTE and address is not None:
            receives = receives or rtnetlink.is_local(rtnetlink.parse_route(body), address)
        if sends and receives:
            return


def check_inside(netlink: Socket, pair: Pair) -> int:
    """Return the index of the pod's end, in the pod's namespace; NotWired if it is not as it was made."""
    link = find_link(netlink, pair.interface)
    if link is None:
        raise NotWired(f"interface {pair.interface!r} is gone from the pod's namespace")
    _check_link(link, "of the pod", mac=pair.pod_mac, mtu=pair.mtu)
    return link.index


def check_neighbour(netlink: Socket, wanted: Neighbour) -> None:
    """Raise NotWired if a permanent neighbour is not there."""
    try:
        body = netlink.get(rtnetlink.find_neighbour(wanted.device, wanted.address))[1]
    except NetlinkError as error:
        raise NotWired(f"the permanent neighbour {wanted.address} is gone") from error
    found, permanent, _ = rtnetlink.parse_neighbour(body)
    if found != wanted or not permanent:
        raise NotWired(f"the neighbour {wanted.address} is not the permanent one with {wanted.mac.hex(':')}")


def _check_link(link: Link, whose: str, *, mac: bytes, mtu: int) -> None:
    for what, found, wanted in (
        ("MAC", link.mac.hex(":"), mac.hex(":")),
        ("MTU", link.mtu, mtu),
        ("up", link.up, True),
    ):
        if found != wanted:
            raise NotWired(f"interface {link.name} {whose} has {what} {found}, not {wanted}")
