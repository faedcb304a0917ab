# SPDX-License-Identifier: Apache-2.0
"""The life of pods under a real containerd, with restarts of everything between its steps."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from lab.cri import PodSetting
from lab.namespace import run
from tests.cri.conftest import Site

OUTAGE = float(os.environ.get("OUTAGE", "1"))
"""Seconds that etcd and the controllers stay away after all that is done without them; an hour on demand."""

SPREAD = 10
"""Pods that start, one after the other, in the course of the outage."""


def test_a_pod_lives_and_ends(site: Site) -> None:
    """A sandbox has its SIR address, its container is reached there from another host's, and all of it ends."""
    here, there = site.kubelets
    one, other = here.pod("one"), there.pod("other")
    sandbox, peer = here.run(one), there.run(other)
    address = here.runtime.cri.address(sandbox)
    assert address.startswith("fd00:10:244:")
    assert here.runtime.cri.address(sandbox) == address
    server, client = here.serve(one, sandbox), there.serve(other, peer)
    assert there.fetch(client, address) == "one"
    assert here.fetch(server, there.runtime.cri.address(peer)) == "other"
    assert f"{address}/128" in here.runtime.cri.execute(server, "ip", "-6", "addr", "show", "dev", "eth0").output
    site.ledger.settled(pods=2)
    here.runtime.cri.stop_sandbox(sandbox)
    assert not here.runtime.cri.runs(server)
    assert there.fetch(client, address) == ""
    site.ledger.settled(pods=1)
    here.runtime.cri.stop_sandbox(sandbox)
    here.runtime.cri.remove_sandbox(sandbox)
    assert here.sandboxes(one) == []
    there.remove(other)
    site.ledger.settled(pods=0)


def test_a_host_has_a_name_of_its_own(site: Site) -> None:
    """What runs inside of a host reads its name, as a pod in the host's network does; the machine keeps its own."""
    outside = socket.gethostname()
    inside = [run(*kubelet.runtime.machine.prefix, "uname", "-n").strip() for kubelet in site.kubelets]
    assert inside == [host.name for host in site.hosts]
    assert socket.gethostname() == outside


@pytest.mark.timeout(120 + OUTAGE)
def test_pods_start_while_etcd_and_controllers_are_away(site: Site) -> None:
    """From identifiers held in advance: they work on their node, a restart of the agent included, and are published."""
    here, there = site.kubelets
    assert site.cluster.etcd is not None
    site.cluster.etcd.kill()
    for process in site.cluster.controllers:
        process.kill()
    try:
        pods = [here.pod(f"alone{number}") for number in range(5)]
        sandboxes = [here.run(pod) for pod in pods]
        servers = [here.serve(pod, sandbox) for pod, sandbox in zip(pods[:2], sandboxes, strict=False)]
        address = here.runtime.cri.address(sandboxes[0])
        assert here.fetch(servers[1], address) == "alone0"
        host = site.hosts[0]
        site.cluster.agents[host.name].kill()
        site.cluster.start_agent(host)
        late = here.pod("alone5")
        here.run(late)
        assert here.fetch(servers[1], address) == "alone0"
        here.remove(pods[4])
        over_time = [here.pod(f"later{number}") for number in range(SPREAD)]
        for pod in over_time:
            time.sleep(OUTAGE / SPREAD)
            server = here.serve(pod, here.run(pod))
            assert here.fetch(server, address) == "alone0"
    finally:
        site.cluster.etcd.start()
        for process in site.cluster.controllers:
            process.start()
        site.cluster.wait_ready()
    site.ledger.settled(pods=5 + SPREAD)
    other = there.pod("other")
    client = there.serve(other, there.run(other))
    site.ledger.settled(pods=6 + SPREAD)
    assert there.fetch(client, address) == "alone0"
    here.remove(*pods, late, *over_time)
    there.remove(other)
    site.ledger.settled(pods=0)


def containerd(site: Site) -> None:
    site.restart_containerd()


def agent(site: Site) -> None:
    site.restart_agent()


def both(site: Site) -> None:
    """Both are away at once, and the agent comes back last."""
    host = site.hosts[0]
    site.cluster.agents[host.name].stop()
    site.restart_containerd()
    site.cluster.start_agent(host)
    site.cluster.wait_ready()


@pytest.mark.parametrize("restart", [containerd, agent, both])
def test_restarts_between_all_steps(site: Site, restart: Callable[[Site], None]) -> None:
    """A pod's container answers and each next step works after a restart of containerd, of the agent and of both."""
    here, there = site.kubelets
    one, other = here.pod("one"), there.pod("other")
    peer = there.run(other)
    client = there.serve(other, peer)
    restart(site)
    sandbox = here.run(one)
    address = here.runtime.cri.address(sandbox)
    restart(site)
    assert [item.ready for item in here.sandboxes(one)] == [True]
    assert here.runtime.cri.address(sandbox) == address
    site.ledger.settled(pods=2)
    server = here.serve(one, sandbox)
    assert there.fetch(client, address) == "one"
    restart(site)
    assert here.runtime.cri.runs(server)
    assert there.fetch(client, address) == "one"
    assert here.runtime.cri.execute(server, "hostname").output == "one\n"
    here.runtime.cri.stop_sandbox(sandbox)
    restart(site)
    site.ledger.settled(pods=1)
    here.runtime.cri.remove_sandbox(sandbox)
    restart(site)
    assert here.sandboxes(one) == []
    there.remove(other)
    site.ledger.settled(pods=0)


def test_a_second_sandbox_of_a_pod_replaces_the_first(site: Site) -> None:
    """The kubelet's new attempt keeps the pod's address, though the old sandbox is stopped only afterwards."""
    here, there = site.kubelets
    one, other = here.pod("one"), there.pod("other")
    first = here.run(one)
    address = here.runtime.cri.address(first)
    second = here.runtime.cri.run_sandbox(one, attempt=1)
    assert here.runtime.cri.address(second) == address
    here.runtime.cri.stop_sandbox(first)
    here.runtime.cri.remove_sandbox(first)
    site.ledger.settled(pods=1)
    here.serve(one, second)
    client = there.serve(other, there.run(other))
    assert there.fetch(client, address) == "one"
    here.remove(one)
    there.remove(other)
    site.ledger.settled(pods=0)


def test_an_address_is_kept_by_annotation(site: Site) -> None:
    """The runtime hands annotations on: the next pod of that name has the address, on another host."""
    here, there = site.kubelets
    annotations = {"ilanet.io/keep-address": "true"}
    first = here.pod("keeper", uid="first", annotations=annotations)
    second = there.pod("keeper", uid="second", annotations=annotations)
    address = here.runtime.cri.address(here.run(first))
    site.ledger.settled(pods=1)
    here.remove(first)
    assert there.runtime.cri.address(there.run(second)) == address
    site.ledger.settled(pods=1)
    there.remove(second)
    site.ledger.forget_kept("default", "keeper")
    site.ledger.settled(pods=0)


def test_a_host_loses_its_power(site: Site) -> None:
    """Every process, mount and pod of a host is gone at once: after its start the kubelet's pods run again."""
    here, there = site.kubelets
    pods = [here.pod(f"dark{number}") for number in range(3)]
    other = there.pod("other")
    client = there.serve(other, there.run(other))
    for pod in pods:
        here.serve(pod, here.run(pod))
    site.cluster.agents[site.hosts[0].name].kill()
    here.runtime.machine.stop()
    site.restart_agent()
    site.restart_containerd()
    sandboxes = [here.run(pod) for pod in pods]
    site.ledger.settled(pods=4)
    for pod, sandbox in zip(pods, sandboxes, strict=True):
        here.serve(pod, sandbox)
        assert there.fetch(client, here.runtime.cri.address(sandbox)) == pod.name
    here.remove(*pods)
    there.remove(other)
    site.ledger.settled(pods=0)


def test_a_pod_is_removed_while_the_agent_is_away(site: Site) -> None:
    """The runtime's DEL succeeds without the agent; what it asked for is done when the agent is back."""
    here = site.kubelets[0]
    pods = [here.pod(f"gone{number}") for number in range(3)]
    for pod in pods:
        here.run(pod)
    site.ledger.settled(pods=3)
    host = site.hosts[0]
    site.cluster.agents[host.name].stop()
    try:
        for pod in pods:
            sandbox = here.sandboxes(pod)[0].id
            here.runtime.cri.stop_sandbox(sandbox)
            here.runtime.cri.remove_sandbox(sandbox)
            assert here.sandboxes(pod) == []
    finally:
        site.cluster.start_agent(host)
        site.cluster.wait_ready()
    site.ledger.settled(pods=0)


def test_a_hundred_pods_in_waves(site: Site) -> None:
    """Five waves of twenty pods at once run together on one host, each reached from the other host, and all end."""
    here, there = site.kubelets
    refused_before = len(here.refusals)
    pods = [here.pod(f"wave{number}") for number in range(100)]
    other = there.pod("other")
    client = there.serve(other, there.run(other))
    with ThreadPoolExecutor(20) as pool:
        sandboxes = [sandbox for wave in waves(pods) for sandbox in pool.map(here.run, wave)]
        addresses = [here.runtime.cri.address(sandbox) for sandbox in sandboxes]
        assert len(set(addresses)) == 100
        site.ledger.settled(pods=101)
        pinged = there.runtime.cri.execute(
            client, "sh", "-c", f"for a in {' '.join(addresses)}; do ping -6 -c 1 -W 5 $a >/dev/null && echo $a; done"
        )
        assert pinged.output.split() == addresses
        for wave in waves(pods):
            list(pool.map(here.remove, wave))
    there.remove(other)
    assert here.refusals[refused_before:] == []
    site.ledger.settled(pods=0)


def waves(pods: list[PodSetting]) -> list[list[PodSetting]]:
    return [pods[start : start + 20] for start in range(0, len(pods), 20)]
