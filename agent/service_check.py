# SPDX-License-Identifier: Apache-2.0
"""Looks whether Services hide pods' addresses: whether kube-proxy takes pods for outsiders, and masquerades them.

Nothing tells an agent how kube-proxy is set up, or what stands in for it.  But every node drops what comes from the SIR
prefix to ilanet's own ports (agent/kernel/nftables.py): a connection from a pod's address, by way of the controllers'
Service, that comes about all the same has arrived with another source.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable
from concurrent.futures import Executor

from agent.core.network import NetworkError
from agent.core.probes import Place
from agent.core.status import Status
from agent.pool import uninterrupted

TRIES = 6
"""Connections at once: one that meets a controller on this node says nothing, since it is dropped either way."""

PATIENCE = 1.0
"""Seconds that a handshake may take."""

EVERY = 600.0
"""Seconds between two looks."""

AGAIN = 15.0
"""Seconds until the next one while connections come about, or the end is not attached yet."""

CONFIRMED = 2
"""Looks in a row: the rules of a controller's node may come a moment after the controller."""

PROBLEM = "kube-proxy"

SENTENCE = (
    "Services show this node's address in place of pods' own, so connections of pods by {service} reach ports that are "
    "closed to pods: kube-proxy takes pods for outsiders; set detectLocalMode: InterfaceNamePrefix and "
    "detectLocal.interfaceNamePrefix: ila in its configuration, not masqueradeAll, and restart it"
)

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: a connection that is closed leaves nothing behind."""

_NO_WAY = (errno.ENETUNREACH, errno.EADDRNOTAVAIL)

Target = tuple[ipaddress.IPv6Address, int]


def targets(endpoints: Iterable[str]) -> list[Target]:
    """Return what can be tried of '[address]:port' endpoints; names and addresses of IPv4 cannot."""
    found = []
    for endpoint in endpoints:
        host, _, port = endpoint.rpartition(":")
        try:
            found.append((ipaddress.IPv6Address(host.strip("[]")), int(port)))
        except ValueError:
            continue
    return found


class ServiceCheck:
    """The looks of one node, from its own end of probes, which is attached like a pod."""

    def __init__(self, *, services: Iterable[Target], place: Place, status: Status, pool: Executor) -> None:
        self._services = tuple(services)
        self._place = place
        self._status = status
        self._pool = pool
        self._seen = 0

    async def run(self) -> None:
        """Look for ever."""
        await self._status.until_serving()
        while True:
            pause = await self.step()
            await asyncio.sleep(pause)

    async def step(self) -> float:
        """Look once; return the seconds until the next look."""
        closed = self._status.registration.closed_ports if self._status.registration else ()
        services = [service for service in self._services if service[1] in closed]
        answers = await asyncio.gather(*(self._comes_about(service) for service in services * TRIES))
        if services and None in answers:
            return AGAIN
        if not any(answers):
            self._seen = 0
            self._status.well(PROBLEM)
            return EVERY
        self._seen += 1
        if self._seen >= CONFIRMED:
            address, port = services[answers.index(True) % len(services)]
            self._status.problem(PROBLEM, SENTENCE.format(service=f"Service [{address}]:{port}"))
        return AGAIN

    async def _comes_about(self, service: Target) -> bool | None:
        """Tell whether a connection from the end does; None: the end has no way yet.  Refused is as good as silent."""
        try:
            made = await uninterrupted(self._pool, self._place.stream)
        except NetworkError:
            return None  # the probes say why
        with made:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            try:
                async with asyncio.timeout(PATIENCE):
                    await asyncio.get_running_loop().sock_connect(made, (str(service[0]), service[1]))
            except OSError as error:  # of which TimeoutError is one
                return None if error.errno in _NO_WAY else False
        return True
