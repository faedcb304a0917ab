# SPDX-License-Identifier: Apache-2.0
"""Snapshot, then watch, of mappings and nodes in etcd: implements ila.store.MappingStream.

etcd3aio's own watch can lose events after a reconnect, so the loop is ours.  It resumes after the last revision
it delivered.  Every connect, and a check at intervals, compares etcd's epoch and revision with what was seen: a
watch from a revision that a wiped etcd has not reached yet would be silent for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ila import mapping
from ila.channel import PeerChannel
from ila.etcd import EtcdStore, errors
from ila.mapping import Generation, MappingDecoder, Node
from ila.store import (
    Event,
    ResetBegin,
    ResetEnd,
    ResetPage,
    StoreCompacted,
    StoreError,
    StoreUnavailable,
    StoreWentBack,
    Update,
)
from ila.watch import Watch

log = logging.getLogger(__name__)

_FIRST = mapping.EPOCH
_AFTER = mapping.READABLE_BY_AGENTS[1]
_PAGE = 5000
"""Mappings in a ResetPage: its consumer should not hold up the event loop for long."""


class _Stale(Exception):  # noqa: N818 - a turn in the loop, never seen outside
    """What was delivered can no longer be continued: a fresh snapshot is due."""


class _KeyValue(Protocol):
    key: bytes
    value: bytes
    mod_revision: int


class EtcdMappingStream:
    """Follows etcd through restarts, compaction and loss; makes no connection before follow()."""

    def __init__(
        self,
        *,
        channel: PeerChannel,
        store: EtcdStore,
        check_interval: float = 10.0,
        silence: float = 5.0,
        backoff: Sequence[float] = (0.1, 0.5, 1.0, 2.0, 5.0),
    ) -> None:
        """Take durations in seconds.

        check_interval: between two checks that etcd is where we think; silence: longest wait for an answer on the
        watch; backoff: pauses before reconnecting, the last one for all further attempts.
        """
        self._channel = channel
        self._store = store
        self._check_interval = check_interval
        self._silence = silence
        self._backoff = tuple(backoff)
        self._decoder = MappingDecoder()
        self._trouble: str | None = "not connected yet"

    @property
    def trouble(self) -> str | None:
        """Why the stream does not deliver at present; None while it does."""
        return self._trouble

    async def follow(self, highest: Generation) -> AsyncGenerator[Event, None]:
        """Yield events for ever (ila.store.MappingStream.follow)."""
        course = _Course(seen=highest)
        while True:
            try:
                async with contextlib.aclosing(self._connected(course)) as events:
                    async for event in events:
                        yield event
            except (_Stale, StoreCompacted) as reason:
                log.info("snapshot due of etcd=%s: %s", self._channel.name, reason)
                course.delivered = None
            except StoreWentBack as error:
                self._trouble = str(error)
                raise
            except StoreError as error:
                self._trouble = f"at {self._channel.name}: {error}"
                pause = self._backoff[min(course.failures, len(self._backoff) - 1)]
                course.failures += 1
                log.warning("stream from etcd=%s broke, again in %s s: %s", self._channel.name, pause, error)
                await asyncio.sleep(pause)

    async def _connected(self, course: _Course) -> AsyncGenerator[Event, None]:
        """Yield events of one connection: a snapshot if one is due, then changes; ends only by an error."""
        found = await self._locate(course.seen)
        if not found.epoch:
            raise StoreUnavailable("etcd is empty: no controller has written the epoch yet")
        course.see(found)
        if course.delivered is not None and course.delivered.epoch != found.epoch:
            raise _Stale(f"the epoch is {found.epoch}, was {course.delivered.epoch}")
        if course.delivered is None:
            async with contextlib.aclosing(self._snapshot(found)) as events:
                async for event in events:
                    yield event
            course.delivered = found
        async with contextlib.aclosing(self._watch(course, course.delivered)) as updates:
            async for update in updates:
                yield update

    async def _locate(self, seen: Generation) -> Generation:
        """Return where etcd is now (epoch 0: empty); StoreWentBack if that is before `seen`."""
        reading = await self._store.read([mapping.EPOCH])
        record = reading.records.get(mapping.EPOCH)
        found = Generation(mapping.decode_epoch(record.value) if record else 0, reading.revision)
        if found < seen:
            raise StoreWentBack(seen=seen, found=found)
        return found

    async def _snapshot(self, found: Generation) -> AsyncGenerator[Event, None]:
        """Yield everything as it stood at `found`."""
        nodes: list[Node] = []
        async for page in self._store.pages(mapping.NODES, revision=found.revision):
            nodes += [mapping.decode_node(kv.key, kv.value) for kv in page.kvs]
        yield ResetBegin(found.epoch, nodes)
        async for page in self._store.pages(mapping.MAPPINGS, revision=found.revision):
            for start in range(0, len(page.kvs), _PAGE):
                yield ResetPage(*decode_mappings(page.kvs[start : start + _PAGE], self._decoder))
        yield ResetEnd(found)

    async def _watch(self, course: _Course, start: Generation) -> AsyncGenerator[Update, None]:
        """Yield changes after `start` until the watch breaks."""
        with errors():
            channel = self._channel.get()
        async with contextlib.aclosing(Watch.on(channel, silence=self._silence)) as watch:
            await watch.begin(first=_FIRST, after=_AFTER, revision=start.revision + 1)
            self._trouble, course.failures = None, 0
            while True:
                response = await watch.next(self._check_interval)
                if response is None:
                    await self._check(course, start)
                    response = await watch.sign_of_life()
                update = self._update(start.epoch, response.events)
                if update is not None:
                    yield update
                    course.delivered = update.generation
                    course.see(update.generation)

    async def _check(self, course: _Course, start: Generation) -> None:
        found = await self._locate(course.seen)
        if found.epoch != start.epoch:
            raise _Stale(f"the epoch is {found.epoch}, was {start.epoch}")

    def _update(self, epoch: int, events: Sequence[object]) -> Update | None:
        """Return the changes in a response, the last one of each record; None if none is for agents."""
        if not events:
            return None
        last: dict[bytes, tuple[bool, _KeyValue]] = {}
        for event in events:
            last[event.kv.key] = (event.type == event.DELETE, event.kv)  # type: ignore[attr-defined]
        if mapping.EPOCH in last:
            raise _Stale("the epoch has changed")
        kept = [kv for gone, kv in last.values() if not gone]
        gone = [kv for is_gone, kv in last.values() if is_gone]
        return Update(
            Generation(epoch, events[-1].kv.mod_revision),  # type: ignore[attr-defined]
            *decode_mappings(_under(kept, mapping.MAPPINGS), self._decoder),
            [self._decoder.identifier(kv.key) for kv in _under(gone, mapping.MAPPINGS)],
            [kv.mod_revision for kv in _under(gone, mapping.MAPPINGS)],
            [mapping.decode_node(kv.key, kv.value) for kv in _under(kept, mapping.NODES)],
            [kv.key.removeprefix(mapping.NODES).decode() for kv in _under(gone, mapping.NODES)],
        )


@dataclass(slots=True)
class _Course:
    """How far the stream has come."""

    seen: Generation
    """Highest generation seen anywhere."""

    delivered: Generation | None = None
    """Everything up to here was delivered; None: a snapshot is due."""

    failures: int = 0
    """Since the last watch that began."""

    def see(self, generation: Generation) -> None:
        self.seen = max(self.seen, generation)


def decode_mappings(records: Iterable[_KeyValue], decoder: MappingDecoder) -> tuple[list[int], list[int], list[int]]:
    """Return identifiers, locators (upper halves) and mod revisions of mapping records."""
    identifiers, locators, revisions = [], [], []
    identifier, locator = decoder.identifier, decoder.locator
    for kv in records:
        key = kv.key
        identifiers.append(identifier(key))
        locators.append(locator(key, kv.value))
        revisions.append(kv.mod_revision)
    return identifiers, locators, revisions


def _under(records: Iterable[_KeyValue], prefix: bytes) -> list[_KeyValue]:
    return [kv for kv in records if kv.key.startswith(prefix)]
