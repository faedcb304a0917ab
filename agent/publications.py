# SPDX-License-Identifier: Apache-2.0
"""Publishes what was attached with an identifier of the reserve: the controller hears of it right after ADD."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from agent.backlog import Backlog
from agent.core.endpoint import Endpoint, State
from agent.core.ports import Assigned, Controller, ControllerError, Refused
from agent.core.status import Status
from agent.endpoint_table import EndpointTable

log = logging.getLogger("ilanet.publications")

AT_ONCE = 16
"""Calls to the controller under way at the same time."""


class Publications(Backlog):
    """The endpoints in state UNPUBLISHED; a record on disk waits until the controller knows."""

    def __init__(self, *, controller: Controller, table: EndpointTable, status: Status) -> None:
        super().__init__()
        self._controller = controller
        self._table = table
        self._status = status
        self._calls: dict[str, asyncio.Task[Assigned]] = {}

    async def step(self) -> bool:
        """Publish everything that waits; return whether nothing is left."""
        await self._table.idle()
        waiting = self._table.unpublished()
        failures: list[str] = []
        for start in range(0, len(waiting), AT_ONCE):
            failures += await self._batch(waiting[start : start + AT_ONCE])
        if failures:
            self._status.problem("publication", f"{len(failures)} pods are not published: {failures[0]}")
        else:
            self._status.well("publication")
        return not self._table.unpublished()

    async def settled(self, name: str) -> None:
        """Return when no call for this host link is under way: one that overtook its release would outlive it."""
        call = self._calls.get(name)
        if call is not None:
            await asyncio.wait([call])

    async def _batch(self, endpoints: Sequence[Endpoint]) -> list[str]:
        """Publish some at once; return why some were not."""
        self._calls = {item.host_name: asyncio.ensure_future(self._ask(item)) for item in endpoints}
        answers = await asyncio.gather(*self._calls.values(), return_exceptions=True)
        self._calls = {}
        failures = []
        for endpoint, answer in zip(endpoints, answers, strict=True):
            try:
                if isinstance(answer, BaseException):
                    raise answer
                await self._note(endpoint, answer)
            except (ControllerError, Refused, OSError) as error:
                failures.append(f"{endpoint.pod}: {error}")
        return failures

    async def _ask(self, endpoint: Endpoint) -> Assigned:
        assigned = await self._controller.assign(
            pod=endpoint.pod,
            container_id=endpoint.container_id,
            take_over=self._table.has_older(endpoint),
            reserved=endpoint.identifier,
        )
        if assigned.identifier != endpoint.identifier:
            raise ControllerError(f"the controller knows it as {assigned.identifier}, not as {endpoint.identifier}")
        return assigned

    async def _note(self, endpoint: Endpoint, assigned: Assigned) -> None:
        """Write down that the controller knows, unless a DEL came meanwhile."""
        async with self._table.locked(endpoint.container_id):
            if self._table.get(endpoint.host_name) is endpoint:
                pod = replace(endpoint.pod, owner_name=assigned.owner)
                wired = replace(endpoint, pod=pod, state=State.WIRED, generation=assigned.generation)
                await self._table.save(wired)
