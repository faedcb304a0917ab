# SPDX-License-Identifier: Apache-2.0
"""Tells the controller how this node is, now and then and whenever it changes: Kubernetes hears of it from there."""

from __future__ import annotations

import asyncio
import time

from agent.core.ports import Controller, ControllerError, Refused
from agent.core.status import Status
from agent.endpoint_table import EndpointTable
from ila import VERSION

PAUSE = 1.0
"""Seconds between two looks whether something has changed."""

EVERY = 30.0
"""Seconds after which an unchanged report is repeated: a controller that has just started knows nothing."""

State = tuple[bool, dict[str, str]]


class Reports:
    """The reports of one node."""

    def __init__(
        self, *, controller: Controller, status: Status, table: EndpointTable, past_netfilter: bool = False
    ) -> None:
        """Take what is reported; past_netfilter: pods' packets pass it by."""
        self._controller = controller
        self._past_netfilter = past_netfilter
        self._status = status
        self._table = table
        self._said: State | None = None
        self._when = 0.0

    async def run(self) -> None:
        """Report for ever."""
        while True:
            await self.step(time.monotonic())
            await asyncio.sleep(PAUSE)

    async def step(self, now: float) -> None:
        """Report if there is something new, or the last report is old; `now` is in seconds of a monotonic clock."""
        state = (self._status.serving, {what: why for what, why in self._status.problems.items() if what != "report"})
        if self._status.registration is None or (state == self._said and now - self._when < EVERY):
            return
        owners = {endpoint.pod.owner for endpoint in self._table.all()}
        try:
            await self._controller.report(
                version=VERSION,
                serving=state[0],
                problems=state[1],
                owners=owners,
                past_netfilter=self._past_netfilter,
            )
        except (ControllerError, Refused) as error:
            self._status.problem("report", str(error))
            return
        self._status.well("report")
        self._said, self._when = state, now
