# SPDX-License-Identifier: Apache-2.0
"""Probes of the underlay towards another node: the messages, what came back, and what that means; pure.

Nodes can ping each other where ILA dies: the two directions of a flow carry different addresses on the wire, which
no packet between node addresses does (A -> B: from SIR:a to LOC_B:b'; B -> A: from SIR:b to LOC_A:a').  So every
node has an end of probes that is attached like a pod.  What arrives there is answered on the same way, and also
told to the asking node's control address by the host itself: so each direction is judged for itself.
"""

from __future__ import annotations

import enum
import ipaddress
import socket
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol, Self

from ila.address import Locator, SirPrefix

_MAGIC = b"ilaprobe"
_MESSAGE = struct.Struct("!8sBB6xQ")
_HEADERS = 48
"""Bytes of IPv6 and UDP."""

_SEVERAL = 3
"""Nodes that a sentence names."""


class Say(enum.IntEnum):
    """What a message says."""

    ASK_NODE = 1
    """To a control address: is anybody there?"""

    NODE_IS_HERE = 2
    """From there, to where the question came from."""

    ASK_END = 3
    """To an end of probes."""

    ANSWER = 4
    """From there, to another end of probes: as long as the question."""

    HEARD = 5
    """From a control address to another: a question has arrived at the end of probes here."""

    NODE_TO_END = 6
    """From a control address to the end that has asked, likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One datagram."""

    say: Say
    token: int
    """64 bits that nobody can guess: an answer bears that of its question."""

    ready: bool = False
    """The sender's end of probes is attached."""

    def pack(self, length: int = 0) -> bytes:
        """Return the datagram, zeros after it up to `length` bytes."""
        return _MESSAGE.pack(_MAGIC, self.say, self.ready, self.token).ljust(length, b"\0")

    @classmethod
    def parse(cls, raw: bytes) -> Self | None:
        """Return the message; None if it is somebody else's datagram."""
        if len(raw) < _MESSAGE.size:
            return None
        magic, say, ready, token = _MESSAGE.unpack_from(raw)
        if magic != _MAGIC or say not in Say.__members__.values():
            return None
        return cls(say=Say(say), token=token, ready=bool(ready))


def longest(mtu: int) -> int:
    """Return the bytes that a datagram of one packet of this size carries."""
    return mtu - _HEADERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another node, as probes reach it."""

    name: str
    address: ipaddress.IPv6Address
    port: int
    """UDP and TCP, of the control address and of its end of probes alike."""

    locator: Locator
    end: ipaddress.IPv6Address
    """SIR address of its end of probes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came back from one node."""

    node: bool
    """From its control address, to this node's."""

    ready: bool = False
    """And it said that its end of probes is attached."""

    located: bool = False
    """It heard at its end what this host sent: a packet to its locator, from a node address."""

    arrived: bool = False
    """It heard at its end what this end sent: a packet from a SIR address to its locator."""

    returned: bool = False
    """And what its host sent to this end came: a packet from a node address to this node's locator."""

    answered: bool = False
    """And what its end sent came: a packet from a SIR address to this node's locator."""

    whole: bool = False
    """Likewise with packets as long as a pod's may be."""

    stream: bool = False
    """A TCP connection came about."""


class Kind(enum.Enum):
    """What was found."""

    WELL = "well"
    SILENT = "silent"
    """The node does not answer: nothing is known of the underlay."""

    LOCATOR = "locator"
    SOURCE = "source"
    STATE = "state"
    MTU = "mtu"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, and a sentence about it that says what to do; '' if all is well."""

    kind: Kind
    sentence: str = ""


def judge(peer: Peer, outcome: Outcome, *, sir_prefix: SirPrefix, mtu: int) -> Finding | None:
    """Return what an outcome means; None if it means nothing yet: the other end is not attached.

    `mtu` is that of the probes, bytes.
    """
    name = peer.name
    if outcome.answered:
        if not outcome.stream:
            return Finding(
                Kind.STATE,
                f"UDP passes to {name} and back, TCP does not: a filter between the nodes follows connections (ct "
                "state invalid drop, a stateful firewall, a security group), but on the wire the two directions of one "
                "have different addresses: let everything between nodes pass there, untracked",
            )
        if not outcome.whole:
            return Finding(
                Kind.MTU,
                f"packets of {mtu} bytes do not pass to {name} and back, short ones do, and no Packet Too Big tells: "
                "give the whole way between the nodes this MTU, or the nodes' underlay devices that of the way; the "
                f"fabric must route {sir_prefix} to a node, for its ICMPv6 errors",
            )
        return Finding(Kind.WELL)
    if not outcome.node:
        return Finding(
            Kind.SILENT,
            f"node {name} does not answer at all: is it down, or its agent? does anything filter UDP port {peer.port} "
            f"towards {peer.address}?",
        )
    if not outcome.ready:
        return None
    if not outcome.arrived and not outcome.located:
        return Finding(
            Kind.LOCATOR,
            f"node {name} answers, but nothing arrives that is sent to its locator {peer.locator}: have the underlay "
            f"route that to {peer.address}",
        )
    if outcome.arrived and not outcome.returned:
        return Finding(
            Kind.LOCATOR,
            f"node {name} hears this one, but nothing arrives that it sends to the locator of this node: have the "
            "underlay route that to this node's address",
        )
    whose = f"{name} sends here" if outcome.arrived else f"this node sends to {name}"
    return Finding(
        Kind.SOURCE,
        f"the underlay drops what {whose} from an address under the SIR prefix {sir_prefix}: switch the source check "
        "off towards the sender (uRPF, a cloud's source/destination check, port security), and let no filter stop it",
    )


def summary(findings: Mapping[str, Finding]) -> str:
    """Return one sentence on what is wrong with the underlay towards each of these nodes; '' if nothing is."""
    wrong = {name: found for name, found in findings.items() if found.kind not in (Kind.WELL, Kind.SILENT)}
    if not wrong:
        return ""
    of_kind: dict[Kind, list[str]] = {}
    for name in sorted(wrong):
        of_kind.setdefault(wrong[name].kind, []).append(name)
    parts = []
    for names in of_kind.values():
        others = names[1 : _SEVERAL + 1]
        more = f" and {len(names) - 1 - len(others)} more" if len(names) - 1 > len(others) else ""
        like = f" (likewise {', '.join(others)}{more})" if others else ""
        parts.append(wrong[names[0]].sentence + like)
    return "; ".join(parts)


class ProbeError(Exception):
    """Probes cannot be sent from here now; the message says why."""


class Place(Protocol):
    """A network namespace of the agent's own, where probes begin and end; calls block and raise NetworkError.

    It lasts as long as the agent: a killed one leaves nothing behind, since the kernel then takes its links away.
    """

    @property
    def descriptor(self) -> int:
        """The namespace, made the first time that it is asked for."""

    def admit(self, sources: Collection[ipaddress.IPv6Address]) -> None:
        """Let in what these addresses send, and ICMPv6: whoever else knows the address must not keep the agent busy."""

    def datagrams(self, port: int) -> socket.socket:
        """Return a UDP socket on a port of every address there is or will be, which does not block."""

    def listener(self, port: int) -> socket.socket:
        """Return a TCP socket that listens on it."""

    def stream(self) -> socket.socket:
        """Return a TCP socket to connect by."""


class End(Protocol):
    """This node's end of probes."""

    async def attach(self) -> ipaddress.IPv6Address | None:
        """Have it attached and published; return its SIR address once others can reach it.  ProbeError."""


class Exchange(Protocol):
    """Asks and answers."""

    async def open(self) -> None:
        """Open what is not open; ProbeError."""

    async def meet(self, peers: Mapping[str, Peer], *, ready: bool) -> None:
        """Hear who may ask and be asked, and whether this node's end of probes is attached; ProbeError."""

    async def probe(self, peer: Peer, *, mtu: int) -> Outcome:
        """Return what comes back from a node; takes some seconds if something does not."""
