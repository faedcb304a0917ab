# SPDX-License-Identifier: Apache-2.0
"""Follows all objects of one kind: lists, watches, and lists again after any failure; read back, diff, apply."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from controller.core.kubernetes import Kind, Kubernetes, KubernetesError

log = logging.getLogger("controller.informer")

WATCHES = 8
"""Watches between two lists, half an hour: who resumes one at an API server that was restored may hear nothing."""

T = TypeVar("T")


class Informer(Generic[T]):
    """The objects of a kind by namespace and name, as of the last word of the API server."""

    def __init__(
        self,
        *,
        kubernetes: Kubernetes,
        kind: Kind,
        parse: Callable[[Mapping[str, Any]], T],
        put: Callable[[T], None] = lambda _: None,
        removed: Callable[[str, str], None] = lambda *_: None,
        backoff: Sequence[float],
    ) -> None:
        """Take what hears of each object that is new or changed, and of each name that is gone."""
        self._kubernetes = kubernetes
        self._kind = kind
        self._parse = parse
        self._put = put
        self._removed = removed
        self._backoff = tuple(backoff)
        self._version = ""
        self._watches = 0
        self._changed = asyncio.Condition()
        self.objects: dict[tuple[str, str], T] = {}
        self.complete = False
        """Whether everything has been heard at least once."""

    async def run(self) -> None:
        """Follow for ever."""
        attempt = 0
        while True:
            try:
                await self.step()
                attempt = 0
            except KubernetesError as error:
                log.warning("%s are not followed: %s", self._kind.value, error)
                await asyncio.sleep(self._backoff[min(attempt, len(self._backoff) - 1)])
                attempt += 1

    async def step(self) -> None:
        """List if that is needed, then take changes in until the server ends the watch; KubernetesError."""
        if not self._version:
            listed = await self._kubernetes.list(self._kind)
            present = {_key(tree): tree for tree in listed.objects}
            for key in self.objects.keys() - present.keys():
                self._remove(key)
            for key, tree in present.items():
                self._take(key, tree)
            self._version, self._watches = listed.version, WATCHES
            self.complete = True
            await self._wake()
        async with contextlib.aclosing(self._kubernetes.watch(self._kind, self._version)) as changes:
            try:
                async for kind, tree in changes:
                    if kind == "DELETED":
                        self._remove(_key(tree))
                    elif kind != "BOOKMARK":
                        self._take(_key(tree), tree)
                    self._version = tree["metadata"]["resourceVersion"]
                    await self._wake()
            except KubernetesError:  # changes were lost, or it is another API server, restored from a backup
                self._version = ""
                raise
        self._watches -= 1
        if not self._watches:
            self._version = ""

    async def until(self, true: Callable[[], bool], patience: float) -> bool:
        """Wait for something to be true of the objects, at most `patience` seconds; return whether it is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience), self._changed:
                await self._changed.wait_for(true)
        return true()

    def _take(self, key: tuple[str, str], tree: Mapping[str, Any]) -> None:
        """Take an object in; one that does not parse is as if it were not there, and the log says why."""
        try:
            parsed = self._parse(tree)
        except (KeyError, ValueError, TypeError) as error:
            log.error("%s %s/%s does not parse: %r", self._kind.value, *key, error)  # noqa: TRY400 - it says all
            self._remove(key)
            return
        if self.objects.get(key) != parsed:
            self.objects[key] = parsed
            self._put(parsed)

    def _remove(self, key: tuple[str, str]) -> None:
        if self.objects.pop(key, None) is not None:
            self._removed(*key)

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def _key(tree: Mapping[str, Any]) -> tuple[str, str]:
    metadata = tree["metadata"]
    return metadata.get("namespace", ""), metadata["name"]
