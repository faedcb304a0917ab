# SPDX-License-Identifier: Apache-2.0
"""Netlink's wire form: attributes, requests, sockets with strict errors; for agent/kernel.

Our own, since pyroute2 costs 128 ms to import and 30 MB.  Reference: netlink(7), linux/netlink.h.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from agent.core.network import NetworkError

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
REPLACE, EXCLUSIVE, CREATE = 0x100, 0x200, 0x400

_ERROR, _DONE = 2, 3
_MULTI, _DUMP_INTERRUPTED, _CAPPED, _ACK_TLVS = 0x2, 0x10, 0x100, 0x200
_ADD_MEMBERSHIP = 1
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT = 270, 10, 11, 12
_ERROR_TEXT = 1
_NESTED, _TYPE_MASK = 0x8000, 0x3FFF

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_TIMEOUT = struct.pack("=qq", 10, 0)
_BATCH = 100
"""Requests per send: their acks must fit the default receive buffer."""
_BUFFER = 1 << 16
_DUMP_TRIES = 10


class NetlinkError(NetworkError):
    """The kernel refused a request; the message says which object, and carries the kernel's own words."""

    def __init__(self, number: int, text: str, what: str) -> None:
        detail = f" ({text})" if text else ""
        super().__init__(f"{what}: {os.strerror(number)}{detail}")
        self.errno = number
        self.what = what


@dataclass(frozen=True, slots=True)
class Request:
    """One message to the kernel; `what` names its object in errors."""

    type: int
    body: bytes
    what: str
    flags: int = 0


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute, padded to 4 bytes."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def nest(kind: int, *inner: bytes) -> bytes:
    """Return an attribute that holds attributes."""
    return attribute(kind | _NESTED, b"".join(inner))


def text(kind: int, value: str) -> bytes:
    """Return an attribute that holds a NUL-terminated string."""
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    """Return an attribute that holds a 32-bit number."""
    return attribute(kind, struct.pack("=I", value))


def attributes(raw: bytes) -> dict[int, bytes]:
    """Return the attributes in `raw` by type; NetworkError if a length does not fit."""
    found = {}
    offset = 0
    while offset + _ATTRIBUTE.size <= len(raw):
        length, kind = _ATTRIBUTE.unpack_from(raw, offset)
        if length < _ATTRIBUTE.size or offset + length > len(raw):
            raise NetworkError(f"netlink attribute {kind} claims {length} of {len(raw) - offset} bytes")
        found[kind & _TYPE_MASK] = raw[offset + _ATTRIBUTE.size : offset + length]
        offset += length + -length % 4
    return found


def to_number(raw: bytes | None, default: int = 0) -> int:
    """Return the number, host order, in an attribute's bytes; the default if there is none."""
    return default if raw is None else int.from_bytes(raw, "little" if struct.pack("=H", 1)[0] else "big")


def to_text(raw: bytes | None) -> str:
    """Return the string in an attribute's bytes; empty if there is none."""
    return "" if raw is None else raw.rstrip(b"\0").decode(errors="replace")


def messages(raw: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield type, flags, sequence number and body of the messages in a datagram."""
    offset = 0
    while offset + _HEADER.size <= len(raw):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(raw, offset)
        if length < _HEADER.size or offset + length > len(raw):
            raise NetworkError(f"netlink message {kind} claims {length} of {len(raw) - offset} bytes")
        yield kind, flags, sequence, raw[offset + _HEADER.size : offset + length]
        offset += length + -length % 4


def pack(request: Request, sequence: int) -> bytes:
    """Return the request as it goes to the kernel."""
    length = _HEADER.size + len(request.body)
    header = _HEADER.pack(length, request.type, request.flags | REQUEST, sequence, 0)
    return header + request.body + bytes(-length % 4)


def failure(flags: int, body: bytes, what: str) -> NetlinkError | None:
    """Return the error in an NLMSG_ERROR or NLMSG_DONE body; None if it is an acknowledgement."""
    code = -struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
    if not code:
        return None
    words = ""
    if flags & _ACK_TLVS and flags & _CAPPED:
        words = to_text(attributes(body[4 + _HEADER.size :]).get(_ERROR_TEXT))
    return NetlinkError(code, words, what)


_GET_INDEX = 0x8933  # SIOCGIFINDEX
_INTERFACE = struct.Struct("=16si20x")  # struct ifreq


class Socket:
    """A route socket of the namespace of the thread that opened it; one user at a time, from any thread."""

    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw
        self._sequence = 0

    @classmethod
    def open(cls) -> Self:
        """Return a socket in the calling thread's namespace."""
        raw = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        for option in (_CAP_ACK, _EXT_ACK, _STRICT):
            raw.setsockopt(_SOL_NETLINK, option, 1)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEOUT)
        raw.bind((0, 0))  # one without an address hears of nothing
        return cls(raw)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def index(self, name: str) -> int | None:
        """Return the index of the interface of that name in the socket's namespace; None if there is none.

        Much cheaper than the whole link (netdevice(7), SIOCGIFINDEX).
        """
        try:
            answer = fcntl.ioctl(self._raw, _GET_INDEX, _INTERFACE.pack(name.encode(), 0))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise NetworkError(f"interface {name}: {error.strerror}") from error
        return int(_INTERFACE.unpack(answer)[1])

    def attempt(self, requests: Sequence[Request]) -> list[NetlinkError | None]:
        """Send all requests, as few datagrams as possible; return how each went.

        The kernel does not stop at a failure: a request after a failed one is carried out too.
        """
        outcomes: list[NetlinkError | None] = []
        for start in range(0, len(requests), _BATCH):
            outcomes += self._batch(requests[start : start + _BATCH])
        return outcomes

    def run(self, *requests: Request) -> None:
        """Send all requests and raise the first failure (see attempt)."""
        for outcome in self.attempt(requests):
            if outcome is not None:
                raise outcome

    def get(self, request: Request) -> tuple[int, bytes]:
        """Return type and body of the one answer to a request."""
        self._send([request])
        answer: tuple[int, bytes] | None = None
        while True:
            for kind, flags, sequence, body in self._receive():
                if sequence != self._sequence:
                    continue
                if kind == _ERROR:
                    if error := failure(flags, body, request.what):
                        raise error
                    if answer is None:
                        raise NetworkError(f"{request.what}: the kernel gave no answer")
                    return answer
                answer = (kind, body)

    def dump(self, request: Request) -> list[bytes]:
        """Return the bodies of all answers to a dump; started again while it changes under our eyes."""
        for _ in range(_DUMP_TRIES):
            bodies = self._dump(request)
            if bodies is not None:
                return bodies
        raise NetworkError(f"{request.what}: changed {_DUMP_TRIES} times while it was read")

    def subscribe(self, group: int) -> None:
        """Hear of the changes of a group from now on (rtnetlink(7)): changes() returns them."""
        self._raw.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def changes(self) -> Iterator[tuple[int, bytes]]:
        """Yield type and body of each change, waiting for the next; NetworkError after 10 s without one."""
        while True:
            for kind, _, _, body in self._receive():
                yield kind, body

    def _dump(self, request: Request) -> list[bytes] | None:
        sequence = self._sequence = self._sequence + 1
        flagged = Request(request.type, request.body, request.what, request.flags | DUMP)
        self._raw.send(pack(flagged, sequence))
        bodies: list[bytes] = []
        whole = True
        while True:
            for kind, flags, answered, body in self._receive():
                if answered != sequence:
                    continue
                whole = whole and not flags & _DUMP_INTERRUPTED
                if kind in (_ERROR, _DONE):
                    if error := failure(flags, body, request.what):
                        raise error
                    return bodies if whole else None
                bodies.append(body)

    def _batch(self, requests: Sequence[Request]) -> list[NetlinkError | None]:
        first = self._send(requests)
        outcomes: dict[int, NetlinkError | None] = {}
        while len(outcomes) < len(requests):
            for kind, flags, sequence, body in self._receive():
                if kind == _ERROR and first <= sequence < first + len(requests):
                    outcomes[sequence] = failure(flags, body, requests[sequence - first].what)
        return [outcomes[first + place] for place in range(len(requests))]

    def _send(self, requests: Sequence[Request]) -> int:
        first = self._sequence + 1
        packed = []
        for request in requests:
            self._sequence += 1
            flagged = Request(request.type, request.body, request.what, request.flags | ACK)
            packed.append(pack(flagged, self._sequence))
        self._raw.send(b"".join(packed))
        return first

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        try:
            return messages(self._raw.recv(_BUFFER))
        except BlockingIOError:
            raise NetworkError("the kernel did not answer a netlink request in 10 s") from None
