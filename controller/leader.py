# SPDX-License-Identifier: Apache-2.0
"""Leader election by a Lease: one controller at a time does what needs only one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

import aiohttp
from kubernetes.aio import client
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

log = logging.getLogger("controller.leader")

_LEASE = "ilanet-controller"
_DURATION, _DEADLINE, _RETRY = 15.0, 10.0, 2.0
"""Seconds: a lease that was not renewed for so long is free; a leader that cannot renew for so long stops; pause."""


class Leader:
    """Takes part in the election, and runs the work while it leads.

    The client's own loop is not used: it leaves the work running when a call fails by the network, and reads the
    time of day.
    """

    def __init__(
        self, *, api: client.ApiClient, namespace: str, identity: str, work: Callable[[], Awaitable[None]]
    ) -> None:
        self._work = work
        self._identity = identity

        async def nothing() -> None:
            """Do nothing: only single steps of the client's election are used."""

        lock = LeaseLock(_LEASE, namespace, identity, api)
        self._election = LeaderElection(Config(lock, _DURATION, _DEADLINE, _RETRY, nothing, nothing))
        self._task: asyncio.Future[None] | None = None

    @property
    def leads(self) -> bool:
        """Whether this controller is the leader."""
        return self._task is not None

    async def run(self) -> None:
        """Take part for ever; work that fails ends this."""
        renewed = 0.0
        try:
            while True:
                now = time.monotonic()
                if await self._try():
                    renewed = now
                    if self._task is None:
                        log.info("%s leads", self._identity)
                        self._task = asyncio.ensure_future(self._work())
                elif self._task is not None and now - renewed > _DEADLINE:
                    log.warning("%s leads no more", self._identity)
                    await self._stop()
                if self._task is not None and self._task.done():
                    self._task.result()
                await asyncio.sleep(_RETRY)
        finally:
            await self._stop()

    async def _try(self) -> bool:
        """Get or renew the lease; False if another has it, or nobody could be asked."""
        try:
            async with asyncio.timeout(_DEADLINE):
                return bool(await self._election.try_acquire_or_renew())
        except (ApiException, aiohttp.ClientError, OSError, TimeoutError) as error:
            log.warning("lease %s: %s", _LEASE, error or "deadline exceeded")
            return False

    async def _stop(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
