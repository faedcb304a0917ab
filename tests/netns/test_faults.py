# SPDX-License-Identifier: Apache-2.0
"""Any process may be killed at any moment: established traffic loses no packet, records survive, new pods come up."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from lab.fabric import Shape
from lab.namespace import CommandError
from lab.runtime import CniError, Pod
from tests.netns.conftest import Flow, Net, built, connect, greet, listen, ping

OUTAGE = float(os.environ.get("OUTAGE", "1"))
"""Seconds for which etcd is away while traffic flows and pods start; a minute on demand."""

SPREAD = 10
"""Pods that start, one after the other, in the course of the outage."""


@pytest.fixture(scope="module", params=["routed-stack", "layer2-bpf"])
def shaken(request: pytest.FixtureRequest) -> Iterator[Net]:
    """Yield a cluster for tests that kill; the extremes of the variants."""
    shape, _, host_path = request.param.partition("-")
    with built(Shape(shape), host_path) as found:
        yield found


def kill_agent(net: Net) -> None:
    for host in net.hosts[:2]:
        net.cluster.agents[host.name].kill()
    time.sleep(0.3)
    for host in net.hosts[:2]:
        net.cluster.start_agent(host)
    net.cluster.wait_ready()


def kill_agent_again_and_again(net: Net) -> None:
    """Kill the agent at moments spread over its start, whatever it is doing then."""
    host = net.hosts[0]
    for pause in (0.05, 0.2, 0.35, 0.4, 0.45, 0.5, 0.6):
        net.cluster.agents[host.name].kill()
        net.cluster.start_agent(host)
        time.sleep(pause)
    net.cluster.wait_ready()


def kill_controllers(net: Net) -> None:
    for process in net.cluster.controllers:
        process.kill()
    time.sleep(0.5)
    for process in net.cluster.controllers:
        process.start()


def kill_etcd(net: Net) -> None:
    assert net.cluster.etcd is not None
    net.cluster.etcd.kill()
    time.sleep(0.5)
    net.cluster.etcd.start()


def freeze_everything(net: Net) -> None:
    processes = [*net.cluster.agents.values(), *net.cluster.controllers]
    for process in processes:
        process.signal(signal.SIGSTOP)
    time.sleep(0.5)
    for process in processes:
        process.signal(signal.SIGCONT)


@pytest.mark.parametrize(
    "harm", [kill_agent, kill_agent_again_and_again, kill_controllers, kill_etcd, freeze_everything]
)
def test_no_packet_of_established_traffic_is_lost(shaken: Net, harm: Callable[[Net], None]) -> None:
    """Numbered datagrams in both directions arrive complete through the fault, a TCP connection goes on, ADD works."""
    a1, b1 = shaken.pod("a1"), shaken.pod("b1")
    server, client = listen(b1.namespace, b1.address, 7200), connect(a1.namespace, b1.address, 7200)
    with server, client:
        end, _ = server.accept()
        with end:
            flows = [Flow(a1, b1, seconds=4, port=9001), Flow(b1, a1, seconds=4, port=9002)]
            time.sleep(0.3)
            harm(shaken)
            for flow in flows:
                loss = flow.finish()
                assert (loss.lost, loss.repeated) == (0, 0), loss
            client.sendall(b"still here")
            assert end.recv(100) == b"still here"
    fresh = add_soon(shaken, f"fresh-{harm.__name__.replace('_', '-')}")
    ping(fresh.namespace, b1.address)
    remove(shaken, fresh)


def add_soon(net: Net, name: str) -> Pod:
    """Add a pod on the first host as the kubelet does: again while the answer is 'try again later'."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return net.cluster.pod(name, net.hosts[0])
        except CniError as error:
            net.cluster.pods.pop(name).namespace.close()
            if error.code != 11 or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def remove(net: Net, pod: Pod) -> None:
    pod.delete()
    net.cluster.pods.pop(pod.name)
    pod.namespace.close()


def links(net: Net, number: int = 0) -> int:
    """Count the host's ends of pods on a host."""
    return net.hosts[number].namespace.run("ip", "-br", "link").count("ila")


def test_an_agent_killed_in_the_middle_of_adds_leaks_no_link(shaken: Net) -> None:
    """Kills at seven moments of seven ADDs: a retry works, and after its DEL no link and no mapping is left."""
    host = shaken.hosts[0]
    before_links, before_mappings = links(shaken), mappings(shaken)
    for number, pause in enumerate((0.0, 0.002, 0.005, 0.01, 0.015, 0.02, 0.04)):
        name = f"killed{number}"
        errors: list[Exception] = []
        thread = threading.Thread(target=attempt, args=(shaken, name, errors))
        thread.start()
        time.sleep(0.05 + pause)
        shaken.cluster.agents[host.name].kill()
        thread.join()
        shaken.cluster.start_agent(host)
        shaken.cluster.wait_ready()
        pod = shaken.cluster.pods[name]
        pod.add()
        shaken.cluster.wait_published(pod, host)
        ping(pod.namespace, shaken.pod("c1").address)
        remove(shaken, pod)
    assert links(shaken) == before_links
    until_mapped(shaken, before_mappings)


def test_an_agent_starts_beside_a_link_that_an_add_left_half_made(shaken: Net) -> None:
    """A link that never came up, with its record on disk, keeps nobody from being served; its own ADD makes it anew."""
    host = shaken.hosts[0]
    half = add_soon(shaken, "half-made")
    shaken.cluster.agents[host.name].kill()
    host.namespace.ip("link", "set", half.result["interfaces"][0]["name"], "down")
    shaken.cluster.start_agent(host)
    shaken.cluster.wait_ready()
    other = add_soon(shaken, "beside")
    ping(other.namespace, shaken.pod("b1").address)
    half.add()
    ping(half.namespace, shaken.pod("b1").address)
    remove(shaken, other)
    remove(shaken, half)


def attempt(net: Net, name: str, errors: list[Exception]) -> None:
    try:
        net.cluster.pod(name, net.hosts[0])
    except CniError as error:
        errors.append(error)


def mappings(net: Net) -> int:
    """Count the mappings in etcd."""
    assert net.cluster.etcd is not None
    return len(net.cluster.etcd.ctl("get", "--prefix", "--keys-only", "/ilanet/v1/mappings/").split())


def until_mapped(net: Net, count: int) -> None:
    """Wait until etcd holds so many mappings."""
    deadline = time.monotonic() + 30
    while (found := mappings(net)) != count:
        assert time.monotonic() < deadline, f"{found} mappings, not {count}"
        time.sleep(0.1)


def test_delete_works_without_controllers_and_etcd(shaken: Net) -> None:
    """DEL succeeds while nobody answers; the identifier is given back as soon as somebody does."""
    pod = add_soon(shaken, "orphan")
    before = mappings(shaken)
    for process in shaken.cluster.controllers:
        process.kill()
    remove(shaken, pod)
    assert mappings(shaken) == before
    for process in shaken.cluster.controllers:
        process.start()
    until_mapped(shaken, before - 1)


def test_an_agent_starts_and_serves_what_it_has_without_anybody(shaken: Net) -> None:
    """With etcd and controllers gone an agent restarts, keeps its pods reachable, starts pods and says what it cannot.

    A pod keyed by its uid starts from the reserve, works on this node, and is published when somebody is back; one
    that keeps its address has to wait.
    """
    before = mappings(shaken)
    assert shaken.cluster.etcd is not None
    host = shaken.hosts[0]
    while not shaken.cluster.status(host)["reserve"]:
        time.sleep(0.1)
    shaken.cluster.etcd.kill()
    for process in shaken.cluster.controllers:
        process.kill()
    try:
        shaken.cluster.agents[host.name].kill()
        shaken.cluster.start_agent(host)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                if shaken.cluster.status(host)["serving"]:
                    break
            except (OSError, CommandError):
                time.sleep(0.05)
        ping(shaken.pod("a1").namespace, shaken.pod("b1").address)
        ping(shaken.pod("c1").namespace, shaken.pod("a2").address)
        alone = shaken.cluster.pod("alone", host, wait=False)
        ping(alone.namespace, shaken.pod("a2").address)
        alone.check()
        with pytest.raises(CniError) as caught:
            shaken.cluster.pod("impossible", host, keep_address=True, wait=False)
        assert caught.value.code == 11
        assert "publication" in shaken.cluster.status(host)["problems"]
    finally:
        shaken.cluster.pods.pop("impossible").namespace.close()
        shaken.cluster.etcd.start()
        for process in shaken.cluster.controllers:
            process.start()
        shaken.cluster.wait_ready()
    until_mapped(shaken, before + 1)
    shaken.cluster.wait_published(alone, host)
    ping(shaken.pod("c1").namespace, alone.address)
    remove(shaken, alone)
    until_mapped(shaken, before)
    remove(shaken, add_soon(shaken, "possible"))


@pytest.mark.timeout(120 + 2 * OUTAGE)
def test_traffic_and_adds_go_on_while_etcd_is_away(shaken: Net) -> None:
    """No packet between hosts is lost, and pods start from the reserve: they work here at once, and afterwards there.

    Pods that were there before take new connections from other hosts all the time.
    """
    assert shaken.cluster.etcd is not None
    before = mappings(shaken)
    host = shaken.hosts[0]
    while shaken.cluster.status(host)["reserve"] < SPREAD:
        time.sleep(0.1)
    a1, b1, c1 = map(shaken.pod, ("a1", "b1", "c1"))
    flows = [Flow(a1, b1, seconds=OUTAGE + 8, port=9011), Flow(b1, a1, seconds=OUTAGE + 8, port=9012)]
    time.sleep(0.3)
    shaken.cluster.etcd.kill()
    pods = []
    try:
        for number in range(SPREAD):
            time.sleep(OUTAGE / SPREAD)
            pods.append(shaken.cluster.pod(f"during{number}", host, wait=False))
            ping(pods[-1].namespace, a1.address)
            assert greet(c1.namespace, b1.namespace, b1.address, 7400 + number) == c1.address
    finally:
        shaken.cluster.etcd.start()
    for flow in flows:
        loss = flow.finish()
        assert (loss.lost, loss.repeated) == (0, 0), loss
    until_mapped(shaken, before + SPREAD)
    for pod in pods:
        shaken.cluster.wait_published(pod, host)
        ping(c1.namespace, pod.address)
        remove(shaken, pod)
    until_mapped(shaken, before)


def test_traffic_survives_the_loss_of_all_of_etcd(shaken: Net) -> None:
    """Etcd comes back empty: the epoch rises, every node fills its own pods in again, and no packet is lost."""
    assert shaken.cluster.etcd is not None
    flows = [Flow(shaken.pod("a1"), shaken.pod("b1"), seconds=8, port=9003)]
    time.sleep(0.3)
    before = mappings(shaken)
    shaken.cluster.etcd.stop()
    shaken.cluster.etcd.wipe()
    shaken.cluster.etcd.start()
    shaken.cluster.etcd.set_up_users()
    until_mapped(shaken, before)
    loss = flows[0].finish()
    assert (loss.lost, loss.repeated) == (0, 0), loss
    shaken.cluster.wait_ready()
    assert greet(shaken.pod("c1").namespace, shaken.pod("a2").namespace, shaken.pod("a2").address, 7300)
    assert int(shaken.cluster.status(shaken.hosts[0])["generation"].split("/")[0]) >= 2
    remove(shaken, add_soon(shaken, "afterwards"))
