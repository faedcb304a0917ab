# SPDX-License-Identifier: Apache-2.0
"""What agents report, and what Kubernetes hears of it: a node's condition, its start-up taint, Events."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.core.kubernetes import TAINT, Kubernetes, KubernetesError, NodeFacts
from controller.events import Events
from controller.informer import Informer

log = logging.getLogger("controller.reports")

_PAUSE = 5.0
"""Seconds between two looks at the nodes while nothing is reported."""

LASTING = 10.0
"""Seconds after which a problem is worth an Event."""

FRESH = 120.0
"""Seconds for which a report counts: agents repeat it every 30."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What an agent said last."""

    version: str
    serving: bool
    problems: Mapping[str, str] = field(default_factory=dict)
    owners: frozenset[str] = frozenset()
    past_netfilter: bool = False
    """Pods' packets pass netfilter by."""

    when: float = 0.0
    """Seconds of the monotonic clock."""


class Reports:
    """The last report of each node; heard by every replica that an agent calls, and the agent calls any."""

    def __init__(self) -> None:
        self._reports: dict[str, Report] = {}
        self._news = asyncio.Event()

    def put(self, node: str, report: Report) -> None:
        """Take a report in."""
        self._reports[node] = report
        self._news.set()

    def get(self, node: str) -> Report | None:
        """Return a node's last report, unless it is old."""
        report = self._reports.get(node)
        return report if report is not None and time.monotonic() - report.when < FRESH else None

    def fresh(self) -> dict[str, Report]:
        """Return the reports that count, by node."""
        return {node: report for node in self._reports if (report := self.get(node)) is not None}

    async def news(self, patience: float) -> None:
        """Return when a report has come, or after `patience` seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), patience)
        self._news.clear()


class NodeConditions:
    """Brings nodes' conditions and taints to what their agents report; every replica may do so at once."""

    def __init__(self, *, kubernetes: Kubernetes, reports: Reports, nodes: Informer[NodeFacts], events: Events) -> None:
        self._kubernetes = kubernetes
        self._reports = reports
        self._nodes = nodes
        self._events = events
        self._problems: dict[str, dict[tuple[str, str], float]] = {}
        """By node: what is wrong, and since when; infinity once it was told."""

    async def run(self) -> None:
        """Step for ever."""
        while True:
            await self.step()
            await self._reports.news(_PAUSE)

    async def step(self) -> None:
        """Compare every fresh report with its node, and change the node where they differ."""
        for name, report in self._reports.fresh().items():
            node = self._nodes.objects.get(("", name))
            if node is None:
                continue
            self._tell(node, report)
            if report.serving:
                try:
                    await self._available(node)
                except KubernetesError as error:
                    log.warning("node %s: %s", name, error)

    async def _available(self, node: NodeFacts) -> None:
        if node.unavailable:
            await self._kubernetes.network_available(node.name, "ilanet's agent serves on this node")
        if node.tainted:
            await self._kubernetes.remove_taint(node.name, TAINT)
            self._events.about_node(
                node, reason="IlanetReady", message=f"the agent serves: taint {TAINT} is taken off", warning=False
            )

    def _tell(self, node: NodeFacts, report: Report) -> None:
        """Write an Event about each problem that has lasted: a start has some that pass."""
        now = time.monotonic()
        before = self._problems.get(node.name, {})
        present = {problem: before.get(problem, now) for problem in report.problems.items()}
        for (what, why), since in present.items():
            if now - since >= LASTING and since != math.inf:
                self._events.about_node(node, reason="IlanetProblem", message=f"{what}: {why}", warning=True)
                present[what, why] = math.inf
        self._problems[node.name] = present
