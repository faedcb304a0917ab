# SPDX-License-Identifier: Apache-2.0
"""The election: one leader, another after it is gone, none while it cannot be said who."""

from __future__ import annotations

import asyncio

import pytest

from controller.leader import DURATION, Leader
from tests.fakes_kubernetes import FakeKubernetes


def leader(kubernetes: FakeKubernetes, identity: str) -> Leader:
    async def work() -> None:
        await asyncio.Event().wait()

    return Leader(kubernetes=kubernetes, namespace="ilanet-system", identity=identity, work=work)


async def test_one_leads_until_it_is_gone() -> None:
    """The other waits for as long as a lease lasts after the last renewal that it saw."""
    kubernetes = FakeKubernetes()
    one, two = leader(kubernetes, "one"), leader(kubernetes, "two")
    await one.step(0)
    await two.step(1)
    assert (one.leads, two.leads) == (True, False)
    await one.step(10)
    await two.step(11)
    await two.step(11 + DURATION - 1)
    assert not two.leads
    await two.step(11 + DURATION)
    assert two.leads
    await one.step(11 + DURATION + 1)
    assert not one.leads
    for subject in (one, two):
        await subject._stop()


async def test_a_leader_that_cannot_renew_stops() -> None:
    """Before another may begin; a single failure does not matter."""
    kubernetes = FakeKubernetes()
    subject = leader(kubernetes, "one")
    await subject.step(0)
    for now, leads in ((2, True), (9, True), (11, False)):
        kubernetes.fail_next = "read_lease"
        await subject.step(now)
        assert subject.leads is leads
    await subject.step(12)
    assert subject.leads
    await subject._stop()


async def test_work_that_fails_ends_the_controller() -> None:
    """It must not lead without working."""

    async def work() -> None:
        raise ValueError("broken")

    subject = Leader(kubernetes=FakeKubernetes(), namespace="ilanet-system", identity="one", work=work)
    await subject.step(0)
    await asyncio.sleep(0)
    with pytest.raises(ValueError, match="broken"):
        await subject.step(2)
