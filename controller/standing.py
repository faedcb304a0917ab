# SPDX-License-Identifier: Apache-2.0
"""What a controller tells of itself: its calls by outcome and duration, whether it serves, and if not, why."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Gauge, Histogram

log = logging.getLogger("controller.standing")

OK = "ok"
"""Outcome of a call that was answered; others are gRPC's status codes."""

_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Standing:
    """One controller's metrics and the reason for which it does not serve."""

    def __init__(self, *, registry: CollectorRegistry) -> None:
        self._reason = "it has just started"
        self._problems: dict[str, str] = {}
        self._calls = Histogram(
            "ilanet_controller_call_seconds",
            "Duration of calls of agents, by the call and how it ended.",
            ["call", "outcome"],
            buckets=_BUCKETS,
            registry=registry,
        )
        serving = Gauge("ilanet_controller_serving", "1 if agents are answered.", registry=registry)
        serving.set_function(lambda: float(not self._reason))

    def not_serving(self) -> str:
        """Return why agents are not answered; '' if they are."""
        return self._reason

    @property
    def problems(self) -> Mapping[str, str]:
        """What is wrong though agents are answered: object -> reason."""
        return self._problems

    def problem(self, what: str, reason: str) -> None:
        """Note that something is wrong; logged when it is new."""
        if self._problems.get(what) != reason:
            log.warning("%s: %s", what, reason)
        self._problems[what] = reason

    def well(self, what: str) -> None:
        """Note that it is right again."""
        if self._problems.pop(what, None) is not None:
            log.info("%s: right again", what)

    def serving(self) -> None:
        """Note that agents are answered from now on."""
        self._reason = ""

    def waiting(self, reason: str) -> None:
        """Note why they are not; logged when it is new."""
        if self._reason != reason:
            log.warning("not serving: %s", reason)
        self._reason = reason

    @contextmanager
    def call(self, name: str) -> Iterator[Ended]:
        """Time a call; its outcome is OK unless the block says another."""
        ended = Ended()
        started = time.perf_counter()
        try:
            yield ended
        finally:
            self._calls.labels(name, ended.outcome).observe(time.perf_counter() - started)


class Ended:
    """How a call has ended."""

    def __init__(self) -> None:
        self.outcome = OK
