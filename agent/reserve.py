# SPDX-License-Identifier: Apache-2.0
"""Identifiers that the controller has handed to this node in advance: an ADD takes one and asks nobody."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from concurrent.futures import Executor

from agent.backlog import Backlog
from agent.core.ports import Controller, ControllerError, Records, Refused
from agent.core.status import Status
from agent.endpoint_table import EndpointTable
from agent.pool import uninterrupted
from ila.address import Identifier

log = logging.getLogger("ilanet.reserve")

RECORD = "reserve"
"""Key of the record that holds the identifiers still free, so that a restart needs no controller."""


class Reserve(Backlog):
    """The identifiers that are still free; each is taken once, whatever ends and begins anew."""

    def __init__(
        self,
        *,
        controller: Controller,
        records: Records,
        table: EndpointTable,
        status: Status,
        size: int,
        pool: Executor,
    ) -> None:
        """Take the number of identifiers to keep free; 0: none, every ADD asks the controller."""
        super().__init__()
        self._controller = controller
        self._records = records
        self._table = table
        self._status = status
        self._size = size
        self._pool = pool
        self._free: deque[Identifier] = deque()
        self._failure = ""
        self._taken: set[Identifier] = set()
        """Since the start, and perhaps still in the controller's answers: they come and go in their own time."""

        self._on_disk: set[Identifier] = set()
        self._writing = asyncio.Lock()

    def __len__(self) -> int:
        """Return how many are free."""
        return len(self._free)

    @property
    def shortage(self) -> str:
        """Why an ADD gets no identifier now; '' as long as there is one, or the controller answers."""
        return "" if self._free else self._failure

    def load(self) -> None:
        """Take up what an earlier run had left; after the endpoint table; ValueError if the record does not parse."""
        raw = self._records.load().get(RECORD)
        if raw is None:
            return
        try:
            found = [Identifier.parse(text) for text in json.loads(raw)["identifiers"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"reserve record {raw[:300]!r} does not parse: {error}") from error
        self._on_disk = set(found)
        self._free.extend(identifier for identifier in found if identifier not in self._used())

    def take(self) -> Identifier | None:
        """Return an identifier that is this node's and nobody's yet; None if there is none."""
        if len(self._free) <= self._size * 3 // 4:
            self.later()
        if not self._free:
            return None
        identifier = self._free.popleft()
        self._taken.add(identifier)
        return identifier

    def give_back(self, identifier: Identifier) -> None:
        """Take back an identifier that was taken and never used: no record names it; any other is let be."""
        if identifier in self._taken and identifier not in self._used():
            self._taken.discard(identifier)
            self._free.append(identifier)

    async def forget(self, identifier: Identifier) -> None:
        """Strike an identifier from the disk before the record goes that says what became of it.

        A full disk takes no new record: then the old one goes whole.
        """
        if identifier not in self._on_disk:
            return
        try:
            await self._write()
        except OSError as error:
            log.warning("the reserve is kept in memory only: %s", error)
            await uninterrupted(self._pool, self._records.remove, RECORD)
            self._on_disk = set()

    async def step(self) -> bool:
        """Fill the reserve up; return whether that was possible."""
        if not self._size:
            return True
        await self._table.idle()
        before = self._used()  # an earlier run took it; its release may overtake this answer, which still lists it
        try:
            answer = await self._controller.reserve(count=self._size + len(self._table.unpublished()))
            self._taken &= set(answer)
            used = before | self._used() | self._taken
            self._free = deque(identifier for identifier in answer if identifier not in used)
            await self._write()
        except (ControllerError, Refused, OSError) as error:
            self._failure = str(error)
            self._status.problem("reserve", f"{len(self._free)} identifiers are left: {error}")
            return False
        self._failure = ""
        self._status.well("reserve")
        return True

    async def _write(self) -> None:
        async with self._writing:
            free = list(self._free)
            raw = json.dumps({"identifiers": [str(identifier) for identifier in free]}, indent=1).encode()
            await uninterrupted(self._pool, self._records.save, RECORD, raw)
            self._on_disk = set(free)

    def _used(self) -> set[Identifier]:
        return {endpoint.identifier for endpoint in self._table.all()}
