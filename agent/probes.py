# SPDX-License-Identifier: Apache-2.0
"""Probes the underlay towards the other nodes, for ever, and says what is wrong with it (agent/core/probes.py)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from agent.core.claims import Locate
from agent.core.ports import Registration
from agent.core.probe_rounds import Rounds
from agent.core.probes import End, Exchange, Finding, Peer, ProbeError, judge, summary
from agent.core.status import Status
from ila.mapping import Node, probe_identifier

PARTS = 12
"""Looks in one period whether a node is due."""

PROBLEM = "underlay"
"""What a finding is a problem of; that probes cannot be sent is one of `probes`."""


class Probes:
    """The probes of one node."""

    def __init__(
        self,
        *,
        node: str,
        end: End,
        exchange: Exchange,
        rounds: Rounds,
        nodes: Callable[[], Mapping[str, Node]],
        locate: Locate,
        status: Status,
    ) -> None:
        self._node = node
        self._end = end
        self._exchange = exchange
        self._rounds = rounds
        self._nodes = nodes
        self._locate = locate
        self._status = status

    async def run(self, period: float) -> None:
        """Probe for ever; `period` is in seconds."""
        await self._status.until_serving()
        while True:
            await self.step(time.monotonic())
            await asyncio.sleep(period / PARTS)

    async def step(self, now: float) -> None:
        """Probe the nodes that are due; `now` is in seconds of a monotonic clock."""
        registration = self._status.registration
        if registration is None:
            return
        try:
            await self._exchange.open()
            attached = await self._end.attach()
            peers = self._peers(registration)
            await self._exchange.meet(peers, ready=attached is not None)
            if attached is not None:
                reachable = {name for name, peer in peers.items() if self._is_located(peer)}
                due = self._rounds.due(reachable, now)
                for name, finding in zip(
                    due, await self._probe([peers[name] for name in due], registration), strict=True
                ):
                    self._rounds.note(name, finding, now)
        except ProbeError as error:
            self._status.problem("probes", str(error))
            return
        self._status.well("probes")
        if sentence := summary(self._rounds.found()):
            self._status.problem(PROBLEM, sentence)
        else:
            self._status.well(PROBLEM)

    def describe(self) -> Mapping[str, object]:
        """Return what is known of each node, for /status."""
        return {
            name: {"ok": not finding.sentence, "problem": finding.sentence}
            for name, finding in sorted(self._rounds.found().items())
        }

    async def _probe(self, peers: list[Peer], registration: Registration) -> list[Finding | None]:
        mtu = self._status.mtu
        outcomes = await asyncio.gather(*(self._exchange.probe(peer, mtu=mtu) for peer in peers))
        prefix = registration.domain.sir_prefix
        return [judge(peer, found, sir_prefix=prefix, mtu=mtu) for peer, found in zip(peers, outcomes, strict=True)]

    def _peers(self, registration: Registration) -> dict[str, Peer]:
        prefix = registration.domain.sir_prefix
        return {
            name: Peer(
                name=name,
                address=node.address,
                port=node.port,
                locator=node.locator,
                end=prefix.address(probe_identifier(name)),
            )
            for name, node in self._nodes().items()
            if name != self._node
        }

    def _is_located(self, peer: Peer) -> bool:
        """Tell whether the peer's end has been published: else it does not probe, or has not begun."""
        located = self._locate(probe_identifier(peer.name).value)
        return located is not None and located[0] == peer.locator.value
