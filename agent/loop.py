# SPDX-License-Identifier: Apache-2.0
"""The reconciling loop: runs steps when something asks for it, and at the latest after a set time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from agent.core.datapath import DatapathError
from agent.core.network import Changes, NetworkError
from agent.core.status import Status

log = logging.getLogger("ilanet.loop")

SETTLE = 0.02
"""Seconds that a burst of events is given to end before one pass serves them all."""

REST = 10
"""Times the duration of the last pass that the kernel's next word waits: where pods come and go all the time, each
changing links and routes, passes take a tenth of the time and leave the rest to ADD and DEL."""

LONGEST_REST = 1.0
"""Seconds: drift is noticed within it."""


class Loop:
    """Named steps, run in order; one that fails is a problem of the status and is tried again."""

    def __init__(
        self, *, steps: Sequence[tuple[str, Callable[[], Awaitable[None]]]], status: Status, resync: float, retry: float
    ) -> None:
        self._steps = steps
        self._status = status
        self._resync = resync
        self._retry = retry
        self._asked = asyncio.Event()
        self._took = 0.0

    def ask(self) -> None:
        """Ask for a pass soon."""
        self._asked.set()

    async def listen(self, changes: Changes) -> None:
        """Ask for a pass whenever the kernel says that something changed."""
        while True:
            await changes.wait()
            self.ask()
            await asyncio.sleep(min(max(SETTLE, REST * self._took), LONGEST_REST))

    async def run(self) -> None:
        """Run passes for ever."""
        self.ask()
        while True:
            started = time.monotonic()
            well = await self.step()
            self._took = time.monotonic() - started
            try:
                async with asyncio.timeout(self._resync if well else self._retry):
                    await self._asked.wait()
                await asyncio.sleep(SETTLE)
            except TimeoutError:
                pass

    async def step(self) -> bool:
        """Run every step once; return whether all went well.

        If the first fails, nothing stands that the others build upon; any other one holds nothing back.
        """
        self._asked.clear()
        well = True
        for name, step in self._steps:
            try:
                await step()
            except (DatapathError, NetworkError, OSError, ValueError) as error:
                self._status.problem(name, str(error))
                if name == self._steps[0][0]:
                    return False
                well = False
            else:
                self._status.well(name)
        return well
