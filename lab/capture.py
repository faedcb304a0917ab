# SPDX-License-Identifier: Apache-2.0
"""Sees packets where they pass: a packet socket on a device of a namespace, read by the lab."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from agent.kernel.namespace import in_namespace
from lab.namespace import Namespace

_ETH_P_ALL = 3
_PACKET_OUTGOING = 4
_LONGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class Seen:
    """One packet as it passed, from its IPv6 header on."""

    raw: bytes
    outgoing: bool

    @property
    def source(self) -> str:
        """The source address."""
        return str(ipaddress.IPv6Address(self.raw[8:24]))

    @property
    def destination(self) -> str:
        """The destination address."""
        return str(ipaddress.IPv6Address(self.raw[24:40]))

    @property
    def protocol(self) -> int:
        """The next header."""
        return self.raw[6]

    @property
    def hop_limit(self) -> int:
        """The hop limit."""
        return self.raw[7]

    @property
    def checksum(self) -> int:
        """The transport checksum of TCP, UDP or ICMPv6 without extension headers."""
        offset = 40 + {6: 16, 17: 6, 58: 2}[self.protocol]
        return int(struct.unpack_from("!H", self.raw, offset)[0])


class Capture:
    """Packets that pass one device from now on; close() it."""

    def __init__(self, device: socket.socket) -> None:
        self._socket = device

    @classmethod
    def open(cls, namespace: Namespace, device: str) -> Self:
        """Begin to listen on a device of a namespace."""

        def make() -> socket.socket:
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
            raw.bind((device, _ETH_P_ALL))
            return raw

        with namespace.path.open("rb") as file:
            return cls(in_namespace(file.fileno(), make))

    def first(self, wanted: Callable[[Seen], bool], timeout: float = 5) -> Seen:
        """Return the first IPv6 packet that is wanted; TimeoutError if none comes."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            raw, address = self._socket.recvfrom(_LONGEST)
            seen = Seen(raw, address[2] == _PACKET_OUTGOING)
            if raw and raw[0] >> 4 == 6 and wanted(seen):
                return seen
        raise TimeoutError("no such packet passed")

    def waiting(self) -> list[Seen]:
        """Return the IPv6 packets that have passed and fitted into the socket's buffer."""
        self._socket.settimeout(0)
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                raw, address = self._socket.recvfrom(_LONGEST)
                if raw and raw[0] >> 4 == 6:
                    found.append(Seen(raw, address[2] == _PACKET_OUTGOING))
        return found

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
