# SPDX-License-Identifier: Apache-2.0
"""Executes decisions: reads what they need, commits what they plan, and decides again when something had changed."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from controller.core import registration
from controller.core.decision import Plan, View, foundation, foundation_keys
from controller.core.registration import Registration
from ila import mapping
from ila.address import Locator
from ila.domain import Domain
from ila.mapping import Generation, OwnerName
from ila.store import Store, StoreUnavailable

log = logging.getLogger("controller.service")

T = TypeVar("T")

ATTEMPTS = 30
JITTER = 0.02


class Decider:
    """What every part that changes etcd is built on."""

    def __init__(self, *, store: Store, domain: Domain, attempts: int = ATTEMPTS, jitter: float = JITTER) -> None:
        """Take the number of decisions a call may need while others change the same records.

        jitter: seconds, the longest pause after the first failed commit; it doubles up to 16 times that.
        """
        self._store = store
        self._domain = domain
        self._attempts = attempts
        self._jitter = jitter
        self._seen = Generation(0, 0)

    async def owners(self) -> list[OwnerName]:
        """Return every owner that etcd knows."""
        keys = await self._store.read_keys(mapping.OWNERS)
        return [OwnerName.parse(key.removeprefix(mapping.OWNERS).decode()) for key in keys]

    async def _in_use(self, locator: Locator, node: str) -> bool:
        """Tell whether pods' mappings point at a node's locator; that of its own end of probes does not count."""
        own = mapping.mapping_key(mapping.probe_identifier(node))
        return await self._store.has_value(mapping.MAPPINGS, mapping.encode_mapping(locator), but=own)

    async def _view(self, keys: Sequence[bytes], *, request: Registration | None = None) -> View | None:
        """Read these records and the foundation; None if the foundation had to be laid first: read again."""
        seen = self._seen
        view = View(await self._store.read((*foundation_keys(), *keys)))
        if request is not None:
            registration.check_highest(request, view)
            seen = max(seen, request.highest)
        plan = foundation(view, domain=self._domain, seen=seen)
        if plan is not None:
            log.warning("etcd is empty or went back: seen=%s found=%s", seen, view.generation)
            await self._commit(plan, 0)
            return None
        self._seen = max(self._seen, view.generation)
        return view

    async def _commit(self, plan: Plan, epoch: int) -> int | None:
        """Do what was planned in this epoch and return its revision; None if something had changed."""
        revision = await self._store.commit(plan.transaction)
        if revision is not None:
            self._seen = max(self._seen, Generation(epoch, revision))
            log.info("%s revision=%d", plan.what, revision)
        return revision

    async def _repeat(self, decide: Callable[[int], Awaitable[T | None]]) -> T:
        """Decide until it holds: None means that something had changed in between."""
        for attempt in range(self._attempts):
            result = await decide(attempt)
            if result is not None:
                return result
            pause = self._jitter * (1 << min(attempt, 4))
            await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - spreads racing calls
        raise StoreUnavailable(f"the records changed {self._attempts} times while this was decided: try again")
