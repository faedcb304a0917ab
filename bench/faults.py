# SPDX-License-Identifier: Apache-2.0
"""`make test-faults`: kills, freezes and other harm to every part, one after the other under traffic, and its cost.

A cluster of three hosts, three members of etcd and two controllers (lab/faults).  Meanwhile numbered datagrams flow
both ways between two hosts, one bulk TCP stream goes on from the first fault to the last, and on every host pods come
and go through the CNI executable.  After each fault everything must be right again: no packet lost, no connection
reset, no drop that the kind does not explain, and etcd, disks, kernels and namespaces must tell the same.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.results import Results, clean_ups, main
from lab.fabric import Shape
from lab.faults.catalogue import KINDS
from lab.faults.drive import Outcome, Run, run, staged

RATE = 20_000
PAUSE = 0.2

METRICS: tuple[tuple[str, str], ...] = (
    ("pods", ""),
    ("retries", "calls"),
    ("seconds", "s"),
    ("sent", "packets"),
    ("rate", "packets/s each way"),
    ("lost", "packets"),
    ("resets", ""),
    ("retransmitted", "segments"),
    ("backlog", "packets"),
)
"""Fields of an outcome that become rows, with their units."""

MARKS = ("<!-- figures: bench/faults.py writes them -->\n", "<!-- end of figures -->")
"""Between them a page has the figures of one run."""

COLUMNS = ("faults", "pods", "sent", "lost", "resets", "retransmitted", "leaks", "complaints")


def table(outcomes: Sequence[Outcome]) -> str:
    """Return what each kind cost, a line each, and all together."""
    names = list(dict.fromkeys(outcome.kind.name for outcome in outcomes))
    lines = ["| kind | " + " | ".join(COLUMNS) + " |", "| --- |" + " --- |" * len(COLUMNS)]
    groups = [(name, [each for each in outcomes if each.kind.name == name]) for name in sorted(names)]
    for name, group in (*groups, ("all", outcomes)):
        cells = [
            len(group),
            *(sum(getattr(each, column) for each in group) for column in COLUMNS[1:6]),
            sum(len(each.leaks) for each in group),
            sum(len(each.complaints) for each in group),
        ]
        lines.append(f"| {name} | " + " | ".join(f"{cell:,}" for cell in cells) + " |")
    return "\n".join(lines)


def page(text: str) -> Path:
    """Return the place of a page that has room for figures: an option's value, refused before hours are spent."""
    place = Path(text)
    if not place.is_file() or any(place.read_text().count(mark) != 1 for mark in MARKS):
        raise argparse.ArgumentTypeError(f"{text} is no page with the lines {MARKS[0].strip()} and {MARKS[1]}")
    return place


def command(words: Sequence[str]) -> str:
    """Return the command line of a run, without where its figures go."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--page")
    rest = shlex.join(parser.parse_known_args(words)[1])
    return f'make test-faults OPTIONS="{rest}"' if rest else "make test-faults"


def figures(found: Run, words: Sequence[str], seconds: float) -> str:
    """Return what a run has found, for a page: command and machine, traffic, a line for each kind, complaints."""
    rates = [outcome.rate for outcome in found.outcomes]
    lines = [f"`{command(words)}`, {os.cpu_count()} cores, kernel {platform.release()}, {seconds / 60:.0f} minutes."]
    if rates:
        spread = f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
        lines.append(f"Each of the two flows really sent {spread} datagrams a second in the median.")
    stream = f"The stream carried {found.blocks:,} blocks, {found.bulk / 1e6:.1f} MB/s"
    lines += [
        f"{stream}; every kernel was looked at {found.looks:,} times.",
        f"What must not be: {len(found.all_complaints)} complaints{':' if found.all_complaints else '.'}",
        *(f"- {' '.join(complaint.split())}" for complaint in found.all_complaints),
        "",
        table(found.outcomes),
        "",
    ]
    return "\n".join(lines)


def put(place: Path, text: str) -> None:
    """Replace the figures of a page."""
    head, _, rest = place.read_text().partition(MARKS[0])
    place.write_text(f"{head}{MARKS[0]}{text}{MARKS[1]}{rest.partition(MARKS[1])[2]}")


def write(results: Results, found: Run) -> None:
    """Put rows and limits into the results."""
    outcomes = found.outcomes
    results.head()
    for name in sorted({outcome.kind.name for outcome in outcomes}):
        group = [outcome for outcome in outcomes if outcome.kind.name == name]
        for metric, unit in METRICS:
            results.row(name, metric, unit, [float(getattr(outcome, metric)) for outcome in group])
        results.row(name, "leaks", "", [float(len(outcome.leaks)) for outcome in group])
    unharmed = [outcome for outcome in outcomes if not outcome.kind.wire]
    for name, value in (
        ("lost", sum(outcome.lost for outcome in unharmed)),
        ("retransmitted", sum(outcome.retransmitted for outcome in unharmed)),
        ("resets", sum(outcome.resets for outcome in outcomes)),
        ("drops", sum(sum(outcome.drops.values()) for outcome in outcomes)),
        ("leaks", sum(len(outcome.leaks) for outcome in outcomes)),
        ("complaints", len(found.all_complaints)),
    ):
        results.limit(name, [float(value)], "", bound=0.0)


def bench() -> int:
    """Run the command line; return the exit status."""
    names = [kind.name for kind in KINDS]
    parser = argparse.ArgumentParser(prog="bench.faults", description="Harm under traffic, and what it costs.")
    parser.add_argument("--faults", type=int, default=12 * len(KINDS), help="how many; every kind as often as others")
    parser.add_argument("--seed", type=int, default=1, help="decides kinds, places and moments")
    parser.add_argument("--seconds", type=float, default=7200.0, help="after which no further fault begins")
    parser.add_argument("--rate", type=int, default=RATE, help="datagrams a second, each way")
    parser.add_argument("--shape", choices=[shape.value for shape in Shape], default="routed")
    parser.add_argument("--host-path", choices=["stack", "bpf"], default="stack")
    parser.add_argument("--kinds", nargs="+", choices=names, default=names, metavar="KIND", help=", ".join(names))
    parser.add_argument("--page", type=page, help="write the figures there, between its marks (docs/faults.md)")
    options = parser.parse_args()
    started = time.monotonic()
    results = Results(name="faults", options={**vars(options), "page": str(options.page)})
    with clean_ups() as stack:
        stage = stack.enter_context(
            staged(
                name="faults",
                rate=options.rate,
                pause=PAUSE,
                seed=options.seed,
                shape=Shape(options.shape),
                host_path=options.host_path,
            )
        )
        found = run(
            stage,
            names=options.kinds,
            count=options.faults,
            seconds=options.seconds,
            say=lambda outcome: results.say(str(outcome)),
        )
    print(f"\n{table(found.outcomes)}\n")
    for complaint in found.all_complaints:
        print(complaint)
    print(f"{found.blocks:,} blocks of the stream, {found.bulk / 1e6:.1f} MB/s")
    print(f"{found.looks:,} looks at the generations of every host")
    if options.page is not None:
        put(options.page, figures(found, sys.argv[1:], time.monotonic() - started))
    write(results, found)
    return results.finish()


if __name__ == "__main__":
    raise SystemExit(main(bench))
