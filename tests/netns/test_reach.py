# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
import socket
import time

import pytest
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, PadN
from scapy.packet import Raw

from lab.capture import Capture
from lab.fabric import Shape
from lab.namespace import CommandError
from tests.netns.conftest import TRAFFIC, Net, connect, greet, inside, ping, send_frames


def test_every_pair_of_pods_talks(net: Net) -> None:
    """Ping, fragmented ping and TCP pass between pods of a host and across hosts; servers see the pod's address."""
    for port, (source, target) in enumerate(net.pairs, start=8000):
        ping(source.namespace, target.address)
        ping(source.namespace, target.address, "-s", "4000")
        assert greet(source.namespace, target.namespace, target.address, port) == source.address


def test_nothing_crosses_the_underlay_untranslated(net: Net) -> None:
    """The router has a rule that counts and drops packets to the SIR prefix: it has seen none."""
    ping(net.pod("a1").namespace, net.pod("c1").address)
    assert net.cluster.fabric.untranslated() == 0


def test_udp_datagrams_of_all_sizes_arrive(net: Net) -> None:
    """Empty, small, whole-MTU and fragmented datagrams arrive as they were sent."""
    source, target = net.pod("a1"), net.pod("b1")

    def bound() -> socket.socket:
        made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        made.bind((target.address, 5000))
        made.settimeout(3)
        return made

    with (
        inside(target.namespace, bound) as server,
        inside(source.namespace, lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as client,
    ):
        for size in (0, 1, 1452, 1453, 8000, 60000):
            client.sendto(b"u" * size, (target.address, 5000))
            assert server.recvfrom(65535)[0] == b"u" * size


def test_segments_stay_large_on_the_whole_way(net: Net) -> None:
    """TSO, GSO and GRO stay on: bulk TCP crosses two hosts in segments far above the MTU."""
    source, target = net.pod("a1"), net.pod("b1")
    server = target.namespace.start(TRAFFIC, "serve", target.address, "7000")
    capture = Capture.open(target.namespace, "eth0")
    try:
        time.sleep(0.1)
        printed = source.namespace.run(TRAFFIC, "bulk", target.address, "7000", "0.5")
        largest = max(len(seen.raw) for seen in capture.waiting() if seen.protocol == 6 and not seen.outgoing)
    finally:
        capture.close()
        server.kill()
        server.wait()
    assert int(printed.split()[0]) > 10_000_000
    print(f"largest segment of bulk TCP: {largest} bytes")
    assert largest > 20_000


@pytest.mark.parametrize(
    ("name", "headers", "protocol"),
    [
        ("sctp", [], 132),
        ("esp", [], 50),
        ("unassigned protocol", [], 253),
        ("destination options", [IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)])], 253),
        ("hop by hop", [IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)])], 253),
    ],
)
def test_any_protocol_arrives_unchanged(net: Net, name: str, headers: list[object], protocol: int) -> None:
    """Packets of any protocol, with and without extension headers, arrive byte for byte but for the hop limit."""
    source, target = net.pod("a1"), net.pod("b1")
    packet = IPv6(src=source.address, dst=target.address, hlim=64)
    for header in headers:
        packet /= header
    (packet.lastlayer() if headers else packet).nh = protocol
    raw = bytes(packet / Raw(name.encode() * 3))
    capture = Capture.open(target.namespace, "eth0")
    try:
        send_frames(source, raw)
        got = capture.first(lambda seen: not seen.outgoing and seen.raw.endswith(name.encode()))
    finally:
        capture.close()
    assert got.raw[:7] + got.raw[8:] == raw[:7] + raw[8:]
    assert 0 < got.hop_limit < 64


def test_traceroute_shows_every_hop(net: Net) -> None:
    """Errors of routers and hosts come back with the quoted destination restored: no hop is a star."""
    for source, target in net.pairs:
        printed = source.namespace.run(
            "traceroute", "-6", "-n", "-q", "1", "-w", "1", "-N", "1", "-m", "6", target.address
        )
        hops = [line.split()[1] for line in printed.splitlines()[1:]]
        assert "*" not in hops, printed
        assert hops[-1] == target.address
        across = source.socket != target.socket
        assert len(hops) == 2 + across * (2 if net.shape is Shape.ROUTED else 1), printed


def test_the_host_reaches_pods_and_pods_reach_hosts(net: Net) -> None:
    """Probes of the kubelet pass in both directions: to pods here and elsewhere, and from pods to node addresses."""
    here, there = net.hosts[0], net.hosts[1]
    a1, b1 = net.pod("a1"), net.pod("b1")
    for host, pod in ((here, a1), (here, b1), (there, a1)):
        ping(host.namespace, pod.address)
        assert greet(host.namespace, pod.namespace, pod.address, 8080) == host.address
    for pod, host in ((a1, here), (a1, there), (b1, here)):
        ping(pod.namespace, host.address)
        assert greet(pod.namespace, host.namespace, host.address, 8081) == pod.address


def test_path_mtu_is_found_through_a_smaller_link(routed: Net) -> None:
    """The router's Packet Too Big reaches the pod that sent, wherever it is, and TCP goes on with smaller segments."""
    target = routed.pod("b1")
    routed.cluster.fabric.router.ip("link", "set", "h2", "mtu", "1400")
    server = target.namespace.start(TRAFFIC, "serve", target.address, "7100")
    try:
        time.sleep(0.1)
        for source in (routed.pod("a1"), routed.pod("c1")):
            with pytest.raises(CommandError) as caught:
                source.namespace.run("ping", "-6", "-c", "2", "-i", "0.3", "-M", "do", "-s", "1452", target.address)
            assert re.search(r"mtu[=:] ?1400", str(caught.value)), caught.value
            printed = source.namespace.run(TRAFFIC, "bulk", target.address, "7100", "0.5")
            assert int(printed.split()[0]) > 1_000_000
            assert "mtu 1400" in source.namespace.ip("route", "get", target.address)
    finally:
        server.kill()
        server.wait()
        routed.cluster.fabric.router.ip("link", "set", "h2", "mtu", "1500")


def test_a_packet_too_long_for_the_underlay_is_answered_by_the_host(routed: Net) -> None:
    """Where the underlay device is smaller than the pod's, the host itself says Packet Too Big, in SIR addresses."""
    source, target, host = routed.pod("a2"), routed.pod("b2"), routed.hosts[0]
    host.namespace.ip("link", "set", "eth0", "mtu", "1300")
    try:
        time.sleep(0.5)
        with pytest.raises(CommandError) as caught:
            source.namespace.run("ping", "-6", "-c", "2", "-i", "0.3", "-M", "do", "-s", "1400", target.address)
        assert re.search(r"mtu[=:] ?1300", str(caught.value)), caught.value
    finally:
        host.namespace.ip("link", "set", "eth0", "mtu", "1500")


def test_conntrack_and_dnat_see_sir_addresses_only(stack: Net) -> None:
    """A host firewall that drops invalid packets lets everything through, and node ports work on either host."""
    here, there = stack.hosts[0], stack.hosts[1]
    a1, b1 = stack.pod("a1"), stack.pod("b1")
    for host in (here, there):
        rules = f"""
        table ip6 firewall {{
          counter invalid {{ }}
          chain prerouting {{
            type nat hook prerouting priority dstnat;
            ip6 daddr {host.address} tcp dport 30080 dnat to [{b1.address}]:8080
          }}
          chain postrouting {{
            type nat hook postrouting priority srcnat;
            ip6 daddr {b1.address} ct status dnat masquerade
          }}
          chain forward {{
            type filter hook forward priority 0
            ct state invalid counter name invalid drop
          }}
          chain input {{
            type filter hook input priority 0
            ct state invalid counter name invalid drop
          }}
        }}"""
        host.namespace.run("nft", "-f", "-", stdin=rules)
    try:
        for source, target in stack.pairs:
            ping(source.namespace, target.address, "-s", "3000")
            assert greet(source.namespace, target.namespace, target.address, 8080) == source.address
        for host in (here, there):
            greet(a1.namespace, b1.namespace, host.address, 30080, listen_port=8080, bind=b1.address)
            counters = host.namespace.run("nft", "list", "counter", "ip6", "firewall", "invalid")
            assert "packets 0 " in counters, counters
    finally:
        for host in (here, there):
            host.namespace.run("nft", "delete", "table", "ip6", "firewall")


def test_an_address_that_nothing_maps_is_answered(net: Net) -> None:
    """A pod that dials an unmapped SIR address hears ICMPv6 unreachable, code 3, at once (T16, T25)."""
    source, nobody = net.pod("a1"), "fd00:10:244:0:2000:0:dead:beef"
    with net.counted(net.hosts[0], "from_pod", "unmapped"), pytest.raises(CommandError) as caught:
        source.namespace.run("ping", "-6", "-c", "1", "-W", "2", nobody)
    assert "Address unreachable" in str(caught.value)
    with pytest.raises(OSError, match="No route to host"):
        connect(source.namespace, nobody, 80)
