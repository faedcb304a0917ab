# SPDX-License-Identifier: Apache-2.0
"""`make bench-load`: a million mappings from etcd into the kernel's map, and the agent's memory.

One host with a real etcd that writes through to the disk, a controller and an agent.  Mappings are written straight
into etcd (bench/fill.py), which is not what is measured.  Then an agent starts on a host that never had one:
uninstalled before each round, no record, no pin.  Seconds run from the start of its process until /status says that
the mappings are complete; after that the kernel's map is read back and counted.  Memory is the kernel's word: VmHWM
and VmRSS of the agent, and the map's memory in /proc/PID/fdinfo, which is not part of the agent's.
Etcd, which reads and sends the snapshot, shares the machine's cores with the agent.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.kernel.bpf_map import Map
from bench.results import DIRECTORY, SOURCE, Results, clean_ups, main
from ila.certificates import CONTROLLER
from lab.cluster import Cluster
from lab.namespace import CommandError

FEW = 10_000
QUOTA = 8 << 30
"""Bytes that etcd's database may grow to."""

MIB = 1 << 20
POLL = 0.05
"""Seconds between two questions to the agent: the resolution of what is measured."""

PATIENCE = 300.0

Found = dict[tuple[str, str, str], list[float]]
"""By case, metric and unit: the value of every round."""


@dataclass(frozen=True, slots=True)
class Filled:
    """Mappings were written: when (time.monotonic()), and etcd's revision after it."""

    began: float
    ended: float
    revision: int


class Load:
    """One host's agent and what it is made to load."""

    def __init__(self, cluster: Cluster, found: Found) -> None:
        self._cluster = cluster
        self._found = found
        self._host = cluster.hosts[0]
        if cluster.etcd is None:
            raise ValueError("the cluster must be started first")
        self._etcd = cluster.etcd
        certificate = self._etcd.client(CONTROLLER).certificate
        self._certificates = str(Path(certificate or "").parent)

    def fill(self, first: int, last: int, *, shift: int = 0) -> Filled:
        """Write mappings into etcd."""
        words = ("env", f"PYTHONPATH={SOURCE}", sys.executable, "-m", "bench.fill", self._certificates,
                 self._etcd.endpoints[0], str(first), str(last), str(shift))  # fmt: skip
        began, ended, revision = self._host.namespace.run(*words, timeout=PATIENCE).split()
        return Filled(float(began), float(ended), int(revision))

    def fresh_start(self, case: str, count: int) -> None:
        """Start an agent on a host that never had one, until its kernel holds everything."""
        self._cluster.agents[self._host.name].stop()
        self._cluster.uninstall(self._host)
        self._start(case, count)

    def restart(self, case: str, count: int) -> None:
        """Kill and start the agent on a host whose kernel holds everything."""
        self._cluster.agents[self._host.name].kill()
        self._start(case, count)

    def updates(self, case: str, count: int, shift: int) -> None:
        """Change `count` mappings while the agent follows, until its kernel holds the last change."""
        filled = self.fill(0, count, shift=shift)
        self._until(lambda status: int(str(status["generation"]).partition("/")[2]) >= filled.revision)
        arrived = time.monotonic()
        self._note(case, f"{count:,} updates, last write to kernel", "ms", (arrived - filled.ended) * 1e3)
        self._note(case, f"{count:,} updates, first write to kernel", "s", arrived - filled.began)

    def _start(self, case: str, count: int) -> None:
        began = time.monotonic()
        process = self._cluster.start_agent(self._host)
        self._until(lambda status: bool(status["serving"]))
        serving = time.monotonic()
        self._until(lambda status: bool(status["mappings_complete"]))
        complete = time.monotonic()
        held, memory = self._kernel()
        if held != count:
            raise CommandError(f"the kernel's map holds {held} mappings, not {count}")
        self._note(case, "agent's start to complete", "s", complete - began)
        self._note(case, "stream's begin to complete", "s", complete - serving)
        self._note(case, "agent's memory, peak", "MiB", _memory(process.pid, "VmHWM") / MIB)
        self._note(case, "agent's memory, then", "MiB", _memory(process.pid, "VmRSS") / MIB)
        self._note(case, "map of mappings, kernel's memory", "MiB", memory / MIB)

    def _until(self, done: Callable[[dict[str, Any]], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            self._cluster.agents[self._host.name].check()
            try:
                if done(self._cluster.status(self._host)):
                    return
            except OSError as error:  # not listening yet, or busy for longer than a question waits
                if time.monotonic() > deadline:
                    raise CommandError(f"the agent did not come that far in {PATIENCE} s") from error
            time.sleep(POLL)

    def _kernel(self) -> tuple[int, int]:
        """Return how many mappings the kernel's map holds, and its memory in bytes."""
        pin = self._cluster.directory / self._host.name / "bpf/ilanet/maps/mappings"
        with Map.pinned(pin) as mappings:
            lines = Path(f"/proc/self/fdinfo/{mappings.number}").read_text().splitlines()
            memory = next(int(line.split()[1]) for line in lines if line.startswith("memlock:"))
            return sum(len(keys) // 8 for keys, _ in mappings.batches()), memory

    def _note(self, case: str, metric: str, unit: str, value: float) -> None:
        self._found[case, metric, unit].append(value)


def _memory(pid: int, field: str) -> int:
    """Return a field of /proc/PID/status in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def run(count: int, rounds: int) -> Found:
    """Bring the cluster up, load it, and return what was found."""
    found: Found = defaultdict(list)
    few, many = f"{FEW:,} mappings", f"{count:,} mappings"
    with clean_ups() as stack:
        cluster = Cluster(
            name="bench-load",
            hosts=1,
            controllers=1,
            durable=DIRECTORY / "load",
            etcd_options=("--quota-backend-bytes", str(QUOTA)),
            say=Results.say,
        )
        stack.callback(cluster.close)
        cluster.start()
        load = Load(cluster, found)
        load.fill(0, FEW)
        for number in range(rounds):
            load.fresh_start(few, FEW)
            load.updates(few, FEW, number + 1)
            Results.say(f"round {number + 1} of {rounds} at {few}")
        filled = load.fill(FEW, count)
        Results.say(f"{count - FEW:,} mappings written to etcd in {filled.ended - filled.began:.1f} s")
        for number in range(rounds):
            load.fresh_start(many, count)
            load.updates(many, FEW, rounds + number + 1)
            load.restart(f"{many}, restart", count)
            seconds = found[many, "agent's start to complete", "s"][-1]
            Results.say(f"round {number + 1} of {rounds} at {many}: {seconds:.1f} s")
    return found


def bench() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="bench.load", description="Mappings from etcd into the kernel's map.")
    parser.add_argument("--count", type=int, default=1_000_000, help=f"of mappings, more than {FEW}")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    results = Results(name="load", options=vars(options))
    found = run(options.count, options.rounds)
    results.head()
    for (case, metric, unit), values in found.items():
        results.row(case, metric, unit, values)
    few, many = f"{FEW:,} mappings", f"{options.count:,} mappings"
    results.limit("load_seconds", found[many, "agent's start to complete", "s"], "s", goal=30)
    results.limit("load_memory", found[many, "agent's memory, peak", "MiB"], "MiB", goal=1024)
    results.limit("memory_at_10000", found[few, "agent's memory, peak", "MiB"], "MiB", bound=100)
    return results.finish()


if __name__ == "__main__":
    raise SystemExit(main(bench))
