# SPDX-License-Identifier: Apache-2.0
"""Which nodes are to be probed when, and what is known of each: bounded work, however many nodes there are; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from agent.core.probes import Finding, Kind

AT_ONCE = 30
"""Nodes that are probed at once, a random sample of more: no cluster's size makes a burst."""

AGAIN = 6
"""Part of the period after which a node that did not do well is probed again."""

CONFIRMED = 2
"""Probes in a row that must fail before it is believed: one can meet an agent that starts anew."""

JITTER = 0.2
"""Part of the period by which rounds of different nodes drift apart."""


@dataclass(slots=True)
class _Known:
    """What is known of a node."""

    tried: float
    failures: int = 0
    finding: Finding | None = None
    """As it was confirmed last; None: not yet."""


class Rounds:
    """The nodes that were probed; times are in seconds of a monotonic clock."""

    def __init__(
        self,
        *,
        period: float,
        sample: Callable[[Sequence[str], int], list[str]],
        uniform: Callable[[float, float], float],
    ) -> None:
        """Take the seconds between two rounds, and chance (random.sample, random.uniform)."""
        self._period = period
        self._sample = sample
        self._uniform = uniform
        self._known: dict[str, _Known] = {}
        self._next = 0.0

    def due(self, peers: Collection[str], now: float) -> list[str]:
        """Return the nodes to be probed now, at most AT_ONCE; whoever is not among `peers` any more is forgotten.

        New ones and those that did not do well go first, the rest only once in a period.
        """
        self._known = {name: known for name, known in self._known.items() if name in peers}
        urgent = [name for name in sorted(peers) if self._is_urgent(name, now)]
        if len(urgent) >= AT_ONCE:
            return self._sample(urgent, AT_ONCE)
        if now < self._next:
            return urgent
        self._next = now + self._period * self._uniform(1 - JITTER, 1 + JITTER)
        rest = sorted(self._known.keys() - set(urgent))
        return urgent + self._sample(rest, min(len(rest), AT_ONCE - len(urgent)))

    def note(self, name: str, finding: Finding | None, now: float) -> None:
        """Take in what a probe found; None: nothing, as if it had not been."""
        if finding is None:
            return
        known = self._known.setdefault(name, _Known(now))
        known.tried = now
        if finding.kind is Kind.WELL:
            known.failures, known.finding = 0, finding
            return
        known.failures += 1
        if known.failures >= CONFIRMED:
            known.finding = finding

    def found(self) -> Mapping[str, Finding]:
        """Return what is believed of each node; nodes of which nothing is yet are missing."""
        return {name: known.finding for name, known in self._known.items() if known.finding is not None}

    def counts(self) -> Mapping[str, int]:
        """Return how many nodes each kind was found of, zeros too."""
        kinds = Counter(finding.kind for finding in self.found().values())
        return {kind.value: kinds[kind] for kind in Kind}

    def _is_urgent(self, name: str, now: float) -> bool:
        known = self._known.get(name)
        return known is None or (known.failures > 0 and now - known.tried >= self._period / AGAIN)
