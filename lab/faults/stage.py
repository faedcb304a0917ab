# SPDX-License-Identifier: Apache-2.0
"""Where faults happen: a cluster of three hosts with pods that stay, pods that come and go, and traffic between."""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.cluster import Cluster
from lab.fabric import Host, Shape
from lab.faults.churn import TRY_AGAIN, Churn
from lab.faults.generations import Generations
from lab.faults.traffic import Datagrams, Stream, Tcp, patient, serve, tcp
from lab.listing import listing
from lab.namespace import CommandError, run
from lab.runtime import CniError, Pod

DISK = "8m"
"""Size of the file system that holds an agent's records."""

MEMBER_DISK = "2g"
"""Size of the file system that holds a member's data, in memory as far as it is used: log after log of 64 MB."""

QUOTA = 24 << 20
"""Bytes that etcd's database may have."""

PATIENCE = 90.0
"""Seconds until everything must be right again after a fault."""


@dataclass(frozen=True, slots=True)
class Measures:
    """Counters at one moment."""

    drops: Mapping[tuple[str, str, str], int]
    """Packets by host, hook and verdict."""

    untranslated: int
    """Packets to SIR addresses that the fabric has seen."""

    tcp: Mapping[str, Tcp]
    """Of every pod that stays, by its container."""

    backlog: int
    """Packets that the machine's own backlog had no room for, in any namespace."""


class Stage:
    """The cluster and all that goes on in it; close() removes every trace."""

    def __init__(self, *, name: str, shape: Shape, host_path: str, rate: int, pause: float, seed: int) -> None:
        """Take datagrams a second of each flow, seconds between two pods of one host, and what decides the dice."""
        self.random = random.Random(seed)  # noqa: S311 - dice, no secret
        self.rate = rate
        self.cluster = Cluster(
            name=name,
            shape=shape,
            etcd_members=3,
            etcd_options=("--quota-backend-bytes", str(QUOTA)),
            agent_settings={"host_path": host_path, "epoch_grace": 5},
        )
        self.host_path = host_path
        self.bare: dict[str, list[str]] = {}
        """What each host had before an agent."""

        self.pods: dict[str, Pod] = {}
        self.churns: dict[str, Churn] = {}
        self.generations = Generations(self.cluster)
        self.flooded = False
        """A map is full: too long to be read again and again."""

        self.stream: Stream | None = None
        self._pause = pause
        self._servers: dict[str, subprocess.Popen[bytes]] = {}
        self._port = 9000

    # --- up and down ---

    def build(self) -> None:
        """Bring everything up but the datagrams."""
        self.cluster.start_underlay()
        for host in self.hosts:
            self._mount(self.cluster.state(host), DISK)
        for member in range(len(self.hosts)):
            self._mount(self.cluster.directory / f"etcd/member{member}", MEMBER_DISK)
        for host in self.hosts:
            self.note_bare(host)
        self.cluster.start_processes()
        for number, host in enumerate(self.hosts, 1):
            self.add(f"echo{number}", host)
            self._servers[f"echo{number}"] = serve(self.pods[f"echo{number}"])
        for number in (1, 2):
            self.add(f"flow{number}", self.hosts[number - 1])
        self.stream = Stream(*self.ends)
        for number, (host, far) in enumerate(zip(self.hosts, (2, 1, 1), strict=True), 1):
            self.churns[host.name] = Churn(
                self.cluster,
                host,
                near=lambda name=f"echo{number}": self.pods[name].address,  # type: ignore[misc]
                far=(self.hosts[far - 1], lambda name=f"echo{far}": self.pods[name].address),  # type: ignore[misc]
                pause=self._pause,
            )

    def note_bare(self, host: Host) -> None:
        """Note what a host has on which no agent has been yet, since it was made."""
        self.bare[host.name] = listing(host.namespace)

    def _mount(self, disk: Path, size: str) -> None:
        """Mount a file system of its own where somebody will keep what must survive; it goes with the cluster."""
        disk.mkdir(parents=True)
        run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", f"{self.cluster.name}-disk", str(disk))

    def close(self) -> None:
        """End and remove everything, also after a failure half way."""
        for churn in self.churns.values():
            churn.close()
        if self.stream is not None:
            self.stream.finish()
        for server in self._servers.values():
            server.kill()
            server.wait()
        self.cluster.close()

    @property
    def hosts(self) -> list[Host]:
        """The three hosts; the third carries no traffic that must not be lost."""
        return self.cluster.hosts

    @property
    def ends(self) -> tuple[Pod, Pod]:
        """The pods whose traffic must not be lost."""
        return self.pods["flow1"], self.pods["flow2"]

    # --- dice ---

    def any_host(self) -> Host:
        """Draw a host."""
        return self.random.choice(self.hosts)

    # --- pods that stay ---

    def add(self, name: str, host: Host, *, container: str = "") -> Pod:
        """Add a pod that stays; one of that name before is forgotten."""
        self.pods[name] = self.make(name, host, container=container)
        patient(self.pods[name].namespace)
        return self.pods[name]

    def make(self, name: str, host: Host, *, container: str = "") -> Pod:
        """Add a pod as a kubelet does: again while the answer is 'later'."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self.cluster.pod(name, host, container=container)
            except CniError as error:
                self.drop(name)
                if error.code != TRY_AGAIN or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def drop(self, name: str) -> None:
        """Remove the namespace of a pod."""
        self.cluster.pods.pop(name).namespace.close()

    def serve_again(self, name: str) -> None:
        """Start a pod's server anew, after its namespace was."""
        self._servers[name].wait()
        self._servers[name] = serve(self.pods[name])

    # --- traffic and counters ---

    @contextlib.contextmanager
    def datagrams(self) -> Iterator[tuple[Datagrams, Datagrams]]:
        """Let numbered datagrams flow both ways."""
        one, other = self.ends
        self._port = 9000 + (self._port - 8998) % 1000
        with contextlib.ExitStack() as stack:
            flows = []
            for source, target, port in ((one, other, self._port), (other, one, self._port + 1)):
                flows.append(Datagrams(source, target, port=port, rate=self.rate))
                stack.callback(flows[-1].close)
            yield flows[0], flows[1]

    def measure(self) -> Measures:
        """Read every counter."""
        backlog = [line.split()[1] for line in Path("/proc/net/softnet_stat").read_text().splitlines()]
        return Measures(
            drops={(host.name, *place): count for host in self.hosts for place, count in self._drops(host).items()},
            untranslated=self.cluster.fabric.untranslated(),
            tcp={pod.container_id: tcp(pod.namespace) for pod in self.pods.values() if pod.namespace.path.exists()},
            backlog=sum(int(number, 16) for number in backlog),
        )

    def _drops(self, host: Host) -> dict[tuple[str, str], int]:
        found = {}
        for line in self.cluster.ask(host.namespace, "/metrics").splitlines():
            if line.startswith("ilanet_verdict_packets_total{") and 'drop="1"' in line:
                labels, _, value = line.partition("{")[2].rpartition("} ")
                pairs = dict(pair.split("=") for pair in labels.split(","))
                found[pairs["hook"].strip('"'), pairs["verdict"].strip('"')] = int(float(value))
        return found

    # --- waiting ---

    def hold(self, seconds: float) -> None:
        """Let time pass, and look at every host's generations meanwhile."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if not self.flooded:
                self.generations.look()
            time.sleep(min(0.2, left))

    def until(self, true: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
        """Wait until something is true; CommandError says what never was."""
        deadline = time.monotonic() + patience
        while not true():
            if time.monotonic() > deadline:
                raise CommandError(f"{what}: not after {patience:g} s")
            self.hold(0.1)

    def problems(self, host: Host) -> dict[str, str]:
        """Return what an agent says is wrong; one that does not answer says 'no answer'."""
        try:
            status = self.cluster.status(host)
        except (OSError, CommandError) as error:
            return {"agent": f"no answer: {error}"}
        found = dict(status["problems"])
        if not status["serving"]:
            found["serving"] = "no"
        if not status["mappings_complete"]:
            found["mappings"] = found.get("mappings", "not complete")
        if len(status["nodes"]) != len(self.hosts):
            found["nodes"] = f"knows {status['nodes']}"
        return found

    def recovered(self) -> None:
        """Wait until every process runs and no agent has a problem."""
        deadline = time.monotonic() + PATIENCE
        while True:
            for process in (*self.cluster.controllers, *self.cluster.agents.values()):
                process.check()
            wrong = {host.name: found for host in self.hosts if (found := self.problems(host))}
            if not wrong:
                return
            if time.monotonic() > deadline:
                raise CommandError(f"not right again after {PATIENCE:g} s: {wrong}")
            self.hold(0.1)
