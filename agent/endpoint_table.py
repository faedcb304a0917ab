# SPDX-License-Identifier: Apache-2.0
"""This node's endpoints in memory and on disk, and who may work on which; shared by the services that change them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from agent.core.endpoint import Endpoint, Pod, RecordError, State
from agent.core.ports import Records
from agent.pool import uninterrupted

COURTESY = 0.02
"""Seconds that work in the background leaves a burst of ADDs alone: a container takes longer to start than they do."""


class EndpointTable:
    """Every endpoint by the name of its host link; what it says is on disk."""

    def __init__(self, *, records: Records, pool: Executor) -> None:
        self._records = records
        self._pool = pool
        self._endpoints: dict[str, Endpoint] = {}
        self._not_on_disk: set[str] = set()
        self._groups: defaultdict[str, dict[str, Endpoint]] = defaultdict(dict)
        """The same by owner and by container: an ADD looks at few, however many pods there are."""

        self._busy: set[str] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._edits = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def edits(self) -> int:
        """Rises with every operation that begins: equal before and after means that nothing was changed between."""
        return self._edits

    @property
    def busy(self) -> bool:
        """Whether an operation on any endpoint is under way."""
        return bool(self._busy)

    async def idle(self) -> None:
        """Return as soon as no operation is under way, or after COURTESY."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), COURTESY)

    def is_busy(self, name: str) -> bool:
        """Tell whether an operation on this endpoint is under way."""
        return name in self._busy

    def load(self) -> None:
        """Read the records of an earlier run; RecordError if one does not parse: nothing is guessed."""
        for name, raw in self._records.load().items():
            try:
                endpoint = Endpoint.from_json(raw)
            except RecordError as error:
                raise RecordError(f"{name}: {error}") from error
            self.remember(endpoint)

    def get(self, name: str) -> Endpoint | None:
        """Return the endpoint of a host link, None if there is none."""
        return self._endpoints.get(name)

    def names(self) -> set[str]:
        """Return the host links of all endpoints, also of those that are being released."""
        return set(self._endpoints)

    def all(self) -> list[Endpoint]:
        """Return every endpoint."""
        return list(self._endpoints.values())

    def wired(self) -> list[Endpoint]:
        """Return the endpoints that are attached."""
        return [endpoint for endpoint in self._endpoints.values() if endpoint.attached]

    def unpublished(self) -> list[Endpoint]:
        """Return the attached endpoints that the controller is still to hear of."""
        return [endpoint for endpoint in self._endpoints.values() if endpoint.state is State.UNPUBLISHED]

    def of_owner(self, pod: Pod) -> list[Endpoint]:
        """Return the endpoints of what the controller knows as one owner, whatever their state."""
        return list(self._groups.get(pod.owner, {}).values())

    def of_container(self, container_id: str) -> list[Endpoint]:
        """Return the endpoints of a container, whatever their state."""
        return list(self._groups.get(_container(container_id), {}).values())

    def has_older(self, endpoint: Endpoint) -> bool:
        """Tell whether another container here has, or had until its release, what this endpoint claims."""
        return any(other.container_id != endpoint.container_id for other in self.of_owner(endpoint.pod))

    def releasing(self) -> list[Endpoint]:
        """Return the endpoints that the controller is still to hear of."""
        return [endpoint for endpoint in self._endpoints.values() if endpoint.state is State.RELEASING]

    def identifiers(self) -> set[int]:
        """Return the identifiers of the attached endpoints."""
        return {endpoint.identifier.value for endpoint in self.wired()}

    async def save(self, endpoint: Endpoint) -> None:
        """Write an endpoint, durably; OSError leaves the table as it was.

        Cancelled, it notes it all the same: the disk has it, and whoever undoes must know.
        """
        try:
            await uninterrupted(self._pool, self._records.save, endpoint.host_name, endpoint.to_json())
        except asyncio.CancelledError:
            self.remember(endpoint)
            raise
        self.remember(endpoint)

    async def check_disk(self) -> None:
        """Return if a record could be written now; OSError says why not."""
        await uninterrupted(self._pool, self._records.check)

    def is_on_disk(self, name: str) -> bool:
        """Tell whether the disk says the same of a host link: after a restart nothing else is known."""
        return name not in self._not_on_disk

    def remember(self, endpoint: Endpoint, *, on_disk: bool = True) -> None:
        """Note what the disk says already, or what it could not take: true until the agent ends."""
        self._forget(endpoint.host_name)
        self._endpoints[endpoint.host_name] = endpoint
        if not on_disk:
            self._not_on_disk.add(endpoint.host_name)
        for group in _groups(endpoint):
            self._groups[group][endpoint.host_name] = endpoint

    async def remove(self, endpoint: Endpoint) -> None:
        """Forget an endpoint, if the table still says exactly this of it."""
        if self._endpoints.get(endpoint.host_name) == endpoint:
            await uninterrupted(self._pool, self._records.remove, endpoint.host_name)
            self._forget(endpoint.host_name)

    def _forget(self, name: str) -> None:
        self._not_on_disk.discard(name)
        endpoint = self._endpoints.pop(name, None)
        if endpoint is None:
            return
        for group in _groups(endpoint):
            del self._groups[group][name]
            if not self._groups[group]:
                del self._groups[group]

    def locked(self, container_id: str) -> asyncio.Lock:
        """Return what holds a container for work that changes its record only."""
        return self._locks.setdefault(container_id, asyncio.Lock())

    @asynccontextmanager
    async def exclusively(self, container_id: str, name: str) -> AsyncIterator[None]:
        """Hold a container for a runtime: one operation at a time on each, any number at once on others."""
        async with self.locked(container_id):
            self._busy.add(name)
            self._idle.clear()
            self._edits += 1
            try:
                yield
            finally:
                self._busy.discard(name)
                if not self._busy:
                    self._idle.set()


def _container(container_id: str) -> str:
    return f"container/{container_id}"


def _groups(endpoint: Endpoint) -> tuple[str, str]:
    return endpoint.pod.owner, _container(endpoint.container_id)
