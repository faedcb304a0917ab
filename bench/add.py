# SPDX-License-Identifier: Apache-2.0
"""`make bench-add`: ADD and DEL through the CNI executable, one at a time and 16 at once, and where the time goes.

A cluster of three hosts with two controllers and an etcd that writes through to the disk.  All pods come to host1,
each in a namespace of its own.  An ADD takes from the start of the executable to its end (bench/spawn.py).  Shares
of the steps are the agent's own sums (histogram ilanet_cni_step_seconds).  After each ADD of those one at a time, a
pod on every other host asks the new one until it answers: the first answer is that of the slowest host.  Hosts,
etcd, controllers and the bench itself share the machine's cores.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from agent.kernel.namespace import in_namespace
from bench import spawn
from bench.echo import Observers
from bench.plot import distribution
from bench.results import DIRECTORY, Results, clean_ups, main, percentile
from bench.shim import AtOnce
from bench.spawn import Container, Done
from lab.chain import DEBIAN_PLUGINS
from lab.cluster import Cluster
from lab.fabric import Host
from lab.namespace import Namespace

WAVE = 16
STEPS = ("assign", "wire", "datapath", "settle", "record", "total")
ONE, TOGETHER = "one at a time", f"{WAVE} at once"
PTP_ONE, PTP_TOGETHER = f"ptp, {ONE}", f"ptp, {TOGETHER}"
EVERY = "every ADD"
SHIM_CALLS = 200
REST = 0.1
"""Seconds before each ADD of those one at a time, ours and ptp's: what follows the one before has come to its end."""

PAUSE = 0.1
"""Seconds after a pass's deletions: the agent's own passes come to rest."""

Found = dict[tuple[str, str, str], list[float]]
"""By case, metric and unit: the value of every pass."""

LIMITS = (
    ("add_p50", ONE, "ADD, p50", 5.0, None),
    ("add_p99", ONE, "ADD, p99", 25.0, None),
    ("add_16_p99", TOGETHER, "ADD, p99", 100.0, None),
    ("shim", "executable", "answered at once, p50", 2.0, None),
    ("first_answer_p50", ONE, "ADD's return to first answer, p50", None, 20.0),
    ("first_answer_p99", ONE, "ADD's return to first answer, p99", None, 100.0),
)
"""Name, case, metric, bound, goal; milliseconds."""


@dataclass(frozen=True, slots=True)
class Peers:
    """Containers of Debian's ptp, and the open namespace of the host that it works on: where it is started."""

    containers: Sequence[Container]
    host: int

    def run(self, command: str, count: int | None = None) -> list[Done]:
        """Start ptp for so many containers at once."""
        return in_namespace(self.host, lambda: spawn.run(command, self.containers[:count]))

    def run_one(self, command: str, container: Container) -> Done:
        """Start ptp for one container."""
        return in_namespace(self.host, lambda: spawn.run(command, [container]))[0]


class Pass:
    """One pass over every case: adds to what was found."""

    def __init__(
        self,
        cluster: Cluster,
        containers: Sequence[Container],
        peers: Peers,
        observers: Observers,
        found: Found,
    ) -> None:
        """Take ilanet's containers, and as many of Debian's ptp to compare with."""
        self._cluster = cluster
        self._host = cluster.hosts[0]
        self._containers = containers
        self._peers = peers
        self._observers = observers
        self._found = found

    def one_at_a_time(self) -> None:
        """Add and delete every container, one after the other."""
        before = steps(self._cluster, self._host)
        added, answered = [], []
        for container in self._containers:
            time.sleep(REST)
            (done,) = spawn.run("ADD", [container])
            added.append(done.seconds)
            address = str(done.answer["ips"][0]["address"]).partition("/")[0]
            answered.append(max(self._observers.first_answers(address)) - done.ended)
        after = steps(self._cluster, self._host)
        deleted = [spawn.run("DEL", [container])[0].seconds for container in self._containers]
        self._times(ONE, "ADD", added)
        self._times(ONE, "ADD's return to first answer", answered)
        self._shares(ONE, added, before, after)
        self._times(ONE, "DEL", deleted)

    def together(self, waves: int) -> None:
        """Add and delete a wave of containers at once, over and over."""
        wave = self._containers[:WAVE]
        before = steps(self._cluster, self._host)
        added, deleted = [], []
        for _ in range(waves):
            added += [done.seconds for done in spawn.run("ADD", wave)]
            deleted += [done.seconds for done in spawn.run("DEL", wave)]
        self._times(TOGETHER, "ADD", added)
        self._shares(TOGETHER, added, before, steps(self._cluster, self._host))
        self._times(TOGETHER, "DEL", deleted)

    def ptp(self, waves: int) -> None:
        """Do the same by Debian's ptp with host-local."""
        added = []
        for peer in self._peers.containers:
            time.sleep(REST)
            added.append(self._peers.run_one("ADD", peer).seconds)
        self._peers.run("DEL")
        together: list[float] = []
        for _ in range(waves):
            together += [done.seconds for done in self._peers.run("ADD", WAVE)]
            self._peers.run("DEL", WAVE)
        self._times(PTP_ONE, "ADD", added)
        self._times(PTP_TOGETHER, "ADD", together)

    def shim(self) -> None:
        """Time the executable against a socket that answers at once."""
        path = self._cluster.directory / "at-once.sock"
        container = Container(name="shim", netns=self._containers[0].netns, socket=path)
        with AtOnce(path):
            self._times("executable", "answered at once", [
                spawn.run("ADD", [container])[0].seconds for _ in range(SHIM_CALLS)
            ])  # fmt: skip

    def disk(self) -> None:
        """Time what one fsync of a small file takes: part of every record, here and in etcd."""
        path = DIRECTORY / "fsync"
        took = []
        for _ in range(50):
            with path.open("wb") as file:
                file.write(b"x" * 400)
                file.flush()
                started = time.perf_counter()
                os.fsync(file.fileno())
                took.append(time.perf_counter() - started)
        path.unlink()
        self._times("disk", "fsync", took)

    def _times(self, case: str, metric: str, seconds: Sequence[float]) -> None:
        if metric == "ADD":
            self._found[case, EVERY, "s"] += seconds
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            self._found[case, f"{metric}, {name}", "ms"].append(percentile(seconds, share) * 1e3)
        self._found[case, f"{metric}, mean", "ms"].append(sum(seconds) / len(seconds) * 1e3)

    def _shares(self, case: str, added: Sequence[float], before: dict[str, float], after: dict[str, float]) -> None:
        mean = sum(added) / len(added)
        for step in STEPS:
            took = (after[step] - before[step]) / len(added)
            self._found[case, f"step {step}, mean", "ms"].append(took * 1e3)
            self._found[case, f"step {step}, share of ADD", "%"].append(took / mean * 100)


def steps(cluster: Cluster, host: Host) -> dict[str, float]:
    """Return the seconds that a host's agent has spent in each step of ADDs so far."""
    sums = dict.fromkeys(STEPS, 0.0)
    for line in cluster.ask(host.namespace, "/metrics").splitlines():
        if line.startswith('ilanet_cni_step_seconds_sum{operation="add"'):
            labels, _, value = line.rpartition(" ")
            sums[labels.partition('step="')[2].rstrip('"}')] = float(value)
    return sums


def run(count: int, waves: int, passes: int) -> Found:
    """Bring the cluster up, run every pass, and return what was found."""
    found: Found = defaultdict(list)
    durable = DIRECTORY / "add"
    with clean_ups() as stack:
        cluster = Cluster(name="bench-add", durable=durable, say=Results.say)
        stack.callback(cluster.close)
        cluster.start()
        host = cluster.hosts[0]
        observers = [cluster.pod(f"observer{other.number}", other).namespace for other in cluster.hosts[1:]]
        Results.say(f"{max(count, WAVE)} namespaces")
        containers = [_container(cluster, host, number) for number in range(max(count, WAVE))]
        peers = _peers(stack, cluster, max(count, WAVE))
        asking = stack.enter_context(Observers(observers))
        for number in range(passes):
            turn = Pass(cluster, containers, peers, asking, found)
            turn.one_at_a_time()
            time.sleep(PAUSE)
            turn.together(waves)
            time.sleep(PAUSE)
            turn.ptp(waves)
            turn.shim()
            turn.disk()
            last = {key: values[-1] for key, values in found.items()}
            Results.say(
                f"pass {number + 1} of {passes}: ADD p50 {last[ONE, 'ADD, p50', 'ms']:.1f} ms one at a time, "
                f"{last[TOGETHER, 'ADD, p50', 'ms']:.1f} ms {TOGETHER}; "
                f"ptp {last[PTP_ONE, 'ADD, p50', 'ms']:.1f} and {last[PTP_TOGETHER, 'ADD, p50', 'ms']:.1f} ms"
            )
    return found


def _container(cluster: Cluster, host: Host, number: int) -> Container:
    namespace = Namespace.create(f"{cluster.name}-c{number}")
    return Container(name=namespace.name, netns=namespace.path, socket=cluster.socket(host))


def _peers(stack: ExitStack, cluster: Cluster, count: int) -> Peers:
    """Make a host and pods for ptp, without duplicate address detection, as ours have none."""
    host = Namespace.create(f"{cluster.name}-ptp")
    host.sysctl(net__ipv6__conf__default__accept_dad=0, net__ipv6__conf__all__forwarding=1)
    state = {
        "type": "host-local",
        "dataDir": str(DIRECTORY / "add/host-local"),
        "ranges": [[{"subnet": "fd00:99::/64"}]],
    }
    config = {"cniVersion": "1.0.0", "name": "ptp", "type": "ptp", "ipam": state}
    containers = []
    for number in range(count):
        pod = Namespace.create(f"{cluster.name}-p{number}")
        pod.sysctl(net__ipv6__conf__default__accept_dad=0)
        containers.append(
            Container(name=pod.name, netns=pod.path, socket=Path("/"), executable=DEBIAN_PLUGINS / "ptp", config=config)
        )
    return Peers(containers, stack.enter_context(host.path.open("rb")).fileno())


def bench() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="bench.add", description="ADD and DEL through the CNI executable.")
    parser.add_argument("--count", type=int, default=100, help="of ADDs one at a time, per pass")
    parser.add_argument("--waves", type=int, default=10, help=f"of {WAVE} ADDs at once, per pass")
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--plot", type=Path, help="write the distributions there, as SVG (docs/add-latency.svg)")
    options = parser.parse_args()
    results = Results(name="add", options={**vars(options), "plot": str(options.plot)})
    found = run(options.count, options.waves, options.passes)
    curves = {
        label: [second * 1e3 for second in found.pop((case, EVERY, "s"))]
        for case, label in (
            (ONE, f"ilanet, {ONE}"),
            (PTP_ONE, PTP_ONE),
            (TOGETHER, f"ilanet, {TOGETHER}"),
            (PTP_TOGETHER, PTP_TOGETHER),
        )
    }
    if options.plot:
        options.plot.parent.mkdir(exist_ok=True)
        options.plot.write_text(
            distribution("ADD through the executable: share of calls that took at most so long", curves)
        )
    results.head()
    for (case, metric, unit), values in found.items():
        results.row(case, metric, unit, values)
    for ours, theirs, name in ((ONE, PTP_ONE, "add_vs_ptp"), (TOGETHER, PTP_TOGETHER, "add_16_vs_ptp")):
        pairs = zip(found[ours, "ADD, p50", "ms"], found[theirs, "ADD, p50", "ms"], strict=True)
        results.limit(name, [mine / other for mine, other in pairs], "x", bound=0.5)
    for name, case, metric, bound, goal in LIMITS:
        results.limit(name, found[case, metric, "ms"], "ms", bound=bound, goal=goal)
    return results.finish()


if __name__ == "__main__":
    raise SystemExit(main(bench))
