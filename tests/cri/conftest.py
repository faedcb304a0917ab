# SPDX-License-Identifier: Apache-2.0
"""Two hosts, each with a real containerd and ilanet as its network: brought up once, and always removed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from lab.cluster import Cluster
from lab.containerd import Containerd
from lab.fabric import Host
from lab.kubelet import Kubelet
from tests.cri.ledger import SHIMS, Ledger


@dataclass
class Site:
    """A cluster whose hosts run pods."""

    cluster: Cluster
    kubelets: list[Kubelet]
    ledger: Ledger
    bare: Counter[str]
    """What there is without any pod."""

    lost_shims: bool = False
    """Containerd has been killed: in the moment in which it starts a task it forgets the task's shim."""

    @property
    def hosts(self) -> list[Host]:
        return self.cluster.hosts

    def restart_containerd(self, number: int = 0) -> None:
        """Stop a host's containerd in good order, if it runs, and start it."""
        runtime = self.kubelets[number].runtime
        runtime.stop()
        runtime.start_ready()

    def restart_agent(self, number: int = 0) -> None:
        """Stop a host's agent in good order, if it runs, and start it."""
        host = self.hosts[number]
        self.cluster.agents[host.name].stop()
        self.cluster.start_agent(host)
        self.cluster.wait_ready()

    def clear(self) -> None:
        """Bring back what does not run and remove every pod: there is something to do only if a test has failed."""
        for number, (host, kubelet) in enumerate(zip(self.hosts, self.kubelets, strict=True)):
            if not self.cluster.agents[host.name].pid:
                self.restart_agent(number)
            if not kubelet.runtime.pid:
                self.restart_containerd(number)
            kubelet.remove_all()


@pytest.fixture(scope="module")
def shared() -> Iterator[Site]:
    """Yield the cluster, without any pod."""
    cluster = Cluster(name=f"c{os.getpid()}", hosts=2)
    runtimes: list[Containerd] = []
    try:
        cluster.start()
        for host in cluster.hosts:
            runtimes.append(Containerd(cluster, host))
            runtimes[-1].start_ready()
        ledger = Ledger(cluster, runtimes)
        yield Site(cluster, [Kubelet(runtime) for runtime in runtimes], ledger, ledger.steady())
    finally:
        for runtime in runtimes:
            runtime.close()
        cluster.close()
        assert cluster.leftovers() == []


@pytest.fixture
def site(shared: Site) -> Iterator[Site]:
    """Yield the cluster without any pod; whatever a test does, in the end nothing of its pods may be left."""
    yield shared
    shared.clear()
    shared.ledger.unchanged(shared.bare, without=SHIMS if shared.lost_shims else frozenset())
