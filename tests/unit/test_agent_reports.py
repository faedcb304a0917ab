# SPDX-License-Identifier: Apache-2.0
"""What a node tells of itself, and when."""

from __future__ import annotations

from typing import Any

from agent.core.status import Status
from agent.reports import EVERY, Reports
from ila import VERSION
from tests.fakes import REGISTRATION, FakeController


class NoEndpoints:
    """A table without any."""

    def all(self) -> list[object]:
        return []


async def test_a_report_is_made_when_something_changes_or_it_is_old() -> None:
    """Not before the node is registered; a report that failed is made again, and its own failure is no news."""
    controller, status = FakeController(), Status()
    table: Any = NoEndpoints()
    reports = Reports(controller=controller, status=status, table=table, past_netfilter=True)
    await reports.step(0)
    assert controller.reports == []
    status.registered(REGISTRATION)
    controller.down = True
    await reports.step(1)
    assert "report" in status.problems
    controller.down = False
    for now in (2, 3):
        await reports.step(now)
    assert controller.reports == [(VERSION, False, {}, [], True)]
    status.problem("etcd", "away")
    status.host_ready(mtu=1500)
    await reports.step(4)
    assert controller.reports[-1] == (VERSION, True, {"etcd": "away"}, [], True)
    await reports.step(4 + EVERY)
    assert len(controller.reports) == 3
