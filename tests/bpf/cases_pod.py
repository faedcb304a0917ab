# SPDX-License-Identifier: Apache-2.0
"""What pods send, and what from_pod must make of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from tests.bpf.world import (
    AUTO,
    BY_STACK,
    CLOSED,
    HERE,
    HOST_A_MAC,
    HOST_B_MAC,
    HOST_ROUTING,
    NODE,
    OPEN,
    OUTSIDE,
    POD_A,
    POD_A_MAC,
    POD_B,
    POD_B_MAC,
    REMOTE,
    SETTINGS,
    THERE,
    UNKNOWN,
    UNWIRED,
    A,
    B,
    Case,
    changed,
    from_a,
    ila,
    ping,
    sir,
    tcp,
    udp,
)

LINK_LOCAL = "fe80::a"
ALL_NODES = "ff02::1"
_PADDING = [PadN(optdata=b"\0" * 4)]


def _destination_options(number: int) -> Packet:
    chain = IPv6ExtHdrDestOpt(options=_PADDING)
    for _ in range(number - 1):
        chain = chain / IPv6ExtHdrDestOpt(options=_PADDING)
    return chain


def _first_fragment(next_header: int, payload: bytes) -> Packet:
    return IPv6ExtHdrFragment(nh=next_header, offset=0, m=1, id=5) / Raw(payload)


def _later_fragment(next_header: int) -> Packet:
    return IPv6ExtHdrFragment(nh=next_header, offset=2, m=0, id=5) / Raw(bytes(24))


def case(name: str, verdict: str, frame: bytes, **more: Any) -> Case:
    """Return a case of from_pod at pod A's device."""
    return Case(name=name, program="from_pod", index=POD_A, frame=frame, verdict=verdict, **more)


_ADVERTISEMENT = bytes(ICMPv6ND_RA(type=134))
_HIDDEN_TYPE = _first_fragment(60, bytes([58, 0, 1, 4, 0, 0, 0, 0]))
"""A first fragment that ends after a destination options header."""

PLACES = [
    case("local-endpoint", "local", from_a(sir(B))),
    case("itself", "local", from_a(sir(A))),
    case("remote", "remote", from_a(sir(REMOTE))),
    case("T24-own-locator", "locator_destination", from_a(ila(B))),
    case("T24-other-locator", "locator_destination", from_a(ila(REMOTE, THERE))),
    case("T24-locator-space", "locator_destination", from_a("fd00:c0df:12ff::1")),
    case("beside-the-locator-space", "outside", from_a("fd00:c0df:1300::1")),
    case("T5-T29-c-bit", "c_bit", from_a(sir("3000:0:b:1"))),
    case("T4-iid", "identifier_type", from_a(sir("0:0:b:1"))),
    case("T12-virtual-network-v4", "identifier_type", from_a(sir("4000:0:b:1"))),
    case("T12-virtual-network-v6", "identifier_type", from_a(sir("6000:0:b:1"))),
    case("T28-zero-low-bits", "zero_low_bits", from_a(sir("2000:0:b:0"))),
    case("no-endpoint-yet", "no_endpoint", from_a(sir(UNWIRED))),
    case("T25-unmapped", "unmapped", from_a(sir(UNKNOWN)), marked=True),
    case("unmapped-incomplete", "unmapped_incomplete", from_a(sir(UNKNOWN)), complete=False),
    case("node", "node", from_a(NODE, ping())),
    case("node-open-port", "node", from_a(NODE, tcp(OPEN))),
    case("node-closed-tcp", "closed_port", from_a(NODE, tcp(CLOSED))),
    case("node-closed-udp", "closed_port", from_a(NODE, udp(2379))),
    case("node-closed-behind-options", "closed_port", from_a(NODE, _destination_options(2) / udp(CLOSED))),
    case("node-closed-first-fragment", "closed_port", from_a(NODE, _first_fragment(17, bytes(udp(CLOSED, 8))))),
    case("node-tiny-first-fragment", "header_chain", from_a(NODE, _first_fragment(60, bytes([6, 0, 1, 4] + [0] * 4)))),
    case("node-later-fragment", "node", from_a(NODE, _later_fragment(6))),
    case("link-local-closed-port", "closed_port", from_a(LINK_LOCAL, udp(CLOSED))),
    case("multicast-closed-port", "closed_port", from_a(ALL_NODES, udp(CLOSED))),
    case("multicast", "outside", from_a(ALL_NODES, udp(OPEN))),
    case("outside", "outside", from_a(OUTSIDE)),
    case("outside-same-port", "outside", from_a(OUTSIDE, tcp(CLOSED))),
]

SOURCES = [
    case("spoofed-neighbour", "spoofed_source", from_a(sir(REMOTE), source=sir(B))),
    case("spoofed-unknown", "spoofed_source", from_a(sir(REMOTE), source=sir(UNKNOWN))),
    case("spoofed-outside", "spoofed_source", from_a(sir(REMOTE), source=OUTSIDE)),
    case("T15-locator-source", "spoofed_source", from_a(sir(REMOTE), source=ila(A))),
    case("link-local-source", "link_local_source", from_a(ALL_NODES, ICMPv6ND_NS(tgt=LINK_LOCAL), source=LINK_LOCAL)),
    case("unspecified-source", "link_local_source", from_a(ALL_NODES, ICMPv6ND_NS(tgt=LINK_LOCAL), source="::")),
]

HEADERS = [
    case("arp", "not_ipv6", bytes(Ether(src=POD_A_MAC, dst=HOST_A_MAC) / ARP())),
    case("ipv4", "not_ipv6", bytes(Ether(src=POD_A_MAC, dst=HOST_A_MAC) / IP(dst="10.0.0.1") / UDP())),
    case("wrong-version", "malformed", from_a(sir(B), version=5)),
    case("advertisement", "router_advertisement", from_a(ALL_NODES, ICMPv6ND_RA(), source=LINK_LOCAL)),
    case("advertisement-to-a-pod", "router_advertisement", from_a(sir(B), ICMPv6ND_RA())),
    case(
        "advertisement-behind-options",
        "router_advertisement",
        from_a(
            ALL_NODES, IPv6ExtHdrHopByHop(options=_PADDING) / _destination_options(3) / ICMPv6ND_RA(), source=LINK_LOCAL
        ),
    ),
    case(
        "advertisement-behind-authentication",
        "router_advertisement",
        from_a(ALL_NODES, Raw(bytes([58, 4, *([0] * 22)]) + _ADVERTISEMENT), source=LINK_LOCAL, nh=51),
    ),
    case(
        "advertisement-in-first-fragment",
        "router_advertisement",
        from_a(ALL_NODES, _first_fragment(58, _ADVERTISEMENT), source=LINK_LOCAL),
    ),
    case("advertisement-type-in-second-fragment", "header_chain", from_a(ALL_NODES, _HIDDEN_TYPE, source=LINK_LOCAL)),
    case(
        "padding-that-fakes-a-type",
        "header_chain",
        from_a(ALL_NODES, _HIDDEN_TYPE, source=LINK_LOCAL) + bytes([128, 0, 0, 0, 0, 0, 0, 0]),
    ),
    case("redirect", "icmpv6_redirect", from_a(sir(B), ICMPv6ND_Redirect(tgt=LINK_LOCAL, dst=OUTSIDE))),
    case("eight-headers", "header_chain", from_a(sir(B), _destination_options(8) / udp())),
    case("seven-headers", "local", from_a(sir(B), _destination_options(7) / udp())),
    case("header-longer-than-packet", "header_chain", from_a(sir(B), Raw(bytes([58, 200] + [0] * 30)), nh=60)),
    case(
        "source-route",
        "source_route",
        from_a(OUTSIDE, IPv6ExtHdrRouting(type=0, segleft=1, addresses=[ila(B)]) / udp()),
    ),
    case("route-used-up", "outside", from_a(OUTSIDE, Raw(bytes([17, 0, 2, 0, 0, 0, 0, 0]) + bytes(udp())), nh=43)),
]

PROTOCOLS = [
    case(f"T30-{name}", "remote", frame)
    for name, frame in {
        "tcp": from_a(sir(REMOTE), tcp()),
        "ping": from_a(sir(REMOTE), ping()),
        "first-fragment": from_a(sir(REMOTE), _first_fragment(17, bytes(udp(OPEN, 24)))),
        "later-fragment": from_a(sir(REMOTE), _later_fragment(58)),
        "options": from_a(sir(REMOTE), IPv6ExtHdrHopByHop(options=_PADDING) / _destination_options(1) / TCP()),
        "esp": from_a(sir(REMOTE), Raw(bytes(64)), nh=50),
        "sctp": from_a(sir(REMOTE), Raw(bytes(64)), nh=132),
        "unassigned-protocol": from_a(sir(REMOTE), Raw(bytes(64)), nh=253),
        "no-next-header": from_a(sir(REMOTE), Raw(b""), nh=59),
        "closed-port-of-a-pod": from_a(sir(REMOTE), tcp(CLOSED)),
    }.items()
]

_TO_B = from_a(sir(B))
_TO_REMOTE = from_a(sir(REMOTE), tcp())
_TO_B_MACS = (POD_B_MAC, HOST_B_MAC)
_ILA = ila(REMOTE, THERE)
_LONG = from_a(sir(REMOTE), udp(size=1453))
_FITS = from_a(sir(REMOTE), udp(size=1452))
_LARGE = from_a(sir(REMOTE), TCP(sport=1, dport=2) / Raw(bytes(2800)))

HOST_ROUTED = [
    replace(one, settings=HOST_ROUTING)
    for one in (
        case("bpf-local", "delivered", _TO_B, after=changed(_TO_B, hop_limit=63, macs=_TO_B_MACS)),
        case("bpf-remote", "forwarded", _TO_REMOTE, after=changed(_TO_REMOTE, destination=_ILA, hop_limit=63)),
        case(
            "bpf-hop-limit-2",
            "forwarded",
            changed(_TO_REMOTE, hop_limit=2),
            after=changed(_TO_REMOTE, destination=_ILA, hop_limit=1),
        ),
        case("T27-bpf-local-hop-limit-1", "to_stack", changed(_TO_B, hop_limit=1)),
        case("T27-bpf-remote-hop-limit-1", "to_stack", changed(_TO_REMOTE, hop_limit=1)),
        case("bpf-hop-limit-0", "to_stack", changed(_TO_REMOTE, hop_limit=0)),
        case("bpf-fits-exactly", "forwarded", _FITS, after=changed(_FITS, destination=_ILA, hop_limit=63)),
        case("bpf-one-byte-too-long", "to_stack", _LONG),
        case("bpf-segments-too-long", "to_stack", _LARGE, gso=(2, 1500)),
        case("bpf-frame-for-another-mac", "to_stack", changed(_TO_REMOTE, macs=("02:00:00:00:00:77", POD_A_MAC))),
        case("T25-bpf-unmapped", "unmapped", from_a(sir(UNKNOWN)), marked=True),
        case("bpf-node", "node", from_a(NODE)),
        case("bpf-to-local-by-stack", "local", from_a(sir(BY_STACK))),
        replace(case("bpf-by-stack-to-local", "local", from_a(sir(A), source=sir(BY_STACK))), index=POD_B),
        replace(case("bpf-by-stack-to-remote", "remote", from_a(sir(REMOTE), source=sir(BY_STACK))), index=POD_B),
        replace(case("bpf-by-stack-spoofs", "spoofed_source", from_a(sir(REMOTE), source=sir(A))), index=POD_B),
    )
]

OTHER_SETTINGS = [
    replace(
        case("bpf-auto", "forwarded", _TO_REMOTE),
        settings=replace(HOST_ROUTING, domain=AUTO),
        after=changed(_TO_REMOTE, destination=ila(REMOTE, THERE, AUTO), hop_limit=63),
    ),
    replace(
        case("bpf-translation-off", "forwarded", _TO_REMOTE, after=changed(_TO_REMOTE, hop_limit=63)),
        settings=replace(HOST_ROUTING, translate=False),
    ),
    replace(
        case("no-closed-ports", "node", from_a(NODE, tcp(CLOSED))),
        settings=replace(SETTINGS, closed_ports=()),
    ),
    replace(
        case("T24-one-space", "locator_destination", from_a("fd00:c0de::1")),
        settings=replace(SETTINGS, domain=replace(SETTINGS.domain, locator_space=(HERE.network,)), locator=HERE),
        verdict="outside",
    ),
]

CASES = PLACES + SOURCES + HEADERS + PROTOCOLS + HOST_ROUTED + OTHER_SETTINGS
