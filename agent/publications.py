# SPDX-License-Identifier: Apache-2.0
"""Publishes what was attached with an identifier of the reserve: the controller hears of it while ADD is at work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from agent.backlog import Backlog
from agent.core.endpoint import Endpoint, State
from agent.core.ports import Controller, ControllerError, Refused
from agent.core.status import Status
from agent.endpoint_table import EndpointTable
from ila.mapping import Generation

log = logging.getLogger("ilanet.publications")

AT_ONCE = 16
"""Calls to the controller that one step has under way."""

PATIENCE = 1.0
"""Seconds that an ADD waits for the controller's answer, so that others reach the pod when ADD returns."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call to the controller, under way or answered."""

    endpoint: Endpoint
    task: asyncio.Task[Generation]


class Publications(Backlog):
    """The endpoints in state UNPUBLISHED; a record on disk waits until the controller knows."""

    def __init__(self, *, controller: Controller, table: EndpointTable, status: Status) -> None:
        super().__init__()
        self._controller = controller
        self._table = table
        self._status = status
        self._calls: dict[str, Call] = {}
        self._failing = False

    def begin(self, endpoint: Endpoint) -> Call:
        """Tell the controller of an endpoint whose record is on disk; return the call."""
        call = self._calls.get(endpoint.host_name)
        if call is None or call.endpoint is not endpoint:
            call = Call(endpoint, asyncio.ensure_future(self._ask(endpoint)))
            call.task.add_done_callback(_look_at)
            self._calls[endpoint.host_name] = call
        return call

    async def heard(self, endpoint: Endpoint) -> None:
        """Wait a little until the controller knows; not at all while it does not answer others."""
        call = self._calls.get(endpoint.host_name)
        if call is not None and not self._failing:
            await asyncio.wait([call.task], timeout=PATIENCE)
        self.later()

    async def settled(self, name: str) -> None:
        """Return when no call for this host link is under way: one that overtook its release would outlive it."""
        call = self._calls.get(name)
        if call is not None:
            await asyncio.wait([call.task])

    async def step(self) -> bool:
        """Publish everything that waits; return whether nothing is left."""
        waiting = self._table.unpublished()
        for name in self._calls.keys() - {endpoint.host_name for endpoint in waiting}:
            if self._calls[name].task.done():
                del self._calls[name]
        failures: list[str] = []
        for start in range(0, len(waiting), AT_ONCE):
            failures += await self._batch(waiting[start : start + AT_ONCE])
        if failures:
            self._status.problem("publication", f"{len(failures)} pods are not published: {failures[0]}")
        else:
            self._status.well("publication")
        return not self._table.unpublished()

    async def _batch(self, endpoints: Sequence[Endpoint]) -> list[str]:
        """Publish some at once; return why some were not."""
        calls = [self.begin(endpoint) for endpoint in endpoints]
        await asyncio.wait([call.task for call in calls])
        failures = []
        for call in calls:
            try:
                await self._note(call.endpoint, call.task.result())
            except (ControllerError, Refused, OSError) as error:
                failures.append(f"{call.endpoint.pod}: {error}")
            self._calls.pop(call.endpoint.host_name, None)
        return failures

    async def _note(self, endpoint: Endpoint, generation: Generation) -> None:
        """Write down that the controller knows, unless a DEL came meanwhile."""
        async with self._table.exclusively(endpoint.container_id, endpoint.host_name):
            if self._table.get(endpoint.host_name) is endpoint:
                await self._table.save(replace(endpoint, state=State.WIRED, generation=generation))

    async def _ask(self, endpoint: Endpoint) -> Generation:
        try:
            identifier, generation = await self._controller.assign(
                pod=endpoint.pod,
                container_id=endpoint.container_id,
                take_over=self._table.has_older(endpoint),
                reserved=endpoint.identifier,
            )
        except (ControllerError, Refused):
            self._failing = True
            raise
        if identifier != endpoint.identifier:
            raise ControllerError(f"the controller knows it as {identifier}, not as {endpoint.identifier}")
        self._failing = False
        return generation


def _look_at(task: asyncio.Task[Generation]) -> None:
    """Take note of a failure that nobody may be waiting for any more."""
    if not task.cancelled():
        task.exception()
