# SPDX-License-Identifier: Apache-2.0
"""Frees what is gone from Kubernetes and from the nodes: identifiers, nodes, locators; only the leader does."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge

from controller.clearing import Clearing
from controller.core.decision import Refused
from controller.core.kubernetes import NodeFacts
from controller.core.pods import PodFacts, Pods
from controller.core.sweep import SetFacts, Waiting, braked, is_used, is_wanted
from controller.events import Events
from controller.informer import Informer
from controller.reports import Reports
from controller.standing import Standing
from ila.address import Locator
from ila.mapping import Owner, OwnerName, RecordError
from ila.store import StoreError

log = logging.getLogger("controller.sweep")

_LEAST = 20
"""Identifiers that may always be freed at once."""

PROBLEM = "sweep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long everything waits before it is freed; seconds."""

    pod: float
    """An identifier of a pod that is gone."""

    keep: float
    """One that is kept by name, once no pod and no StatefulSet is left that could want it."""

    locator: float
    """A locator of a node that is gone, before another node may have it."""

    share: float
    """Most of all identifiers to be freed at once, between 0 and 1."""

    pause: float
    """Between two sweeps."""


class Sweep:
    """One controller's sweep; begins anew, with all waiting, whenever this one becomes the leader."""

    def __init__(
        self,
        *,
        clearing: Clearing,
        pods: Pods,
        followed: Informer[PodFacts],
        nodes: Informer[NodeFacts],
        sets: Informer[SetFacts],
        reports: Reports,
        events: Events,
        standing: Standing,
        patience: Patience,
        registry: CollectorRegistry,
        us: tuple[str, str],
    ) -> None:
        """Take what shows the cluster, and our own pod's namespace and name: who does not see it sees too little."""
        self._clearing = clearing
        self._pods = pods
        self._followed = followed
        self._nodes = nodes
        self._sets = sets
        self._reports = reports
        self._events = events
        self._standing = standing
        self._patience = patience
        self._us = us
        self._owners: Waiting[OwnerName] = Waiting()
        self._gone: Waiting[str] = Waiting()
        self._quarantined: Waiting[Locator] = Waiting()
        self._freed = Counter("ilanet_sweep_freed", "What was freed, by kind.", ["kind"], registry=registry)
        self._braked = Gauge("ilanet_sweep_braked", "1 if nothing is freed: too little is shown.", registry=registry)
        waiting = Gauge("ilanet_sweep_waiting", "Identifiers that nobody wants, still waiting.", registry=registry)
        waiting.set_function(lambda: float(len(self._owners)))

    async def run(self) -> None:
        """Sweep until cancelled: until another controller leads."""
        self._owners, self._gone, self._quarantined = Waiting(), Waiting(), Waiting()
        while True:
            try:
                await self.step(time.monotonic())
            except (StoreError, RecordError, Refused) as error:
                self._standing.problem(PROBLEM, str(error))
            await asyncio.sleep(self._patience.pause)

    async def step(self, now: float) -> None:
        """Look at everything once, and free what has waited long enough; `now` is of the monotonic clock."""
        if not (self._followed.complete and self._nodes.complete and self._sets.complete):
            return
        us = self._pods.of_name(*self._us)
        if us is None or not self._is_there(us.node):
            self._brake(
                f"Kubernetes does not show this controller's own pod {'/'.join(self._us)} and its node: nothing is "
                "freed, since the API server may have lost its records"
            )
            return
        await self._sweep_owners(now)
        await self._sweep_nodes(now)

    async def _sweep_owners(self, now: float) -> None:
        names = await self._clearing.owners()
        sets, nodes = self._sets.objects, self._nodes.objects
        self._owners.see((name for name in names if not is_wanted(name, self._pods, sets, nodes)), now)
        used = {node: report.owners for node, report in self._reports.fresh().items()}
        due: dict[OwnerName, Owner] = {}
        for name in self._owners.due(now, self._grace):
            owner = await self._clearing.owner(name)
            if owner is not None and not is_used(owner, name, there=self._is_there, used=used):
                due[name] = owner
        reason = braked(len(due), len(names), share=self._patience.share, least=_LEAST)
        self._brake(reason)
        if reason:
            return
        for name, judged in due.items():
            if is_wanted(name, self._pods, sets, nodes):
                continue  # it has come back meanwhile
            await self._clearing.forget(name, judged)
            self._freed.labels("identifier").inc()

    async def _sweep_nodes(self, now: float) -> None:
        names = await self._clearing.nodes()
        self._gone.see((name for name in names if not self._is_there(name)), now)
        for name in self._gone.due(now, lambda _: self._patience.pod):
            if await self._clearing.forget_node(name):
                self._freed.labels("node").inc()
        self._quarantined.see(await self._clearing.quarantined(), now)
        for locator in self._quarantined.due(now, lambda _: self._patience.locator):
            await self._clearing.free_locator(locator)
            self._freed.labels("locator").inc()

    def _brake(self, reason: str) -> None:
        """Say everywhere why nothing is freed; '': it is."""
        self._braked.set(bool(reason))
        if reason:
            self._standing.problem(PROBLEM, reason)
            self._events.about_us(*self._us, reason="IlanetSweepBraked", message=reason)
        else:
            self._standing.well(PROBLEM)

    def _grace(self, name: OwnerName) -> float:
        return self._patience.keep if name.keeps_address else self._patience.pod

    def _is_there(self, node: str) -> bool:
        return ("", node) in self._nodes.objects
