# SPDX-License-Identifier: Apache-2.0
import contextlib
import errno
import ipaddress
import struct
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.datapath import NextHop
from agent.core.network import (
    UNDERLAY_GATEWAY,
    Device,
    IpAddress,
    Neighbour,
    NetworkError,
    PodLink,
    PodRoute,
    Route,
    RouteKind,
    host_name,
    host_state,
    parse_alias,
)
from agent.kernel import rtnetlink
from agent.kernel.netlink import Request, attribute, attributes, failure, messages, nest, pack, text
from ila.address import Locator, SirPrefix


@given(st.dictionaries(st.integers(1, 100), st.binary(max_size=40)))
def test_attributes_come_back(found: dict[int, bytes]) -> None:
    """What is packed is unpacked, whatever the padding."""
    assert attributes(b"".join(attribute(kind, value) for kind, value in found.items())) == found


@given(st.binary(max_size=60))
def test_bytes_that_are_no_attributes_are_refused_or_read(raw: bytes) -> None:
    """Lengths are never trusted: no endless loop, no reading past the end."""
    for read in (attributes, lambda r: list(messages(r))):
        with contextlib.suppress(NetworkError):
            read(raw)


def test_nested_attributes_carry_the_flag() -> None:
    """The kernel's strict parser wants NLA_F_NESTED."""
    raw = nest(18, text(1, "veth"))
    assert struct.unpack_from("=HH", raw) == (len(raw), 18 | 0x8000)
    assert attributes(attributes(raw)[18]) == {1: b"veth\0"}


def test_an_error_names_the_object_and_quotes_the_kernel() -> None:
    """errno, the extended acknowledgement, and what was asked for."""
    header = struct.pack("=IHHII", 16, 24, 5, 7, 0)
    body = struct.pack("=i", -errno.EEXIST) + header + text(1, "File is there")
    error = failure(0x300, body, "route to ::/0")
    assert error is not None
    assert (error.errno, str(error)) == (errno.EEXIST, "route to ::/0: File exists (File is there)")
    assert failure(0, struct.pack("=i", 0) + header, "x") is None


def routes(kind: RouteKind, version: Literal[4, 6]) -> st.SearchStrategy[Route]:
    addresses = st.ip_addresses(v=version)
    return st.builds(
        Route,
        destination=st.builds(
            lambda base, length: ipaddress.ip_network((base, length), strict=False),
            addresses,
            st.integers(0, 32 if version == 4 else 128),
        ),
        device=st.integers(1, 2**31 - 1) if kind is RouteKind.UNICAST else st.just(0),
        gateway=st.none() | addresses,
        source=st.none() | addresses,
        mtu=st.integers(0, 65535),
        metric=st.integers(1, 2**32 - 1),
        kind=st.just(kind),
    )


@given(routes(RouteKind.UNICAST, 6) | routes(RouteKind.UNREACHABLE, 6) | routes(RouteKind.UNICAST, 4))
def test_routes_come_back(route: Route) -> None:
    """A request and a listed route have the same form."""
    listed = rtnetlink.parse_route(rtnetlink.add_route(route).body)
    assert (listed.route, listed.protocol, listed.table) == (route, rtnetlink.ROUTE_PROTOCOL, 254)


@given(st.ip_addresses(), st.integers(1, 2**31 - 1), st.binary(min_size=6, max_size=6))
def test_neighbours_come_back(address: IpAddress, device: int, mac: bytes) -> None:
    """Permanent, and with our mark."""
    neighbour = Neighbour(address=address, device=device, mac=mac)
    assert rtnetlink.parse_neighbour(rtnetlink.put_neighbour(neighbour).body) == (neighbour, True, True)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5))
def test_messages_of_one_datagram_come_back(bodies: list[bytes]) -> None:
    """Several requests travel in one datagram."""
    raw = b"".join(pack(Request(16, body, "x"), number) for number, body in enumerate(bodies))
    assert [(sequence, body) for _, _, sequence, body in messages(raw)] == list(enumerate(bodies))


def pod(container_id: str = "c0ffee", interface: str = "eth0") -> PodLink:
    return PodLink(
        container_id=container_id,
        interface=interface,
        address=ipaddress.IPv6Address("fd00:a::2000:0:0:1"),
        mtu=1500,
        source=None,
    )


def test_names_and_macs_of_a_pod_are_always_the_same() -> None:
    """Derived, so that a repeat or a restart needs no record of them."""
    one, again, other = pod(), pod(), pod(interface="net1")
    assert (one.host_name, one.host_mac, one.pod_mac) == (again.host_name, again.host_mac, again.pod_mac)
    assert len({one.host_name, other.host_name, one.host_mac, one.pod_mac, other.pod_mac}) == 5
    assert len(one.host_name) == 15
    assert one.host_name == host_name("c0ffee", "eth0")
    assert one.host_mac[0] & 3 == one.pod_mac[0] & 3 == 2


@pytest.mark.parametrize("alias", ["", "ilanet", "ilanet:", "ilanet:a", "ilanet::eth0", "other:a:eth0"])
def test_an_alias_without_our_mark_is_not_ours(alias: str) -> None:
    """Only the whole form counts."""
    assert parse_alias(alias) is None
    assert parse_alias(pod("x" * 200).alias) == ("x" * 200, "eth0")
    assert len(pod("x" * 200).alias.encode()) < 256


DEVICE = Device(name="eth0", index=2, mtu=1500, mac=bytes(6), up=True)
OWN, OTHER = Locator.parse("fd00:1:1::/64"), Locator.parse("fd00:1:2::/64")
NODE, NODE2 = ipaddress.IPv6Address("fd00::1"), ipaddress.IPv6Address("fd00::2")


def test_a_routed_underlay_needs_the_sir_route_and_an_end_for_the_own_locator() -> None:
    """The smallest MTU of all underlay devices stands on the SIR route."""
    state = host_state(
        sir_prefix=SirPrefix.parse("fd00:a::/64"),
        node_address=NODE,
        underlay=[DEVICE, Device(name="eth1", index=3, mtu=1400, mac=bytes(6), up=True)],
        next_hop=NextHop.GATEWAY,
        gateway=NODE2,
        own_locator=OWN,
        locators={OTHER: NODE2},
        pods=[],
    )
    assert state.neighbours == frozenset()
    assert state.underlay == ("eth0", "eth1")
    kinds = {route.destination: (route.kind, route.gateway, route.mtu) for route in state.routes}
    assert kinds == {
        ipaddress.IPv6Network("fd00:a::/64"): (RouteKind.UNICAST, NODE2, 1400),
        OWN.network: (RouteKind.UNREACHABLE, None, 0),
    }


def test_a_shared_layer_2_needs_a_route_to_every_other_locator() -> None:
    """And the made-up gateway with its neighbour; pods of the host come with theirs."""
    pod_address = ipaddress.IPv6Address("fd00:a::2000:0:0:1")
    state = host_state(
        sir_prefix=SirPrefix.parse("fd00:a::/64"),
        node_address=NODE,
        underlay=[DEVICE],
        next_hop=NextHop.NEIGHBOUR,
        gateway=None,
        own_locator=OWN,
        locators={OTHER: NODE2, OWN: NODE},
        pods=[PodRoute(address=pod_address, device=9, mac=b"\x02" * 6)],
    )
    assert {neighbour.address for neighbour in state.neighbours} == {UNDERLAY_GATEWAY, pod_address}
    gateways = {route.destination: route.gateway for route in state.routes}
    assert gateways[OTHER.network] == NODE2
    assert gateways[OWN.network] is None
    assert gateways[ipaddress.IPv6Network("fd00:a::2000:0:0:1/128")] is None


def test_a_state_that_contradicts_itself_is_refused() -> None:
    """No underlay, a gateway that is not wanted, a gateway that is missing."""
    for underlay, next_hop, gateway in (
        ([], NextHop.NEIGHBOUR, None),
        ([DEVICE], NextHop.NEIGHBOUR, NODE2),
        ([DEVICE], NextHop.GATEWAY, None),
    ):
        with pytest.raises(ValueError, match=r"underlay|does not fit"):
            host_state(
                sir_prefix=SirPrefix.parse("fd00:a::/64"),
                node_address=NODE,
                underlay=underlay,
                next_hop=next_hop,
                gateway=gateway,
                own_locator=OWN,
                locators={},
                pods=[],
            )
