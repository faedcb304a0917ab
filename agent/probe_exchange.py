# SPDX-License-Identifier: Apache-2.0
"""Sends probes to other nodes and answers theirs, by UDP and TCP; implements agent.core.probes.Exchange."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
import socket
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any

from agent.core.network import NetworkError
from agent.core.probes import Message, Outcome, Peer, Place, ProbeError, Say, longest
from agent.pool import uninterrupted

PAUSES = (0.3, 0.5, 0.7, 1.0)
"""Seconds that are waited for an answer before the question is sent again; the last time before it is given up.

A long packet may need three tries: each direction may first learn the path's MTU from an error.
"""

CONNECTED = 3.0
"""Seconds that a TCP handshake may take: time for two lost segments to be sent again."""

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: a connection that is closed leaves nothing behind."""

_Address = tuple[Any, ...]


@dataclass(slots=True)
class _Question:
    """A question that waits for what comes back."""

    heard: set[Say] = field(default_factory=set)
    ready: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def hear(self, message: Message) -> None:
        self.heard.add(message.say)
        self.ready |= message.ready
        self.news.set()

    async def until(self, wanted: Say, patience: float) -> bool:
        """Return whether it was heard within so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while wanted not in self.heard:
                    self.news.clear()
                    await self.news.wait()
        return wanted in self.heard


class _Ear(asyncio.DatagramProtocol):
    """A UDP socket that hears; errors are answers that do not come."""

    def __init__(self, hear: Callable[[Message, int, ipaddress.IPv6Address, _Address], None]) -> None:
        self._hear = hear

    def datagram_received(self, data: bytes, addr: _Address) -> None:
        """Take in what is a probe's; link-local senders are nobody."""
        message = Message.parse(data)
        if message is not None and "%" not in addr[0]:
            self._hear(message, len(data), ipaddress.IPv6Address(addr[0]), addr)


class _Door(asyncio.Protocol):
    """A TCP connection that ends as soon as it has come about."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """End it."""
        transport.close()


class ProbeExchange:
    """The sockets of one node's probes: one on its control address, and two at its end."""

    def __init__(self, *, address: ipaddress.IPv6Address, port: int, place: Place, pool: Executor) -> None:
        """Take the control address."""
        self._address = address
        self._port = port
        self._place = place
        self._pool = pool
        self._ready = False
        self._peers: Mapping[str, Peer] = {}
        self._ends: dict[ipaddress.IPv6Address, Peer] = {}
        self._nodes: dict[ipaddress.IPv6Address, Peer] = {}
        self._questions: dict[int, _Question] = {}
        self._opened: contextlib.ExitStack | None = None
        self._node: asyncio.DatagramTransport | None = None
        self._end: asyncio.DatagramTransport | None = None

    async def open(self) -> None:
        """Open what is not open; ProbeError."""
        if self._opened is not None:
            return
        with contextlib.ExitStack() as undo:
            try:
                await uninterrupted(self._pool, self._place.admit, ())
                self._peers = {}
                self._node = await self._listen(undo, self._control_socket(), self._at_node)
                end = await uninterrupted(self._pool, self._place.datagrams, self._port)
                self._end = await self._listen(undo, end, self._at_end)
                door = await uninterrupted(self._pool, self._place.listener, self._port)
                undo.callback(door.close)
                server = await asyncio.get_running_loop().create_server(_Door, sock=door)
                undo.callback(server.close)
            except (NetworkError, OSError) as error:
                raise ProbeError(f"UDP port {self._port} of {self._address}, or that of the end: {error}") from error
            self._opened = undo.pop_all()

    def close(self) -> None:
        """Close every socket."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    async def meet(self, peers: Mapping[str, Peer], *, ready: bool) -> None:
        """Hear who may ask and be asked, and whether this node's end of probes is attached; ProbeError."""
        self._ready = ready
        if peers == self._peers:
            return
        ends = {peer.end: peer for peer in peers.values()}
        nodes = {peer.address: peer for peer in peers.values()}
        try:
            await uninterrupted(self._pool, self._place.admit, ends.keys() | nodes.keys())
        except NetworkError as error:
            raise ProbeError(str(error)) from error
        self._peers, self._ends, self._nodes = dict(peers), ends, nodes

    async def probe(self, peer: Peer, *, mtu: int) -> Outcome:
        """Return what comes back from a node; takes some seconds if something does not."""
        node, end = (str(peer.address), peer.port), (str(peer.end), peer.port)
        by_node, by_end = self._node, self._end
        if by_node is None or by_end is None:
            raise ProbeError("no socket is open")
        here, located, short = await asyncio.gather(
            self._ask(by_node, node, Say.ASK_NODE, Say.NODE_IS_HERE),
            self._ask(by_node, end, Say.ASK_END, Say.HEARD),
            self._ask(by_end, end, Say.ASK_END, Say.ANSWER),
        )
        outcome = Outcome(
            node=Say.NODE_IS_HERE in here.heard,
            ready=here.ready,
            located=Say.HEARD in located.heard,
            arrived=bool(short.heard),
            returned=Say.NODE_TO_END in short.heard,
            answered=Say.ANSWER in short.heard,
        )
        if not outcome.answered:
            return outcome
        long, stream = await asyncio.gather(
            self._ask(by_end, end, Say.ASK_END, Say.ANSWER, length=longest(mtu)), self._connect(end)
        )
        return replace(outcome, whole=Say.ANSWER in long.heard, stream=stream)

    async def _ask(
        self, by: asyncio.DatagramTransport, target: tuple[str, int], say: Say, wanted: Say, *, length: int = 0
    ) -> _Question:
        """Ask until the wanted answer comes, or the pauses end."""
        question, token = _Question(), secrets.randbits(64)
        datagram = Message(say=say, token=token).pack(length)
        self._questions[token] = question
        try:
            for pause in PAUSES:
                by.sendto(datagram, target)
                if await question.until(wanted, pause):
                    break
        finally:
            del self._questions[token]
        return question

    async def _connect(self, target: tuple[str, int]) -> bool:
        """Return whether a handshake came about; a refusal crosses the underlay like the rest of a connection."""
        try:
            made = await uninterrupted(self._pool, self._place.stream)
        except NetworkError as error:
            raise ProbeError(str(error)) from error
        with made:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            try:
                async with asyncio.timeout(CONNECTED):
                    await asyncio.get_running_loop().sock_connect(made, target)
            except ConnectionError:
                return True
            except OSError:  # of which TimeoutError is one
                return False
        return True

    def _at_node(self, message: Message, _: int, source: ipaddress.IPv6Address, sender: _Address) -> None:
        """Hear something at the control address."""
        if message.say is Say.ASK_NODE and source in self._nodes and self._node is not None:
            here = Message(say=Say.NODE_IS_HERE, token=message.token, ready=self._ready)
            self._node.sendto(here.pack(), sender)
        elif message.say in (Say.NODE_IS_HERE, Say.HEARD) and message.token in self._questions:
            self._questions[message.token].hear(message)

    def _at_end(self, message: Message, length: int, source: ipaddress.IPv6Address, sender: _Address) -> None:
        """Hear something at the end of probes; only nodes are answered, and not with more than they have sent."""
        if message.say in (Say.ANSWER, Say.NODE_TO_END) and message.token in self._questions:
            self._questions[message.token].hear(message)
        peer = self._ends.get(source) or self._nodes.get(source)
        if message.say is not Say.ASK_END or peer is None or self._node is None or self._end is None:
            return
        if source in self._ends:
            self._end.sendto(Message(say=Say.ANSWER, token=message.token, ready=self._ready).pack(length), sender)
            self._node.sendto(Message(say=Say.NODE_TO_END, token=message.token).pack(), sender)
        heard = Message(say=Say.HEARD, token=message.token, ready=self._ready)
        self._node.sendto(heard.pack(), (str(peer.address), peer.port))

    def _control_socket(self) -> socket.socket:
        made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        try:
            made.setblocking(False)  # noqa: FBT003 - its own signature
            made.bind((str(self._address), self._port))
        except BaseException:
            made.close()
            raise
        return made

    @staticmethod
    async def _listen(
        undo: contextlib.ExitStack,
        made: socket.socket,
        hear: Callable[[Message, int, ipaddress.IPv6Address, _Address], None],
    ) -> asyncio.DatagramTransport:
        undo.callback(made.close)
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: _Ear(hear), sock=made)
        undo.callback(transport.close)
        return transport
