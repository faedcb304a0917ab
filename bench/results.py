# SPDX-License-Identifier: Apache-2.0
"""The form of every bench's result: rows, ratios and limits, printed as they come and written to build/bench/NAME.json.

    rows     case, metric, unit, rounds, min, median, max
    ratios   by name: how one case compares to another, median of the rounds' ratios; has to be at least bound
    limits   by name: a number that has to be at most bound
    bound_met and goal_met of both; machine, kernel, commit, date

A bound is a promise, and a miss is the bench's exit status; a goal is where we want to be.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

SOURCE = Path(__file__).parent.parent
DIRECTORY = SOURCE / "build/bench"
TRAFFIC = str(SOURCE / "build/traffic")
_LOCK = "\0ilanet-bench"
"""An abstract address: taken for as long as a bench lives, and no file stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One metric of one case over all rounds."""

    case: str
    metric: str
    unit: str
    rounds: int
    min: float
    median: float
    max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """A number that has to be at least (a ratio) or at most (a limit) its bound."""

    value: float
    unit: str
    rounds: int
    min: float
    max: float
    bound: float | None
    goal: float | None
    bound_met: bool | None
    goal_met: bool | None


class Results:
    """What one bench found; finish() writes it and returns the exit status."""

    def __init__(self, *, name: str, options: dict[str, object]) -> None:
        """Take the bench's name, and the options of this run, which are written too."""
        self._name = name
        self._options = options
        self._rows: list[Row] = []
        self._ratios: dict[str, Demand] = {}
        self._limits: dict[str, Demand] = {}
        print(f"{name}: {' '.join(f'{key}={value}' for key, value in options.items())}", flush=True)

    @staticmethod
    def say(text: str) -> None:
        """Print one line of progress."""
        print(f"  {text}", flush=True)

    @staticmethod
    def head() -> None:
        """Print the head of the table."""
        print(f"\n{'case':<30}{'metric':<40}{'rounds':>7}{'min':>12}{'median':>12}{'max':>12}  unit", flush=True)

    def row(self, case: str, metric: str, unit: str, values: Sequence[float]) -> float:
        """Add a metric with its value of every round, print it, and return the median."""
        median = statistics.median(values)
        row = Row(
            case=case, metric=metric, unit=unit, rounds=len(values), min=min(values), median=median, max=max(values)
        )
        self._rows.append(row)
        numbers = "".join(f"{number:>12,.{_places(number)}f}" for number in (row.min, row.median, row.max))
        print(f"{case:<30}{metric:<40}{row.rounds:>7}{numbers}  {unit}", flush=True)
        return median

    def ratio(
        self, name: str, values: Sequence[float], *, bound: float | None = None, goal: float | None = None
    ) -> None:
        """Add a ratio with its value of every round."""
        self._ratios[name] = _demand(values, "", bound, goal, least=True)

    def limit(
        self, name: str, values: Sequence[float], unit: str, *, bound: float | None = None, goal: float | None = None
    ) -> None:
        """Add a number that has to be small, with its value of every round."""
        self._limits[name] = _demand(values, unit, bound, goal, least=False)

    def finish(self) -> int:
        """Print ratios and limits, write everything, and return 1 if a bound was missed."""
        print()
        for least, demands in ((True, self._ratios), (False, self._limits)):
            for name, demand in demands.items():
                print(_line(name, demand, least=least))
        DIRECTORY.mkdir(parents=True, exist_ok=True)
        path = DIRECTORY / f"{self._name}.json"
        tree = {
            "bench": self._name,
            "options": self._options,
            **_origin(),
            "rows": [asdict(row) for row in self._rows],
            "ratios": {name: asdict(demand) for name, demand in self._ratios.items()},
            "limits": {name: asdict(demand) for name, demand in self._limits.items()},
        }
        path.write_text(json.dumps(tree, indent=1) + "\n")
        print(f"written to {path.relative_to(SOURCE)}")
        return int(any(d.bound_met is False for d in (*self._ratios.values(), *self._limits.values())))


@contextlib.contextmanager
def clean_ups() -> Iterator[contextlib.ExitStack]:
    """Yield a stack of clean-ups that all run to their end whatever comes; SIGTERM ends the block as SIGINT does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stack = contextlib.ExitStack()
    try:
        yield stack
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        stack.close()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def main(bench: Callable[[], int]) -> int:
    """Run a bench, alone on this machine; return its exit status, 130 for one that was interrupted."""
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind(_LOCK)
        except OSError:
            print("another bench runs on this machine; both would measure each other", file=sys.stderr)
            return 2
        try:
            return bench()
        except KeyboardInterrupt:
            print("\ninterrupted; nothing is left", file=sys.stderr)
            return 130


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-len(ordered) * share // 1) - 1)]


def _demand(values: Sequence[float], unit: str, bound: float | None, goal: float | None, *, least: bool) -> Demand:
    value = statistics.median(values)

    def met(asked: float | None) -> bool | None:
        return None if asked is None else value >= asked if least else value <= asked

    return Demand(
        value=value,
        unit=unit,
        rounds=len(values),
        min=min(values),
        max=max(values),
        bound=bound,
        goal=goal,
        bound_met=met(bound),
        goal_met=met(goal),
    )


def _line(name: str, demand: Demand, *, least: bool) -> str:
    asked = []
    for word, number, met in (("bound", demand.bound, demand.bound_met), ("goal", demand.goal, demand.goal_met)):
        if number is not None:
            asked.append(f"{word} {'>=' if least else '<='} {number:g} {'met' if met else 'MISSED'}")
    spread = f"({demand.min:.3f} to {demand.max:.3f}) {demand.unit}"
    return f"{name:<40}{demand.value:>10.3f}  {spread:<34}{', '.join(asked)}"


def _places(number: float) -> int:
    return 0 if abs(number) >= 10000 else 1 if abs(number) >= 100 else 3


def cpu(text: str) -> str:
    """Return the processor's name in the text of /proc/cpuinfo; arm64 gives none but numbers of maker and part."""
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    if "model name" in values:
        return values["model name"]
    numbers = [f"{key} {values[key]}" for key in ("CPU implementer", "CPU part") if key in values]
    return ", ".join([platform.machine(), *numbers])


def _origin() -> dict[str, object]:
    """Return what machine, kernel and commit this is."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "machine": {
            "cpu": cpu(Path("/proc/cpuinfo").read_text()),
            "cores": os.cpu_count(),
            "memory_bytes": memory,
        },
        "kernel": platform.release(),
        "commit": _git("rev-parse", "HEAD"),
        "changed_files": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=SOURCE, capture_output=True, text=True, check=False)
    return done.stdout.strip()
