# SPDX-License-Identifier: Apache-2.0
"""Debian's plugins after ours, by the list that the agent wrote: host ports answer, limits limit, sysctls are set."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import pytest

from lab.chain import DEBIAN_PLUGINS, Chain
from lab.fabric import Shape
from lab.namespace import Namespace, run
from lab.runtime import Pod
from tests.netns.conftest import Net, built, connect, greet, listen

RATE = 800_000
"""Bits a second."""

BURST = 80_000
"""Bits that pass at once before."""

SIZE = 400_000
"""Bytes of a transfer: four seconds at RATE."""

NEAR = 0.85 * RATE
"""What a transfer reaches, with room for a busy machine: 755 kbit/s, since the headers are limited too."""

ROUNDS = 4
"""Transfers at most until one has not been slowed by a busy machine."""


@pytest.fixture(scope="module", params=["stack", "bpf"])
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    """Yield a cluster whose agents find Debian's plugins."""
    chain = {
        "cni_plugins": str(DEBIAN_PLUGINS),
        "cni_chain": ["portmap", "bandwidth", "tuning"],
        "cni_sysctls": ["net.ipv6.conf.IFNAME.hop_limit=33", "net.ipv4.tcp_rmem = 4096 100000 200000"],
    }
    with built(Shape.ROUTED, request.param, **chain) as found:
        yield found


@pytest.fixture
def chain(net: Net) -> Chain:
    host = net.hosts[0]
    return Chain(conflist=net.cluster.conflist(host), host=host.namespace)


@pytest.fixture
def pod(net: Net, chain: Chain) -> Iterator[Pod]:
    """Yield a pod on the first host that is not attached yet; nothing of it may be left when the test ends."""
    host = net.hosts[0]
    before = state(host.namespace)
    made = Pod(
        namespace=Namespace.create(f"{net.cluster.name}-chained"),
        name="chained",
        uid="uid-chained",
        container_id="chained",
        socket=net.cluster.socket(host),
        queue=net.cluster.queue(host),
    )
    yield made
    chain.delete(made)
    made.namespace.close()
    assert state(host.namespace) == before


def state(host: Namespace) -> tuple[list[str], list[str]]:
    """Return a host's devices, and its rules that forward a port."""
    devices = [link["ifname"] for link in json.loads(host.run("ip", "-j", "link"))]
    rules = [line for line in host.run("ip6tables-save").splitlines() if "--to-destination" in line]
    return devices, rules


def seconds_to_send(source: Namespace, target: Namespace, address: str) -> float:
    """Return how long SIZE bytes take from one namespace to another, to their last byte."""
    received: list[int] = []

    def take() -> None:
        end, _ = listener.accept()
        with end:
            end.settimeout(60)
            while part := end.recv(1 << 16):
                received.append(len(part))

    with listen(target, address, 5001) as listener:
        thread = threading.Thread(target=take)
        thread.start()
        started = time.monotonic()
        with connect(source, address, 5001) as out:
            out.settimeout(60)
            out.sendall(bytes(SIZE))
        thread.join()
        took = time.monotonic() - started
    assert sum(received) == SIZE
    return took


def rate(source: Namespace, target: Namespace, address: str) -> float:
    """Return the bits a second of a transfer without its burst: the best of some rounds, until one is near RATE.

    A busy machine makes it less, and nothing makes it more.
    """
    best = 0.0
    for _ in range(ROUNDS):
        best = max(best, (SIZE * 8 - BURST) / seconds_to_send(source, target, address))
        if best > NEAR:
            break
    print(f"{best / 1000:.0f} kbit/s")
    return best


def test_the_agent_lists_what_works_here(chain: Chain) -> None:
    """All three, on a kernel with tcx."""
    assert chain.types == ["ilanet", "portmap", "bandwidth", "tuning"]


def test_a_host_port_answers(net: Net, chain: Chain, pod: Pod) -> None:
    """From another host, from a pod of another host and from a pod of this host; the pod sees who asks."""
    host = net.hosts[0]
    chain.add(pod, portMappings=[{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}])
    for client in (net.hosts[1].namespace, net.pod("b1").namespace, net.pod("a1").namespace):
        source = greet(client, pod.namespace, host.address, 8080, listen_port=80, bind=pod.address)
        assert source in (net.hosts[1].address, net.pod("b1").address, net.pod("a1").address)


def test_a_limit_is_what_it_says_both_ways(net: Net, chain: Chain, pod: Pod) -> None:
    """800 kbit/s in and out, to another host and to a pod next door; a pod without a limit is not slowed."""
    limits = {"ingressRate": RATE, "ingressBurst": BURST, "egressRate": RATE, "egressBurst": BURST}
    chain.add(pod, bandwidth=limits)
    for other in (net.pod("b1"), net.pod("a1")):
        for source, target in ((pod, other), (other, pod)):
            assert NEAR < rate(source.namespace, target.namespace, target.address) < RATE
    free = net.pod("a2")
    assert seconds_to_send(free.namespace, net.pod("b1").namespace, net.pod("b1").address) < SIZE * 8 / RATE / 2
    qdiscs = run(*net.hosts[0].namespace.prefix, "tc", "qdisc", "show", "dev", pod.result["interfaces"][0]["name"])
    assert "tbf" in qdiscs


def test_a_limit_outlives_the_agent(net: Net, chain: Chain, pod: Pod) -> None:
    """After a kill and a restart the pod is attached as before, and its limit holds."""
    chain.add(pod, bandwidth={"egressRate": RATE, "egressBurst": BURST})
    host = net.hosts[0]
    net.cluster.agents[host.name].kill()
    net.cluster.start_agent(host)
    net.cluster.wait_ready()
    pod.check()
    other = net.pod("b1")
    assert NEAR < rate(pod.namespace, other.namespace, other.address) < RATE


def test_tuning_sets_what_the_agent_was_told(net: Net, chain: Chain, pod: Pod) -> None:
    """In the pod, on the interface that we made; the host keeps its own."""
    names = ("net.ipv6.conf.{}.hop_limit", "net.ipv4.tcp_rmem")
    chain.add(pod)
    set_, kept = (
        [place.run("sysctl", "-n", name.format(device)).split() for name in names]
        for place, device in ((pod.namespace, "eth0"), (net.hosts[0].namespace, "lo"))
    )
    assert set_ == [["33"], ["4096", "100000", "200000"]]
    assert not set(map(tuple, set_)) & set(map(tuple, kept))
    chain.check(pod)
    pod.check()
