# SPDX-License-Identifier: Apache-2.0
"""The kernel's announcements of changed links, addresses, routes and neighbours; implements core.network.Changes."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Self

from agent.kernel import rtnetlink
from agent.kernel.netlink import messages

_LINK, _IPV6_ADDRESS, _IPV4_ROUTE, _IPV6_ROUTE, _NEIGHBOUR = 0x1, 0x100, 0x40, 0x400, 0x4
_BUFFER = 1 << 16


class KernelChanges:
    """A subscription in the namespace of the thread that opened it; one waiter at a time."""

    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw

    @classmethod
    def open(cls) -> Self:
        """Subscribe in the calling thread's namespace."""
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        raw = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        try:
            raw.bind((0, _LINK | _IPV6_ADDRESS | _IPV4_ROUTE | _IPV6_ROUTE | _NEIGHBOUR))
        except BaseException:
            raw.close()
            raise
        return cls(raw)

    def close(self) -> None:
        """End the subscription."""
        self._raw.close()

    async def wait(self) -> None:
        """Return when something changed since the last call; overflow counts as change."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                changed = _matters(await loop.sock_recv(self._raw, _BUFFER))
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                changed = True
            if self._drain() or changed:
                return

    def _drain(self) -> bool:
        """Read what else is there; tell whether any of it matters."""
        changed = False
        while True:
            try:
                changed = _matters(self._raw.recv(_BUFFER)) or changed
            except BlockingIOError:
                return changed
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                changed = True


def _matters(raw: bytes) -> bool:
    """Tell whether an announcement says more than that a neighbour the kernel resolves was heard of."""
    for kind, _, _, body in messages(raw):
        if kind not in (rtnetlink.NEW_NEIGHBOUR, rtnetlink.DELETE_NEIGHBOUR):
            return True
        if body[0] not in rtnetlink.FAMILIES.values():
            continue  # a bridge has learnt a MAC address
        _, permanent, ours = rtnetlink.parse_neighbour(body)
        if permanent or ours:
            return True
    return False
