# SPDX-License-Identifier: Apache-2.0
"""Following objects: from any state of what is held to any state of the API server, with losses on the way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from controller.core.kubernetes import Kind
from controller.core.pods import PodFacts, Pods, parse_pod
from controller.informer import WATCHES, Informer
from tests.fakes_kubernetes import FakeKubernetes, pod


class Followed:
    """An informer of pods and what it fills."""

    def __init__(self) -> None:
        self.kubernetes = FakeKubernetes()
        self.pods = Pods()
        self.informer: Informer[PodFacts] = Informer(
            kubernetes=self.kubernetes,
            kind=Kind.POD,
            parse=parse_pod,
            put=self.pods.put,
            removed=self.pods.remove,
            backoff=(0.0,),
        )

    async def has(self, *names: str) -> bool:
        """Wait until exactly these pods are held."""
        return await self.informer.until(lambda: {item.name for item in self.pods.all()} == set(names), 2)


@asynccontextmanager
async def running(followed: Followed) -> AsyncIterator[None]:
    task = asyncio.ensure_future(followed.informer.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_changes_are_followed() -> None:
    """What was there, what comes, what changes, what goes: with one list."""
    followed = Followed()
    followed.kubernetes.put(Kind.POD, pod("a"))
    async with running(followed):
        assert await followed.has("a")
        followed.kubernetes.put(Kind.POD, pod("b", node=""))
        assert await followed.has("a", "b")
        followed.kubernetes.put(Kind.POD, pod("b", node="n2"))
        followed.kubernetes.remove(Kind.POD, "a", "ns")
        assert await followed.has("b")
        found = followed.pods.of_uid("uid-b")
        assert found is not None
        assert found.node == "n2"
        assert followed.kubernetes.lists == 1


async def test_lost_changes_are_listed() -> None:
    """Also those that were removals."""
    followed = Followed()
    followed.kubernetes.put(Kind.POD, pod("a"))
    async with running(followed):
        assert await followed.has("a")
        followed.kubernetes.remove(Kind.POD, "a", "ns")
        followed.kubernetes.put(Kind.POD, pod("c"))
        followed.kubernetes.compact()
        assert await followed.has("c")
        assert followed.kubernetes.lists == 2


async def test_a_restored_api_server_is_listed(caplog: pytest.LogCaptureFixture) -> None:
    """Its versions are lower: a watch from where we were would be silent until they have caught up."""
    followed = Followed()
    followed.kubernetes.put(Kind.POD, pod("a"))
    backup = followed.kubernetes.version
    for name in "bcd":
        followed.kubernetes.put(Kind.POD, pod(name))
    async with running(followed):
        assert await followed.has(*"abcd")
        followed.kubernetes.restore(backup)
        followed.kubernetes.put(Kind.POD, pod("new"))
        assert await followed.has("a", "new")
    assert "pods are not followed: the connection is lost" in caplog.text


async def test_a_restore_that_breaks_no_watch_is_noticed_in_time() -> None:
    """Behind a balancer the next API server takes the watch up: watches that end resume, but not for ever."""
    followed = Followed()
    followed.kubernetes.brief = True
    followed.kubernetes.put(Kind.POD, pod("a"))
    backup = followed.kubernetes.version
    followed.kubernetes.put(Kind.POD, pod("b"))
    await followed.informer.step()
    followed.kubernetes.restore(backup)
    followed.kubernetes.put(Kind.POD, pod("new"))
    for _ in range(WATCHES - 1):
        await followed.informer.step()
    assert followed.kubernetes.lists == 1
    await followed.informer.step()
    assert followed.kubernetes.lists == 2
    assert {item.name for item in followed.pods.all()} == {"a", "new"}


async def test_failures_are_tried_again() -> None:
    """A list that fails, then a watch that does; until then nothing is complete."""
    followed = Followed()
    followed.kubernetes.fail_next = "list"
    followed.kubernetes.put(Kind.POD, pod("a"))
    assert not followed.informer.complete
    async with running(followed):
        assert await followed.has("a")
        assert followed.informer.complete


async def test_an_object_that_does_not_parse_is_not_there() -> None:
    """The others are."""
    followed = Followed()
    broken = pod("b")
    del broken["metadata"]["uid"]
    followed.kubernetes.put(Kind.POD, broken)
    followed.kubernetes.put(Kind.POD, pod("a"))
    async with running(followed):
        assert await followed.has("a")
        followed.kubernetes.put(Kind.POD, pod("b"))
        assert await followed.has("a", "b")
