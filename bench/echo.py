# SPDX-License-Identifier: Apache-2.0
"""Asks a new pod from pods on every other host until it answers: ICMPv6 echo on raw sockets; for bench/add.py."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Self

from agent.kernel.namespace import in_namespace
from lab.namespace import Namespace

INTERVAL = 0.0005
"""Seconds between two requests from one host: the resolution of what is measured."""

PATIENCE = 10.0
_REQUEST, _REPLY = 128, 129
_HEADER = struct.Struct("!BBHHH")
_CHECKSUM_OFFSET = 2
_ICMP6_FILTER = 1


class NoAnswer(Exception):  # noqa: N818 - says what happened
    """A host got no answer."""


class Observers:
    """One socket in a pod of each other host; the pod answers by its kernel, nothing need run in it."""

    def __init__(self, namespaces: Sequence[Namespace]) -> None:
        self._sockets: list[socket.socket] = []
        self._number = 0
        for namespace in namespaces:
            with namespace.path.open("rb") as file:
                self._sockets.append(in_namespace(file.fileno(), _open))

    def first_answers(self, address: str) -> list[float]:
        """Return time.perf_counter() at each observer's first answer, asking all of them over and over."""
        self._number = self._number % 0xFFFF + 1
        request = _HEADER.pack(_REQUEST, 0, 0, self._number, 0)
        answered: dict[socket.socket, float] = {}
        deadline = time.perf_counter() + PATIENCE
        while len(answered) < len(self._sockets):
            waiting = [one for one in self._sockets if one not in answered]
            if time.perf_counter() > deadline:
                raise NoAnswer(f"{address} did not answer {len(waiting)} of {len(self._sockets)} hosts")
            for one in waiting:
                with contextlib.suppress(OSError):
                    one.sendto(request, (address, 0))
            self._collect(waiting, address, answered)
        return [answered[one] for one in self._sockets]

    def _collect(self, waiting: Sequence[socket.socket], address: str, answered: dict[socket.socket, float]) -> None:
        """Take answers in until the next requests are due."""
        due = time.perf_counter() + INTERVAL
        while len(waiting) > len([one for one in waiting if one in answered]):
            readable, _, _ = select.select(waiting, [], [], max(0.0, due - time.perf_counter()))
            now = time.perf_counter()
            for one in readable:
                packet, source = one.recvfrom(2048)
                kind, _, _, number, _ = _HEADER.unpack_from(packet)
                if kind == _REPLY and number == self._number and source[0] == address:
                    answered.setdefault(one, now)
            if now >= due:
                return

    def close(self) -> None:
        """Close the sockets."""
        for one in self._sockets:
            one.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open() -> socket.socket:
    """Return a socket that hears echo replies only; the kernel fills the checksum in (RFC 3542 section 3.1)."""
    made = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    blocked = bytearray(b"\xff" * 32)
    blocked[_REPLY // 32 * 4 : _REPLY // 32 * 4 + 4] = (0xFFFFFFFF & ~(1 << _REPLY % 32)).to_bytes(4, "little")
    made.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, bytes(blocked))
    return made
