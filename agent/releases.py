# SPDX-License-Identifier: Apache-2.0
"""Gives identifiers back to the controller, now or as soon as it answers; a record on disk waits until then."""

from __future__ import annotations

import asyncio
import logging

from agent.core.endpoint import Endpoint
from agent.core.ports import Controller, ControllerError, Refused
from agent.core.status import Status
from agent.endpoint_table import EndpointTable

log = logging.getLogger("ilanet.releases")


class Releases:
    """The releases that DELs and failed ADDs leave behind."""

    def __init__(self, *, controller: Controller, table: EndpointTable, status: Status) -> None:
        self._controller = controller
        self._table = table
        self._status = status
        self._wanted = asyncio.Event()

    def later(self) -> None:
        """Ask for whatever waits to be released in the background."""
        self._wanted.set()

    async def release(self, endpoint: Endpoint) -> None:
        """Release one endpoint and forget it; ControllerError leaves it to the background."""
        try:
            await self._controller.release(pod=endpoint.pod, container_id=endpoint.container_id)
        except Refused as refusal:
            log.warning("release of %s was refused: %s", endpoint.pod, refusal)
        await self._table.remove(endpoint)

    async def run(self, pause: float) -> None:
        """Release for ever whatever waits, also from an earlier run; `pause` seconds between tries."""
        self._wanted.set()
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if not await self.step():
                await asyncio.sleep(pause)
                self._wanted.set()

    async def step(self) -> bool:
        """Try to release everything that waits; return whether nothing is left."""
        left = 0
        for endpoint in self._table.releasing():
            async with self._table.exclusively(endpoint.container_id, endpoint.host_name):
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
