# SPDX-License-Identifier: Apache-2.0
"""Work that the controller is still to hear of: done in the background, again and again until nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod


class Backlog(ABC):
    """A service of the agent around a step that tries everything once."""

    def __init__(self) -> None:
        self._wanted = asyncio.Event()

    def later(self) -> None:
        """Ask for a step in the background."""
        self._wanted.set()

    async def run(self, pause: float) -> None:
        """Step for ever whenever asked, and first for what an earlier run left; `pause` seconds after a failure."""
        self._wanted.set()
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if not await self.step():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wanted.wait(), pause)
                self._wanted.set()

    @abstractmethod
    async def step(self) -> bool:
        """Try everything that waits; return whether nothing is left."""
