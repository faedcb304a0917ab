# SPDX-License-Identifier: Apache-2.0
"""`make bench-rr`: what a packet costs on its way from pod to pod, compared to plain routed IPv6 and to VXLAN.

TCP_RR with 200 one-byte streams and one bulk TCP stream (bench/traffic.c), between pods on two hosts that a router
joins, by each way of bench/cases.py.  All cases are built once and stay; then every round runs every case, in an
order that rotates, so that what the machine does beside us falls on all alike.  Ratios are of two cases of the same
round; the median over the rounds counts.  Processor time is that of the whole machine (/proc/stat), divided by
transactions or gigabytes: both pods, both hosts and the router together.  TCP runs with cubic in all cases.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cases import PORT, Case, Ends, Server, all_cases
from bench.results import TRAFFIC, Results, clean_ups, main

STREAMS = 200
WARM_UP = 0.5
"""Seconds of traffic in each case before the first round."""

RATIOS = (
    ("stack_vs_plain", "stack", "plain", 0.90, 0.95),
    ("hostrouting_vs_plain", "hostrouting", "plain", 1.0, 1.10),
    ("hostrouting_vs_vxlan", "hostrouting", "vxlan", 1.3, None),
    ("translation_cost", "hostrouting", "hostrouting_untranslated", 0.98, None),
)
"""Name, case, compared to, bound, goal: of transactions a second."""

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Measured:
    """One case in one round."""

    transactions: float
    """A second."""

    transaction_cpu: float
    """Microseconds."""

    p50: float
    """Microseconds."""

    p99: float
    bulk: float
    """Gbit/s of payload."""

    bulk_cpu: float
    """Seconds per gigabyte."""


METRICS: Sequence[tuple[str, str, Callable[[Measured], float]]] = (
    ("TCP_RR, 200 streams", "1/s", lambda m: m.transactions),
    ("TCP_RR, cpu per transaction", "us", lambda m: m.transaction_cpu),
    ("TCP_RR, p50", "us", lambda m: m.p50),
    ("TCP_RR, p99", "us", lambda m: m.p99),
    ("bulk TCP, one stream", "Gbit/s", lambda m: m.bulk),
    ("bulk TCP, cpu per gigabyte", "s", lambda m: m.bulk_cpu),
)


def busy_seconds() -> float:
    """Return the processor time that the whole machine has spent so far, on all cores (proc_stat(5))."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / _TICK


def measure(ends: Ends, seconds: float) -> Measured:
    """Run both kinds of traffic once; request/response takes `seconds`, bulk half of that."""
    place = (ends.address, str(PORT))
    before = busy_seconds()
    transactions, took, p50, _, p99 = map(
        float, ends.client.run(TRAFFIC, "rr", *place, str(STREAMS), str(seconds)).split()
    )
    between = busy_seconds()
    size, bulk_took = map(float, ends.client.run(TRAFFIC, "bulk", *place, str(seconds / 2)).split())
    after = busy_seconds()
    return Measured(
        transactions=transactions / took,
        transaction_cpu=(between - before) / transactions * 1e6,
        p50=p50,
        p99=p99,
        bulk=size * 8 / bulk_took / 1e9,
        bulk_cpu=(after - between) / size * 1e9,
    )


def run(cases: Sequence[Case], rounds: int, seconds: float) -> dict[str, list[Measured]]:
    """Build the cases, measure them in turn, and return what every round found."""
    found: dict[str, list[Measured]] = {case.name: [] for case in cases}
    ends: dict[str, Ends] = {}
    with clean_ups() as stack:
        Server.close_noted()
        stack.callback(Server.close_noted)
        for case in cases:
            Results.say(f"building {case.name}")
            stack.callback(case.close)
            ends[case.name] = case.start()
            stack.callback(Server(case.name, ends[case.name]).close)
        time.sleep(WARM_UP)
        for case in cases:
            measure(ends[case.name], WARM_UP)
        for number in range(rounds):
            turn = number % len(cases)
            for case in (*cases[turn:], *cases[:turn]):
                found[case.name].append(measure(ends[case.name], seconds))
            rates = ", ".join(f"{case.name} {found[case.name][-1].transactions:,.0f}" for case in cases)
            Results.say(f"round {number + 1} of {rounds}, TCP_RR/s: {rates}")
    return found


def report(found: dict[str, list[Measured]], results: Results) -> None:
    """Add rows and ratios of what was measured."""
    results.head()
    for name, measured in found.items():
        for metric, unit, value in METRICS:
            results.row(name, metric, unit, [value(one) for one in measured])
    for name, case, other, bound, goal in RATIOS:
        pairs = zip(found[case], found[other], strict=True)
        results.ratio(name, [one.transactions / two.transactions for one, two in pairs], bound=bound, goal=goal)
    for name, case, other, _, _ in RATIOS:
        pairs = zip(found[case], found[other], strict=True)
        results.ratio(f"{name}_bulk", [one.bulk / two.bulk for one, two in pairs])


def bench() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="bench.rr", description="TCP_RR and bulk TCP from pod to pod.")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=0.6, help="of TCP_RR per case and round; bulk takes half")
    options = parser.parse_args()
    results = Results(name="rr", options=vars(options))
    report(run(all_cases(), options.rounds, options.seconds), results)
    return results.finish()


if __name__ == "__main__":
    raise SystemExit(main(bench))
