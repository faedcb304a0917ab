# SPDX-License-Identifier: Apache-2.0
"""Follows the mapping stream into the desired tables, and the tables into the kernel; knows the other nodes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Executor

from agent.core.datapath import Datapath, DatapathError
from agent.core.mappings import MappingTable
from agent.core.status import Status
from agent.pool import uninterrupted
from ila.mapping import Node, RecordError
from ila.store import Event, MappingStream, ResetBegin, ResetEnd, ResetPage, StoreError, StoreWentBack, Update

log = logging.getLogger("ilanet.mappings")

BATCH = 65536
"""Mappings written to the kernel in one call."""


class MappingFeed:
    """The mappings and nodes of the cluster, as etcd has them, brought to the kernel's map."""

    def __init__(
        self,
        *,
        stream: MappingStream,
        datapath: Datapath,
        table: MappingTable,
        status: Status,
        register_again: Callable[[], Coroutine[None, None, None]],
        on_change: Callable[[], None],
        local: Callable[[], AbstractSet[int]],
        backoff: Sequence[float],
        epoch_grace: float,
        audit: float,
        pool: Executor,
    ) -> None:
        """Take durations in seconds; audit: between two comparisons of the kernel's map with the table."""
        self._stream = stream
        self._datapath = datapath
        self._table = table
        self._status = status
        self._register_again = register_again
        self._on_change = on_change
        self._local = local
        self._backoff = backoff
        self._epoch_grace = epoch_grace
        self._audit = audit
        self._pool = pool
        self._audited = time.monotonic()
        self._epoch = 0
        self._nodes: dict[str, Node] = {}
        self._doubtful: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: asyncio.TaskGroup | None = None

    @property
    def nodes(self) -> dict[str, Node]:
        """Every registered node by name, as last heard."""
        return self._nodes

    async def run(self) -> None:
        """Follow the stream for ever; whatever fails is a problem of the status until it is over."""
        failures = 0
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            tasks.create_task(self._watch_trouble())
            while True:
                try:
                    async with contextlib.aclosing(self._stream.follow(self._table.highest)) as events:
                        async for event in events:
                            await self.take(event)
                            failures = 0
                            self._status.well("mappings")
                            self._show_trouble()
                except StoreWentBack as error:
                    log.warning("%s: registering again", error)
                    await self._register_again()
                except (StoreError, RecordError, DatapathError) as error:
                    self._status.problem("mappings", str(error))
                await asyncio.sleep(self._backoff[min(failures, len(self._backoff) - 1)])
                failures += 1

    async def take(self, event: Event) -> None:
        """Take one event of the stream into the tables and the kernel."""
        match event:
            case ResetBegin():
                self._begin(event)
            case ResetPage():
                self._table.upsert(self._epoch, event.identifiers, event.locators, event.revisions)
                self.flush()
            case ResetEnd():
                self._table.end(event.generation)
                self.flush()
                self._datapath.set_complete(complete=True)
                self._status.mappings_complete = True
                self._drop_later(event.generation.epoch)
                self._on_change()
            case Update():
                self._update(event)
        await asyncio.sleep(0)

    def flush(self) -> None:
        """Write to the kernel whatever differs; DatapathError if it does not take it, and it still differs."""
        while True:
            write, values, delete = self._table.pending(BATCH)
            if not write and not delete:
                return
            if delete:
                self._datapath.delete_mappings(delete)
                self._table.done(delete)
            if write:
                self._datapath.write_mappings(write, values)
                self._table.done(write)

    async def step(self) -> None:
        """Write what an earlier failure left over; now and then read the kernel's map back for drift."""
        self.flush()
        if time.monotonic() - self._audited < self._audit:
            return
        self._audited = time.monotonic()
        if wrong := self._table.differ(await uninterrupted(self._pool, self._datapath.read_mappings)):
            log.warning("%d mappings of the kernel's map were not as they were written: written again", wrong)
            self.flush()

    def _begin(self, event: ResetBegin) -> None:
        """Begin a snapshot.  A newer epoch means that etcd had lost data: this node fills in what it holds.

        Until all others have done so too, nodes that are not listed yet stay as they were (see _drop).
        """
        listed = {node.name: node for node in event.nodes}
        known = self._epoch or self._table.highest.epoch
        if known and event.epoch > known:
            log.warning("etcd is at epoch %d, after %d: registering again", event.epoch, known)
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._tasks is not None:
                self._tasks.create_task(self._register_again())
            self._doubtful = (self._doubtful | self._nodes.keys()) - listed.keys()
        self._nodes = {name: self._nodes[name] for name in self._doubtful if name in self._nodes} | listed
        self._epoch = event.epoch
        self._table.begin()
        self._on_change()

    def _update(self, event: Update) -> None:
        epoch = event.generation.epoch
        self._table.upsert(epoch, event.identifiers, event.locators, event.revisions)
        self._table.delete(epoch, event.deleted, event.deleted_revisions)
        self.flush()
        for node in event.nodes:
            self._nodes[node.name] = node
            self._doubtful.discard(node.name)
        for name in event.deleted_nodes:
            self._nodes.pop(name, None)
        if event.nodes or event.deleted_nodes or not self._local().isdisjoint(event.identifiers):
            self._on_change()

    def _drop_later(self, epoch: int) -> None:
        """End, after the grace time, what nobody has filled in again since this epoch began."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._epoch_grace, self._drop, epoch)

    def _drop(self, epoch: int) -> None:
        """Give up what nobody has filled in again since `epoch` began."""
        self._timer = None
        dropped = self._table.drop_before(epoch)
        for name in self._doubtful:
            self._nodes.pop(name, None)
        if dropped or self._doubtful:
            log.warning(
                "not filled in again since epoch %d began, so deleted: %d mappings, nodes %s",
                epoch,
                dropped,
                ", ".join(sorted(self._doubtful)) or "none",
            )
            self._on_change()
        self._doubtful.clear()

    async def _watch_trouble(self) -> None:
        """Show the stream's own trouble as a problem while it lasts."""
        while True:
            self._show_trouble()
            await asyncio.sleep(1)

    def _show_trouble(self) -> None:
        if trouble := self._stream.trouble:
            self._status.problem("etcd", trouble)
        else:
            self._status.well("etcd")
