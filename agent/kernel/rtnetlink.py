# SPDX-License-Identifier: Apache-2.0
"""Links, addresses, routes and neighbours in netlink's wire form; for agent/kernel.

Numbers are those of linux/rtnetlink.h, if_link.h, if_addr.h and neighbour.h.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass

from agent.core.network import IpAddress, Neighbour, Route, RouteKind
from agent.kernel.netlink import CREATE, EXCLUSIVE, REPLACE, Request, attribute, attributes, nest, number, text
from agent.kernel.netlink import to_number as _number
from agent.kernel.netlink import to_text as _text

ROUTE_PROTOCOL = 158
"""The mark on routes and neighbours; free in iproute2's rt_protos.d and in the kernel's RTPROT_*."""

LINK_GROUP = 0x11A
"""The mark that a link has from its birth on (the alias follows within the same system call)."""

NEW_LINK, DELETE_LINK, GET_LINK, SET_LINK = 16, 17, 18, 19
NEW_ADDRESS, GET_ADDRESS = 20, 22
NEW_ROUTE, DELETE_ROUTE, GET_ROUTE = 24, 25, 26
NEW_NEIGHBOUR, DELETE_NEIGHBOUR, GET_NEIGHBOUR = 28, 29, 30
GET_NAMESPACE_ID = 90

UP = 0x1
LINKS, IPV6_ROUTES = 1, 11
"""Groups of changes (RTNLGRP_LINK, RTNLGRP_IPV6_ROUTE)."""

RA_PROTOCOL = 9
PERMANENT = 0x80
TENTATIVE, DAD_FAILED = 0x40, 0x08

_NO_DAD, _NO_PREFIX_ROUTE = 0x02, 0x200
_MAIN_TABLE = 254
_LINK_SCOPE = 253
_ON_LINK = 0x4
_MTU_METRIC = 2
_LOCAL = 2  # RTN_LOCAL
_NO_COUNTERS = number(29, 1 << 3)  # IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS: more than half of an answer
_ADDRESS_GENERATION_NONE = 1
_ACTIVE = b"\6"  # IFLA_OPERSTATE: IF_OPER_UP

_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_IPV6 = socket.AF_INET6
FAMILIES = {4: socket.AF_INET, 6: _IPV6}
"""By the version of an address."""


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as the kernel lists it."""

    index: int
    name: str
    mtu: int
    mac: bytes
    flags: int
    kind: str
    alias: str
    group: int
    active: bool
    """Whether it sends what it is given: the kernel comes to that some time after both ends are up."""

    peer_namespace: int | None
    """Id, in the asking namespace, of the namespace that the other end is in; None: the same, or no other end."""

    @property
    def up(self) -> bool:
        """Whether it is administratively up."""
        return bool(self.flags & UP)


@dataclass(frozen=True, slots=True)
class Address:
    """An address of an interface as the kernel lists it."""

    device: int
    address: IpAddress
    prefix_length: int
    flags: int


@dataclass(frozen=True, slots=True)
class ListedRoute:
    """A route as the kernel lists it: what ilanet's own routes are made of, and who made it."""

    route: Route
    protocol: int
    table: int
    type: int


def _link_header(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return _LINK.pack(0, 0, index, flags, change)


def new_veth(*, name: str, mac: bytes, peer: str, peer_mac: bytes, peer_namespace: int, mtu: int) -> Request:
    """Make a veth pair, down, one end here and the other at once in the namespace of a descriptor."""
    other = _link_header() + b"".join(
        (text(3, peer), number(4, mtu), attribute(1, peer_mac), number(27, LINK_GROUP), number(28, peer_namespace))
    )
    body = _link_header() + b"".join(
        (
            text(3, name),
            number(4, mtu),
            attribute(1, mac),
            number(27, LINK_GROUP),
            nest(18, text(1, "veth"), nest(2, attribute(1, other))),
        )
    )
    return Request(NEW_LINK, body, f"interfaces {name} and {peer}", CREATE | EXCLUSIVE)


def mark_link(*, name: str, alias: str) -> Request:
    """Give a link its alias, and no link-local address of its own."""
    quiet = nest(26, nest(_IPV6, attribute(8, bytes([_ADDRESS_GENERATION_NONE]))))
    return Request(SET_LINK, _link_header() + text(3, name) + text(20, alias) + quiet, f"interface {name}")


def set_up(index: int, name: str) -> Request:
    """Set a link up."""
    return Request(SET_LINK, _link_header(index, UP, UP), f"interface {name}")


def delete_link(index: int, name: str) -> Request:
    """Delete a link (of a veth pair: both ends)."""
    return Request(DELETE_LINK, _link_header(index), f"interface {name}")


def get_link(name: str) -> Request:
    """Ask for one link; ENODEV if there is none."""
    return Request(GET_LINK, _link_header() + _NO_COUNTERS + text(3, name), f"interface {name}")


def dump_links(kind: str = "") -> Request:
    """Ask for all links, or all of a kind."""
    only = nest(18, text(1, kind)) if kind else b""
    return Request(GET_LINK, _link_header() + _NO_COUNTERS + only, "the list of interfaces")


def parse_link(body: bytes) -> Link:
    """Return the link in a message's body."""
    _, _, index, flags, _ = _LINK.unpack_from(body)
    found = attributes(body[_LINK.size :])
    details = attributes(found.get(18, b""))
    return Link(
        index=index,
        name=_text(found.get(3)),
        mtu=_number(found.get(4)),
        mac=found.get(1, b""),
        flags=flags,
        kind=_text(details.get(1)),
        alias=_text(found.get(20)),
        group=_number(found.get(27)),
        active=found.get(16) == _ACTIVE,
        peer_namespace=_number(found[37]) if 37 in found else None,
    )


def namespace_id(descriptor: int) -> Request:
    """Ask which id the asking namespace knows another by; parse_namespace_id reads the answer."""
    return Request(GET_NAMESPACE_ID, struct.pack("=Bxxx", 0) + number(3, descriptor), "the pod's namespace")


def parse_namespace_id(body: bytes) -> int:
    """Return the id; -1 (as a 32-bit number) if it has none."""
    return _number(attributes(body[4:]).get(1))


def new_address(index: int, address: IpAddress) -> Request:
    """Add a single address that is valid at once: without duplicate address detection and without a prefix route."""
    body = _ADDRESS.pack(FAMILIES[address.version], address.max_prefixlen, _NO_DAD, 0, index)
    body += attribute(1, address.packed) + attribute(2, address.packed) + number(8, _NO_DAD | _NO_PREFIX_ROUTE)
    return Request(NEW_ADDRESS, body, f"address {address}", CREATE | REPLACE)


def dump_addresses(version: int = 6) -> Request:
    """Ask for all addresses of a version of IP."""
    return Request(GET_ADDRESS, _ADDRESS.pack(FAMILIES[version], 0, 0, 0, 0), "the list of addresses")


def parse_address(body: bytes) -> Address:
    """Return the address in a message's body."""
    _, length, flags, _, index = _ADDRESS.unpack_from(body)
    found = attributes(body[_ADDRESS.size :])
    return Address(
        device=index,
        address=ipaddress.ip_address(found[1]),
        prefix_length=length,
        flags=_number(found.get(8), flags),
    )


def _route(kind: int, route: Route, flags: int = 0) -> Request:
    destination, scope, on_link = route.destination, 0, 0
    if destination.version == 4:  # IPv6 has neither, and knows its link-local next hops by themselves
        scope, on_link = (_LINK_SCOPE, 0) if route.gateway is None else (0, _ON_LINK)
    header = _ROUTE.pack(
        *(FAMILIES[destination.version], destination.prefixlen, 0, 0, _MAIN_TABLE, ROUTE_PROTOCOL, scope),
        *(route.kind.value, on_link),
    )
    body = [header, attribute(1, route.destination.network_address.packed), number(6, route.metric)]
    if route.device:
        body.append(number(4, route.device))
    if route.gateway is not None:
        body.append(attribute(5, route.gateway.packed))
    if route.source is not None:
        body.append(attribute(7, route.source.packed))
    if route.mtu:
        body.append(nest(8, number(_MTU_METRIC, route.mtu)))
    return Request(kind, b"".join(body), f"route to {route.destination}", flags)


def add_route(route: Route) -> Request:
    """Add a route; EEXIST if one of that destination and metric is there, whoever made it."""
    return _route(NEW_ROUTE, route, CREATE | EXCLUSIVE)


def put_route(route: Route) -> Request:
    """Add a route, or put it without a gap in the place of the one of that destination and metric."""
    return _route(NEW_ROUTE, route, CREATE | REPLACE)


def delete_route(route: Route) -> Request:
    """Delete a route of ours."""
    return _route(DELETE_ROUTE, route)


def dump_routes(protocol: int = 0, version: int = 6) -> Request:
    """Ask for the main table's routes of a version of IP, or those of one protocol."""
    header = _ROUTE.pack(FAMILIES[version], 0, 0, 0, _MAIN_TABLE, protocol, 0, 0, 0)
    return Request(GET_ROUTE, header, "the list of routes")


def find_route(address: IpAddress) -> Request:
    """Ask where a packet to the address would go; ENETUNREACH and the like if nowhere."""
    header = _ROUTE.pack(FAMILIES[address.version], address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    return Request(GET_ROUTE, header + attribute(1, address.packed), f"route to {address}")


def parse_route(body: bytes) -> ListedRoute:
    """Return the route in a message's body."""
    family, length, _, _, table, protocol, _, kind, _ = _ROUTE.unpack_from(body)
    found = attributes(body[_ROUTE.size :])
    unreachable = kind == RouteKind.UNREACHABLE.value
    metrics = attributes(found.get(8, b""))
    zero = bytes(16 if family == _IPV6 else 4)
    return ListedRoute(
        route=Route(
            destination=ipaddress.ip_network((found.get(1, zero), length)),
            device=0 if unreachable else _number(found.get(4)),
            gateway=_address(found.get(5)),
            source=_address(found.get(7)),
            mtu=_number(metrics.get(_MTU_METRIC)),
            metric=_number(found.get(6)),
            kind=RouteKind.UNREACHABLE if unreachable else RouteKind.UNICAST,
        ),
        protocol=protocol,
        table=_number(found.get(15), table),
        type=kind,
    )


def is_local(listed: ListedRoute, address: ipaddress.IPv6Address) -> bool:
    """Tell whether by this route packets to an address are for the namespace itself."""
    return listed.type == _LOCAL and listed.route.destination == ipaddress.IPv6Network(address)


def _address(raw: bytes | None) -> IpAddress | None:
    return None if raw is None else ipaddress.ip_address(raw)


def _neighbour(kind: int, neighbour: Neighbour, flags: int = 0) -> Request:
    body = _NEIGHBOUR.pack(FAMILIES[neighbour.address.version], neighbour.device, PERMANENT, 0, 0)
    body += attribute(1, neighbour.address.packed)
    if kind == NEW_NEIGHBOUR:
        body += attribute(2, neighbour.mac) + attribute(12, bytes([ROUTE_PROTOCOL]))
    return Request(kind, body, f"neighbour {neighbour.address}", flags)


def put_neighbour(neighbour: Neighbour) -> Request:
    """Add or replace a permanent neighbour."""
    return _neighbour(NEW_NEIGHBOUR, neighbour, CREATE | REPLACE)


def delete_neighbour(neighbour: Neighbour) -> Request:
    """Delete a neighbour of ours."""
    return _neighbour(DELETE_NEIGHBOUR, neighbour)


def dump_neighbours(version: int = 6) -> Request:
    """Ask for all neighbours of a version of IP."""
    return Request(GET_NEIGHBOUR, _NEIGHBOUR.pack(FAMILIES[version], 0, 0, 0, 0), "the list of neighbours")


def find_neighbour(device: int, address: IpAddress) -> Request:
    """Ask for one neighbour; ENOENT if there is none."""
    header = _NEIGHBOUR.pack(FAMILIES[address.version], device, 0, 0, 0)
    return Request(GET_NEIGHBOUR, header + attribute(1, address.packed), f"neighbour {address}")


def parse_neighbour(body: bytes) -> tuple[Neighbour, bool, bool]:
    """Return the neighbour in a message's body, whether it is permanent, and whether it bears our mark."""
    _, index, state, _, _ = _NEIGHBOUR.unpack_from(body)
    found = attributes(body[_NEIGHBOUR.size :])
    neighbour = Neighbour(
        address=ipaddress.ip_address(found[1]),
        device=index,
        mac=found.get(2, b""),
    )
    return neighbour, bool(state & PERMANENT), _number(found.get(12)) == ROUTE_PROTOCOL
