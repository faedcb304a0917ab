# SPDX-License-Identifier: Apache-2.0
"""What tests of the mapping system are made of: short deadlines, a follower that keeps the score, a bad network."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Callable, Sequence

from controller.core.assignment import Claim, Holder
from controller.core.registration import Registration
from controller.service import Registered, Service
from ila import mapping
from ila.address import Identifier, Locator
from ila.channel import PeerChannel
from ila.domain import Domain
from ila.etcd import EtcdStore
from ila.mapping import Generation, OwnerName
from ila.settings import Peer
from ila.store import Event, ResetBegin, ResetEnd, ResetPage, Transaction, Update
from ila.stream import EtcdMappingStream
from lab.etcd import free_port

DOMAIN = Domain.parse(sir_prefix="fd00:10:244::/64", locator_space=["fd00:c0de::/32"], checksum_mode="neutral-map")
POOL = ipaddress.IPv6Network("fd00:c0de:1::/48")
NEVER = Generation(0, 0)


class Connections:
    """Builds the parts with deadlines short enough for tests; close() ends all."""

    def __init__(self) -> None:
        self._followers: list[Follower] = []
        self._channels: list[PeerChannel] = []
        self._networks: list[BadNetwork] = []

    def channel(self, peer: Peer, *, grace: float = 0.2) -> PeerChannel:
        made = PeerChannel(peer=peer, keepalive=1.0, keepalive_timeout=1.0, reconnect=0.3, grace=grace)
        self._channels.append(made)
        return made

    def store(self, peer: Peer) -> EtcdStore:
        return EtcdStore(channel=self.channel(peer), deadline=0.8, backoff=(0.05, 0.2))

    def service(self, peer: Peer) -> Service:
        return Service(store=self.store(peer), domain=DOMAIN, locator_pool=POOL)

    def stream(self, peer: Peer) -> EtcdMappingStream:
        channel = self.channel(peer)
        return EtcdMappingStream(
            channel=channel,
            store=EtcdStore(channel=channel, deadline=0.8, backoff=(0.05,), page_size=7),
            check_interval=0.4,
            silence=0.8,
            backoff=(0.05, 0.2),
        )

    def follow(self, peer: Peer, highest: Generation = NEVER) -> Follower:
        made = Follower(self.stream(peer), highest)
        self._followers.append(made)
        return made

    async def network(self, place: str) -> BadNetwork:
        made = BadNetwork(place)
        await made.open()
        self._networks.append(made)
        return made

    def soon(self) -> asyncio.Timeout:
        """Return a deadline for what should not happen."""
        return asyncio.timeout(0.5)

    async def close(self) -> None:
        for follower in self._followers:
            await follower.close()
        for channel in self._channels:
            await channel.close()
        for network in self._networks:
            await network.close()


class Follower:
    """Consumes a stream as an agent does, and notes every event."""

    def __init__(self, stream: EtcdMappingStream, highest: Generation) -> None:
        self.stream = stream
        self.events: list[Event] = []
        self.mappings: dict[int, tuple[int, int]] = {}
        """Locator and revision by identifier."""

        self.nodes: set[str] = set()
        self.generation = Generation(0, 0)
        self._listed: dict[int, tuple[int, int]] = {}
        self._changed = asyncio.Condition()
        self._task = asyncio.create_task(self._run(highest))

    @property
    def resets(self) -> int:
        """How many snapshots were delivered whole."""
        return sum(isinstance(event, ResetEnd) for event in self.events)

    @property
    def revisions(self) -> list[int]:
        """The revisions of all updates, upserts and deletions, in order of delivery."""
        updates = [event for event in self.events if isinstance(event, Update)]
        return [number for update in updates for number in sorted((*update.revisions, *update.deleted_revisions))]

    async def until(self, reached: Callable[[Follower], bool], timeout: float = 15) -> None:
        """Wait for a state; whatever ends the stream is raised."""
        async with asyncio.timeout(timeout):
            while not reached(self):
                if self._task.done():
                    self._task.result()
                await asyncio.sleep(0.01)

    async def error(self, timeout: float = 15) -> BaseException | None:
        """Wait until the stream ends, and return why."""
        await asyncio.wait({self._task}, timeout=timeout)
        return self._task.exception() if self._task.done() else None

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, highest: Generation) -> None:
        async with contextlib.aclosing(self.stream.follow(highest)) as events:
            async for event in events:
                self.events.append(event)
                self._take(event)

    def _take(self, event: Event) -> None:
        match event:
            case ResetBegin():
                self._listed = {}
                self.nodes = {node.name for node in event.nodes}
            case ResetPage():
                values = zip(event.locators, event.revisions, strict=True)
                self._listed |= dict(zip(event.identifiers, values, strict=True))
            case ResetEnd():
                assert event.generation >= self.generation
                self.mappings, self.generation = self._listed, event.generation
            case Update():
                assert event.generation > self.generation
                self.generation = event.generation
                values = zip(event.locators, event.revisions, strict=True)
                self.mappings |= dict(zip(event.identifiers, values, strict=True))
                for identifier in event.deleted:
                    self.mappings.pop(identifier, None)
                self.nodes |= {node.name for node in event.nodes}
                self.nodes -= set(event.deleted_nodes)


class BadNetwork:
    """A way to one etcd that can be cut, or swallow everything in silence; `place` is where to enter it."""

    def __init__(self, place: str) -> None:
        self._host, _, port = place.rpartition(":")
        self._port = int(port)
        self.port = free_port()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()

    @property
    def peer(self) -> Peer:
        """How to reach etcd through it."""
        return Peer(endpoints=(f"127.0.0.1:{self.port}",), insecure=True)

    async def open(self) -> None:
        """Take connections."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def cut(self) -> None:
        """End all connections and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def swallow(self) -> None:
        """Keep connections and take new ones, but pass nothing on."""
        self._flows.clear()

    def flow(self) -> None:
        """Pass everything on again."""
        self._flows.set()

    async def close(self) -> None:
        await self.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        writers = [writer]
        try:
            there, back = await asyncio.open_connection(self._host, self._port)
            writers.append(back)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, back))
                group.create_task(self._pump(there, writer))
        except* OSError:
            pass
        except* asyncio.CancelledError:
            pass
        finally:
            self._tasks.discard(task)
            for each in writers:
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65536):
            await self._flows.wait()
            writer.write(piece)
            await writer.drain()
        raise ConnectionResetError


def identifier(number: int) -> Identifier:
    """Return an identifier by number, from 1."""
    return Identifier(1 << 61 | number)


def locator(number: int) -> Locator:
    """Return a locator by number."""
    return Locator((0xFD00C0DE << 32) + number)


async def write(store: EtcdStore, numbers: Sequence[int], at: int = 1) -> int:
    """Write mappings one transaction each, at a locator; return the last revision."""
    last = 0
    for number in numbers:
        key = mapping.mapping_key(identifier(number))
        was = (await store.read([key])).revision_of(key)
        revision = await store.commit(Transaction({key: was}, {key: mapping.encode_mapping(locator(at))}))
        assert revision is not None
        last = revision
    return last


async def delete(store: EtcdStore, numbers: Sequence[int]) -> None:
    """Delete mappings, one transaction each."""
    for number in numbers:
        key = mapping.mapping_key(identifier(number))
        was = (await store.read([key])).revision_of(key)
        assert await store.commit(Transaction({key: was}, deletes=frozenset((key,)))) is not None


async def register(
    service: Service, number: int = 1, *, highest: Generation = NEVER, claims: Sequence[Claim] = ()
) -> Registered:
    """Register node n<number>."""
    address = ipaddress.IPv6Address(f"2001:db8::{number}")
    return await service.register(
        Registration(node=f"n{number}", address=address, port=7444, declared=None, highest=highest), claims
    )


def holder(name: str, container: str = "c1", number: int = 1) -> Holder:
    """Return a container on node n<number> that asks for the pod ns/<name>."""
    return Holder(owner=OwnerName.of_name("ns", name), node=f"n{number}", container=container)
