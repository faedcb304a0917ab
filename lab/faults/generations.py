# SPDX-License-Identifier: Apache-2.0
"""Invariant 1, watched from outside: a mapping's generation never goes back on any host."""

from __future__ import annotations

from pathlib import Path

from agent.core.datapath import DatapathError, unpack_mapping
from agent.kernel.bpf_map import Map
from ila.mapping import Generation
from lab.cluster import Cluster
from lab.fabric import Host
from lab.namespace import CommandError

SIZE = 32
"""Bytes of a mapping in the kernel."""


class Generations:
    """The newest generation seen of each identifier in each host's kernel, and of each agent process."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._seen: dict[tuple[str, int], Generation] = {}
        self._agents: dict[int, Generation] = {}
        self.violations: list[str] = []
        self.looks = 0

    def look(self) -> None:
        """Look at every host."""
        self.looks += 1
        for host in self._cluster.hosts:
            self._look_at_agent(host)
            for identifier, (_, generation) in kernel_mappings(self._cluster, host).items():
                key = (host.name, identifier)
                before = self._seen.get(key)
                if before is not None and generation < before:
                    self.violations.append(f"{host.name}: {identifier:016x} went from {before} back to {generation}")
                self._seen[key] = generation

    def _look_at_agent(self, host: Host) -> None:
        """Compare what the same process says of its highest generation."""
        process = self._cluster.agents[host.name]
        pid = process.pid
        if not pid or _is_stopped(pid):
            return
        try:
            text = self._cluster.status(host)["generation"]
        except (OSError, CommandError):
            return
        if not text or process.pid != pid:
            return
        now = Generation(*map(int, text.split("/")))
        before = self._agents.get(pid, now)
        if now < before:
            self.violations.append(f"{host.name}: the agent's highest generation went from {before} back to {now}")
        self._agents[pid] = now


def _is_stopped(pid: int) -> bool:
    """Tell whether a process is frozen, or gone: it would not answer."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "TZ"
    except OSError:
        return True


def kernel_mappings(cluster: Cluster, host: Host) -> dict[int, tuple[int, Generation]]:
    """Return locator (its upper half) and generation by identifier, of a host's kernel; {} while its pins are away."""
    found = {}
    try:
        with Map.pinned(cluster.bpffs(host) / "ilanet/maps/mappings") as mappings:
            for keys, values in mappings.batches():
                for at in range(len(keys) // 8):
                    ila, epoch, revision = unpack_mapping(values[at * SIZE : (at + 1) * SIZE])
                    identifier = int.from_bytes(keys[at * 8 : (at + 1) * 8])
                    found[identifier] = (int.from_bytes(ila[:8]), Generation(epoch, revision))
    except DatapathError:
        return {}
    return found
