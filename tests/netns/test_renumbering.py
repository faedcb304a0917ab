# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time
import urllib.error
from collections.abc import Callable

from agent.node import RENUMBERED
from lab.fabric import Host, Shape
from tests.netns.conftest import Net, built, ping

NEW = "fd00:a::103"


def until(true: Callable[[], bool], seconds: float) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def health(net: Net, host: Host) -> str:
    """Return what an agent answers to the kubelet's liveness probe."""
    try:
        return net.cluster.ask(host.namespace, "/healthz")
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode()}"


def test_a_node_changes_its_address_on_one_layer_2() -> None:
    """Its agent asks for a new start, as a kubelet gives it; then peers reach its pods by the new address."""
    with built(Shape.LAYER2, "stack") as net:
        cluster, peer, host = net.cluster, net.hosts[0], net.hosts[2]
        ping(net.pod("a1").namespace, net.pod("c1").address)
        host.namespace.ip("address", "add", f"{NEW}/64", "dev", host.device, "nodad")
        host.namespace.ip("address", "del", f"{host.address}/64", "dev", host.device)
        assert health(net, host) == "ok\n"
        until(lambda: health(net, host).startswith("503"), RENUMBERED + 5)
        assert f"{host.address}, but {NEW}: the agent must be started with the new one" in health(net, host)
        cluster.agents[host.name].stop()
        cluster.start_agent(host, address=NEW)
        until(lambda: f"via {NEW} " in peer.namespace.ip("route", "show", str(host.locator)), 20)
        cluster.pod("c2", host)
        assert health(net, host) == "ok\n"
        for source, target in (("a1", "c1"), ("c1", "b1"), ("b1", "c2"), ("c2", "c1")):
            ping(net.pod(source).namespace, net.pod(target).address)
        for pod in ("b1", "c1", "c2"):
            ping(host.namespace, net.pod(pod).address)
