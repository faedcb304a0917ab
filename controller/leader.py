# SPDX-License-Identifier: Apache-2.0
"""Leader election by a Lease: one controller at a time does what needs only one.

The client's own election (kubernetes.aio.leaderelection in 37.0) cannot make a Lease, and reads the time of day.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from controller.core.kubernetes import Kubernetes, KubernetesError

log = logging.getLogger("controller.leader")

LEASE = "ilanet-controller"
DURATION = 15
"""Seconds after which a lease that was not renewed is free."""

_DEADLINE = 10.0
"""Seconds after which a leader that cannot renew its lease stops: before another one may begin."""

_PAUSE = 2.0


class Leader:
    """Takes part in the election, and runs the work while it leads."""

    def __init__(
        self, *, kubernetes: Kubernetes, namespace: str, identity: str, work: Callable[[], Awaitable[None]]
    ) -> None:
        self._kubernetes = kubernetes
        self._namespace = namespace
        self._identity = identity
        self._work = work
        self._seen = ("", 0.0)
        """The lease's version, and since when it is that."""

        self._renewed = 0.0
        self._task: asyncio.Future[None] | None = None

    @property
    def leads(self) -> bool:
        """Whether this controller is the leader."""
        return self._task is not None

    async def run(self) -> None:
        """Take part for ever; work that fails ends this."""
        try:
            while True:
                await self.step(time.monotonic())
                await asyncio.sleep(_PAUSE)
        finally:
            await self._stop()

    async def step(self, now: float) -> None:
        """Take or renew the lease, begin or end the work; `now` is of the monotonic clock."""
        try:
            held = await self._take(now)
        except KubernetesError as error:
            log.warning("%s", error)
            held = False
        if held:
            self._renewed = now
            if self._task is None:
                log.info("%s leads", self._identity)
                self._task = asyncio.ensure_future(self._work())
        elif self._task is not None and now - self._renewed > _DEADLINE:
            log.warning("%s leads no more", self._identity)
            await self._stop()
        if self._task is not None and self._task.done():
            self._task.result()

    async def _take(self, now: float) -> bool:
        lease = await self._kubernetes.read_lease(self._namespace, LEASE)
        version = lease.version if lease is not None else ""
        if version != self._seen[0]:
            self._seen = (version, now)
        if lease is not None and lease.holder not in ("", self._identity) and now - self._seen[1] < DURATION:
            return False
        return await self._kubernetes.write_lease(
            self._namespace, LEASE, holder=self._identity, seconds=DURATION, after=version
        )

    async def _stop(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
