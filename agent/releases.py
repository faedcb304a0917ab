# SPDX-License-Identifier: Apache-2.0
"""Gives identifiers back to the controller, now or as soon as it answers; a record on disk waits until then."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from agent.backlog import Backlog
from agent.core.endpoint import Endpoint
from agent.core.ports import Controller, ControllerError, Refused
from agent.core.status import Status
from agent.endpoint_table import EndpointTable
from ila.address import Identifier

log = logging.getLogger("ilanet.releases")


class Releases(Backlog):
    """The releases that DELs and failed ADDs leave behind."""

    def __init__(
        self,
        *,
        controller: Controller,
        table: EndpointTable,
        status: Status,
        settled: Callable[[str], Awaitable[None]],
        forget: Callable[[Identifier], Awaitable[None]],
    ) -> None:
        """Take what waits for a publication under way, and what strikes an identifier from the reserve on disk."""
        super().__init__()
        self._controller = controller
        self._table = table
        self._status = status
        self._settled = settled
        self._forget = forget

    async def release(self, endpoint: Endpoint) -> None:
        """Release one endpoint and forget it; ControllerError leaves it to the background."""
        await self._settled(endpoint.host_name)
        try:
            await self._controller.release(
                pod=endpoint.pod, container_id=endpoint.container_id, identifier=endpoint.identifier
            )
        except Refused as refusal:
            log.warning("release of %s was refused: %s", endpoint.pod, refusal, extra={"pod": str(endpoint.pod)})
        await self._forget(endpoint.identifier)
        await self._table.remove(endpoint)

    async def step(self) -> bool:
        """Try to release everything that waits; return whether nothing is left."""
        left = 0
        for endpoint in self._table.releasing():
            async with self._table.locked(endpoint.container_id):
                if self._table.get(endpoint.host_name) != endpoint:
                    continue
                try:
                    await self.release(endpoint)
                except (ControllerError, OSError) as error:
                    left += 1
                    self._status.problem("release", f"pod {endpoint.pod}: {error}")
        if not left:
            self._status.well("release")
        return not left
