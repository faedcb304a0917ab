# SPDX-License-Identifier: Apache-2.0
"""What underlay devices receive and send, and what from_wire, to_wire and their edge variants must make of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from ila.address import Locator
from tests.bpf.world import (
    AUTO,
    BY_STACK,
    FABRIC_MAC,
    HOST_A_MAC,
    HOST_ROUTING,
    NODE,
    OUTSIDE,
    POD_A_MAC,
    REMOTE,
    SETTINGS,
    THERE,
    UNDERLAY,
    UNDERLAY_MAC,
    UNKNOWN,
    UNWIRED,
    A,
    Case,
    changed,
    from_fabric,
    ila,
    ping,
    sir,
    tcp,
    to_fabric,
    udp,
)

ROUTER = "fd00:f::1"
ELSEWHERE = Locator.parse("fd00:c0de:0:99::/64")
_HERE_PREFIX = "fd00:c0de:0:17"


def case(name: str, verdict: str, frame: bytes, **more: Any) -> Case:
    """Return a case of from_wire."""
    return Case(name=name, program="from_wire", index=UNDERLAY, frame=frame, verdict=verdict, **more)


def leaving(name: str, verdict: str, frame: bytes, **more: Any) -> Case:
    """Return a case of to_wire."""
    return replace(case(name, verdict, frame, **more), program="to_wire")


def _restored(frame: bytes) -> bytes:
    return changed(frame, destination=sir(A))


def _quote(destination: str, source: str = sir(A)) -> Packet:
    return IPv6(src=source, dst=destination, hlim=1) / udp()


def _error(destination: str, quoted: str, kind: Packet | None = None) -> bytes:
    message = kind or ICMPv6TimeExceeded()
    return from_fabric(destination, message / _quote(quoted), source=ROUTER)


def _quote_restored(frame: bytes, identifier: str) -> bytes:
    at = 14 + 40 + 8 + 24
    return frame[:at] + changed(bytes(54), destination=identifier)[38:] + frame[at + 16 :]


_TO_A = from_fabric(ila(A), tcp())
_MOVED = from_fabric(ila(REMOTE), tcp())
_MOVED_AFTER = changed(_MOVED, destination=ila(REMOTE, THERE), hop_limit=63)
_SIR_REMOTE = from_fabric(sir(REMOTE), tcp(), source=OUTSIDE)
_GONE = from_fabric(ila(UNKNOWN))
_MAC_A = (POD_A_MAC, HOST_A_MAC)

ARRIVING = [
    case("T7-T8-restored", "restored", _TO_A, after=_restored(_TO_A)),
    case("T14-sir-destination", "local", from_fabric(sir(A), source=OUTSIDE)),
    case("T9-T27-moved", "onward", _MOVED, after=_MOVED_AFTER),
    case("T27-moved-hop-limit-1", "to_stack", changed(_MOVED, hop_limit=1)),
    case("sir-mapped-elsewhere", "onward", _SIR_REMOTE),
    case("no-endpoint-yet", "no_endpoint", from_fabric(ila(UNWIRED))),
    case("T25-unmapped", "unmapped", _GONE, after=changed(_GONE, destination=sir(UNKNOWN)), marked=True),
    case("T25-sir-unmapped", "unmapped", from_fabric(sir(UNKNOWN), source=OUTSIDE), marked=True),
    case(
        "unmapped-incomplete",
        "unmapped_incomplete",
        _GONE,
        after=changed(_GONE, destination=sir(UNKNOWN)),
        complete=False,
    ),
    case("T7-foreign-locator", "foreign_locator", from_fabric(ila(A, THERE))),
    case("T15-locator-source", "locator_source", from_fabric(ila(A), source=ila(REMOTE, THERE))),
    case("T15-own-locator-source", "locator_source", from_fabric(NODE, source=ila(A))),
    case("T5-no-c-bit", "no_c_bit", from_fabric(f"{_HERE_PREFIX}:2000:0:a:315f")),
    case("common-locator-address", "no_c_bit", from_fabric(f"{_HERE_PREFIX}::1")),
    case("T4-ila-iid", "identifier_type", from_fabric(f"{_HERE_PREFIX}:1000:0:a:315f")),
    case("T12-ila-virtual-network", "identifier_type", from_fabric(f"{_HERE_PREFIX}:5000:0:a:315f")),
    case("T28-ila-zero-low-bits", "zero_low_bits", from_fabric(f"{_HERE_PREFIX}:3000:0:a:0")),
    case("T5-T29-sir-c-bit", "c_bit", from_fabric(sir("3000:0:a:1"), source=OUTSIDE)),
    case("T4-sir-iid", "identifier_type", from_fabric(sir("0:0:a:1"), source=OUTSIDE)),
    case("T28-sir-zero-low-bits", "zero_low_bits", from_fabric(sir("2000:0:a:0"), source=OUTSIDE)),
    case("node", "other", from_fabric(NODE, ping())),
    case("arp", "other", bytes(Ether(src=FABRIC_MAC, dst=UNDERLAY_MAC) / ARP())),
    case("malformed", "malformed", from_fabric(ila(A), version=5)),
    case("flooded-frame", "other_host", changed(_TO_A, macs=("02:00:00:00:00:77", FABRIC_MAC))),
    case(
        "moved-in-a-multicast-frame",
        "to_stack",
        changed(_MOVED, macs=("33:33:00:00:00:01", FABRIC_MAC)),
    ),
]
ARRIVING = [
    replace(one, after=changed(one.frame, destination=sir(REMOTE)))
    if one.verdict == "to_stack"
    else replace(one, after=changed(one.frame, destination=ila(REMOTE, THERE), hop_limit=63))
    if one.verdict == "onward"
    else one
    for one in ARRIVING
]

PROTOCOLS = [
    case(f"T30-{name}", "restored", frame, after=_restored(frame))
    for name, frame in {
        "udp": from_fabric(ila(A), udp()),
        "first-fragment": from_fabric(ila(A), IPv6ExtHdrFragment(nh=17, m=1, id=1) / Raw(bytes(udp(size=24)))),
        "later-fragment": from_fabric(ila(A), IPv6ExtHdrFragment(nh=58, offset=3, id=1) / Raw(bytes(16))),
        "options": from_fabric(ila(A), Raw(bytes([17, 0, 1, 4, 0, 0, 0, 0]) + bytes(udp())), nh=60),
        "esp": from_fabric(ila(A), Raw(bytes(64)), nh=50),
        "sctp": from_fabric(ila(A), Raw(bytes(64)), nh=132),
        "unassigned-protocol": from_fabric(ila(A), Raw(bytes(64)), nh=253),
        "ping": from_fabric(ila(A), ping()),
        "error-in-a-fragment": from_fabric(
            ila(A), IPv6ExtHdrFragment(nh=58, m=1, id=1) / Raw(bytes(ICMPv6TimeExceeded() / _quote(ila(REMOTE, THERE))))
        ),
    }.items()
]

_QUOTED = ila(REMOTE, THERE)
_TOO_BIG = _error(ila(A), _QUOTED, ICMPv6PacketTooBig(mtu=1400))
_TO_NODE = _error(NODE, _QUOTED)
_TO_SIR = _error(sir(A), _QUOTED, ICMPv6DestUnreach())
_MOVED_ERROR = _error(sir(REMOTE), _QUOTED)

ERRORS = [
    case("T11-too-big", "restored", _TOO_BIG, after=_quote_restored(_restored(_TOO_BIG), sir(REMOTE))),
    case("T11-to-sir-source", "local", _TO_SIR, after=_quote_restored(_TO_SIR, sir(REMOTE))),
    case("T11-to-the-host", "quote_restored", _TO_NODE, after=_quote_restored(_TO_NODE, sir(REMOTE))),
    case(
        "T11-to-a-moved-pod",
        "onward",
        _MOVED_ERROR,
        after=_quote_restored(changed(_MOVED_ERROR, destination=_QUOTED, hop_limit=63), sir(REMOTE)),
    ),
    case("T11-other-locator-quoted", "quote_mismatch", _error(ila(A), ila(REMOTE, ELSEWHERE))),
    case("T11-unknown-quoted", "quote_mismatch", _error(sir(A), ila(UNKNOWN, THERE))),
    case("T11-no-c-bit-quoted", "quote_mismatch", _error(NODE, "fd00:c0df:1234:18:2000:0:b:1f29")),
    case("quote-cut-short", "malformed", _error(ila(A), _QUOTED)[: 14 + 40 + 8 + 38]),
    case("empty-icmp", "malformed", from_fabric(NODE, Raw(b""), nh=58)),
    case("sir-quoted", "restored", _error(ila(A), sir(REMOTE)), after=_restored(_error(ila(A), sir(REMOTE)))),
    case("outside-quoted", "other", _error(NODE, OUTSIDE)),
    case("echo-with-a-quote", "other", from_fabric(NODE, ping() / Raw(bytes(_quote(_QUOTED))))),
]

_TO_BY_STACK = from_fabric(ila(BY_STACK))

HOST_ROUTED = [
    replace(one, settings=HOST_ROUTING)
    for one in (
        case("bpf-restored", "delivered", _TO_A, after=changed(_restored(_TO_A), hop_limit=63, macs=_MAC_A)),
        case("bpf-sir", "delivered", _TO_SIR),
        case("bpf-by-stack", "restored", _TO_BY_STACK, after=changed(_TO_BY_STACK, destination=sir(BY_STACK))),
        case(
            "T27-bpf-hop-limit-1", "to_stack", changed(_TO_A, hop_limit=1), after=changed(_restored(_TO_A), hop_limit=1)
        ),
        case("T27-bpf-moved", "onward", _MOVED, after=_MOVED_AFTER),
        case(
            "bpf-too-long-for-the-pod",
            "to_stack",
            from_fabric(ila(A), udp(size=1453)),
            after=from_fabric(sir(A), udp(size=1453)),
        ),
        case("T25-bpf-unmapped", "unmapped", _GONE, after=changed(_GONE, destination=sir(UNKNOWN)), marked=True),
        case("bpf-node", "other", from_fabric(NODE)),
    )
]
HOST_ROUTED[1] = replace(
    HOST_ROUTED[1], after=changed(_quote_restored(_TO_SIR, sir(REMOTE)), hop_limit=63, macs=_MAC_A)
)

_AUTO = replace(SETTINGS, domain=AUTO)
_AUTO_TO_A = from_fabric(ila(A, domain=AUTO), tcp())
_AUTO_ERROR = _error(ila(A, domain=AUTO), ila(REMOTE, THERE, AUTO))

OTHER_SETTINGS = [
    case("T8-auto-restored", "restored", _AUTO_TO_A, after=_restored(_AUTO_TO_A), settings=_AUTO),
    case("T5-auto-c-bit", "c_bit", from_fabric(ila(A)), settings=_AUTO),
    case(
        "T11-auto-error",
        "restored",
        _AUTO_ERROR,
        after=_quote_restored(_restored(_AUTO_ERROR), sir(REMOTE)),
        settings=_AUTO,
    ),
    case("translation-off", "restored", _TO_A, settings=replace(SETTINGS, translate=False)),
]

_OUT = to_fabric(sir(REMOTE), tcp())
_OUT_AFTER = changed(_OUT, destination=ila(REMOTE, THERE))
_NEIGHBOUR = replace(SETTINGS, gateway=None)

LEAVING = [
    leaving("T8-translated", "translated", _OUT, after=_OUT_AFTER),
    leaving("T8-auto", "translated", _OUT, after=changed(_OUT, destination=ila(REMOTE, THERE, AUTO)), settings=_AUTO),
    leaving("next-hop-per-locator", "next_hop", _OUT, after=_OUT_AFTER, settings=_NEIGHBOUR),
    leaving("translation-off", "translated", _OUT, settings=replace(SETTINGS, translate=False)),
    leaving("hop-limit-is-the-stack's", "translated", changed(_OUT, hop_limit=1)),
    leaving("host-itself", "translated", to_fabric(sir(REMOTE), tcp(), source=NODE)),
    leaving("translated-before", "ila", _OUT_AFTER),
    leaving("misrouted", "misrouted", to_fabric(sir(A))),
    leaving("T25-unmapped", "unmapped", to_fabric(sir(UNKNOWN))),
    leaving("T5-T29-c-bit", "c_bit", to_fabric(sir("3000:0:b:1"))),
    leaving("T4-iid", "identifier_type", to_fabric(sir("0:0:b:1"))),
    leaving("T28-zero-low-bits", "zero_low_bits", to_fabric(sir("2000:0:b:0"))),
    leaving("node", "other", to_fabric(NODE)),
    leaving("arp", "other", bytes(Ether(src=UNDERLAY_MAC, dst=FABRIC_MAC) / ARP())),
    leaving("malformed", "malformed", to_fabric(sir(REMOTE), version=5)),
    leaving("T30-fragment", "translated", to_fabric(sir(REMOTE), IPv6ExtHdrFragment(nh=6, offset=9) / Raw(bytes(8)))),
    leaving("T30-esp", "translated", to_fabric(sir(REMOTE), Raw(bytes(64)), nh=50)),
    leaving("T30-sctp", "translated", to_fabric(sir(REMOTE), Raw(bytes(64)), nh=132)),
    leaving("T30-udp", "translated", to_fabric(sir(REMOTE), udp())),
]
LEAVING = [
    replace(one, after=changed(one.frame, destination=ila(REMOTE, THERE)))
    if one.verdict == "translated" and one.after is None and one.settings.translate
    else one
    for one in LEAVING
]

EDGE = [
    replace(one, program=one.program.replace("wire", "edge"))
    for one in (
        case("T14-locator-source", "locator_source", from_fabric(sir(A), source=ila(REMOTE, THERE))),
        case("T14-locator-destination", "locator_destination", from_fabric(ila(A), source=OUTSIDE)),
        case("T14-foreign-locator", "locator_destination", from_fabric(ila(A, THERE), source=OUTSIDE)),
        case("T14-sir-source", "sir_source", from_fabric(NODE, source=sir(REMOTE))),
        case("sir-destination", "local", from_fabric(sir(A), source=OUTSIDE)),
        case(
            "sir-mapped-elsewhere",
            "onward",
            _SIR_REMOTE,
            after=changed(_SIR_REMOTE, destination=ila(REMOTE, THERE), hop_limit=63),
        ),
        case("node", "other", from_fabric(NODE, source=OUTSIDE)),
        leaving("T13-sir-destination", "sir_destination", to_fabric(sir(REMOTE))),
        leaving("T13-locator-destination", "locator_destination", to_fabric(ila(REMOTE, THERE))),
        leaving("outside", "other", to_fabric(OUTSIDE)),
    )
]

CASES = ARRIVING + PROTOCOLS + ERRORS + HOST_ROUTED + OTHER_SETTINGS + LEAVING + EDGE
