# SPDX-License-Identifier: Apache-2.0
"""What pods must not do: each packet leaves a real pod's interface and meets its own verdict."""

from __future__ import annotations

import ipaddress

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    IPv6,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.packet import Packet

from ila.address import Identifier
from lab.capture import Capture
from tests.netns.conftest import Net, connect, greet, send_frames, send_on

MASK = (1 << 64) - 1
SIR = int(ipaddress.IPv6Address("fd00:10:244::"))


def sir(identifier: int) -> str:
    return str(ipaddress.IPv6Address(SIR | identifier))


def crafted(net: Net, name: str) -> Packet:
    """Return the named forbidden packet of pod a1."""
    source, other = net.pod("a1").address, net.pod("b1").address
    host, locator = net.hosts[1].address, net.hosts[1].locator
    wire = net.cluster.domain.ila_address(
        net.cluster.domain.sir_prefix.identifier(ipaddress.IPv6Address(other)), locator
    )
    padding = IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)])
    return {
        "spoofed_source": IPv6(src=other, dst=net.pod("c1").address) / UDP(sport=1, dport=9),
        "spoofed_node_source": IPv6(src=host, dst=other) / UDP(sport=1, dport=9),
        "link_local_source": IPv6(src="fe80::2", dst=other) / UDP(sport=1, dport=9),
        "locator_destination": IPv6(src=source, dst=str(wire)) / UDP(sport=1, dport=9),
        "locator_itself": IPv6(src=source, dst=str(locator.network[1])) / UDP(sport=1, dport=9),
        "closed_tcp": IPv6(src=source, dst=host) / TCP(sport=1, dport=2379, flags="S"),
        "closed_udp": IPv6(src=source, dst=host) / UDP(sport=1, dport=7444),
        "closed_behind_header": IPv6(src=source, dst=host) / padding / TCP(sport=1, dport=7443, flags="S"),
        "router_advertisement": IPv6(src=source, dst="ff02::1", hlim=255) / ICMPv6ND_RA(),
        "hidden_router_advertisement": IPv6(src=source, dst="ff02::1", hlim=255) / padding / ICMPv6ND_RA(),
        "icmpv6_redirect": IPv6(src=source, dst="fe80::1", hlim=255) / ICMPv6ND_Redirect(tgt="fe80::2", dst=other),
        "source_route": IPv6(src=source, dst=host)
        / IPv6ExtHdrRouting(segleft=1, addresses=[str(wire)])
        / UDP(sport=1, dport=9),
        "c_bit": IPv6(src=source, dst=sir(0x3000_0000_0000_0001)) / ICMPv6EchoRequest(),
        "identifier_type": IPv6(src=source, dst=sir(0x0000_0000_0000_0001)) / ICMPv6EchoRequest(),
        "zero_low_bits": IPv6(src=source, dst=sir(0x2000_0000_0001_0000)) / ICMPv6EchoRequest(),
    }[name]


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("spoofed_source", "spoofed_source"),
        ("spoofed_node_source", "spoofed_source"),
        ("link_local_source", "link_local_source"),
        ("locator_destination", "locator_destination"),
        ("locator_itself", "locator_destination"),
        ("closed_tcp", "closed_port"),
        ("closed_udp", "closed_port"),
        ("closed_behind_header", "closed_port"),
        ("router_advertisement", "router_advertisement"),
        ("hidden_router_advertisement", "router_advertisement"),
        ("icmpv6_redirect", "icmpv6_redirect"),
        ("source_route", "source_route"),
        ("c_bit", "c_bit"),
        ("identifier_type", "identifier_type"),
        ("zero_low_bits", "zero_low_bits"),
    ],
)
def test_what_a_pod_must_not_send_is_dropped_by_name(net: Net, name: str, verdict: str) -> None:
    """It is dropped at the pod's own interface under the verdict that names the reason (T4, T5, T24, T28, T29)."""
    packet = bytes(crafted(net, name))
    wire = Capture.open(net.hosts[0].namespace, "eth0")
    try:
        with net.counted(net.hosts[0], "from_pod", verdict):
            send_frames(net.pod("a1"), packet)
        assert not [seen for seen in wire.waiting() if seen.raw[40:] == packet[40:]]
    finally:
        wire.close()


def test_open_ports_of_nodes_stay_open(net: Net) -> None:
    """Only ilanet's own ports are closed: metrics and any other service of a node answer pods."""
    a1 = net.pod("a1").namespace
    for host in net.hosts:
        connect(a1, host.address, 9475).close()
        greet(a1, host.namespace, host.address, 8088)


def test_closed_ports_do_not_answer_a_pod_that_dials(net: Net) -> None:
    """A pod's connection to etcd or a controller gets no answer, on its own host and on others."""
    for host, port in ((net.hosts[0], 2379), (net.hosts[0], 7443), (net.hosts[1], 7443)):
        for pod in (net.pod("a1"), net.pod("b1")):
            with pytest.raises(TimeoutError):
                connect(pod.namespace, host.address, port, timeout=0.3)


@pytest.mark.parametrize(
    ("name", "verdict"),
    [("locator source", "locator_source"), ("no such pod", "unmapped"), ("foreign locator", "foreign_locator"),
     ("no C-bit", "no_c_bit")],
)  # fmt: skip
def test_what_must_not_arrive_is_dropped_by_name(net: Net, name: str, verdict: str) -> None:
    """Packets forged on the underlay are dropped by the host they reach (T7, T15, T25)."""
    host, pod = net.hosts[1], net.pod("b1")
    domain = net.cluster.domain
    nobody = domain.ila_address(Identifier(0x2000_0000_DEAD_BEEF), host.locator)
    source, wire = (
        "2001:db8::1",
        str(domain.ila_address(Identifier(int(ipaddress.IPv6Address(pod.address)) & MASK), host.locator)),
    )
    packet = {
        "locator source": IPv6(src=str(net.hosts[0].locator.network[9]), dst=wire),
        "no such pod": IPv6(src=source, dst=str(nobody)),
        "foreign locator": IPv6(src=source, dst=str(net.hosts[2].locator.network[77])),
        "no C-bit": IPv6(src=source, dst=str(host.locator.network[1])),
    }[name] / UDP(sport=1, dport=9)
    with net.counted(host, "from_wire", verdict):
        send_on(net.cluster.fabric.router, f"h{host.number}", host.namespace.mac("eth0"), bytes(packet))
