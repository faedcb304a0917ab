# SPDX-License-Identifier: Apache-2.0
"""Doors on nodes: NodePorts in both traffic policies, host ports by portmap, and a bandwidth that is limited."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.cluster.kubectl import PORT, Kubectl, deployment, eventually, pod_spec, service

pytestmark = pytest.mark.timeout(300)


def internal(node: dict[str, Any]) -> str:
    """Return a node's address."""
    return str(next(one["address"] for one in node["status"]["addresses"] if one["type"] == "InternalIP"))


def test_node_ports(kube: Kubectl) -> None:
    """Every node's port leads to a pod; with the policy Local only that of the pod's node, and it sees who asks."""
    nodes = kube.get("nodes")["items"]
    kube.apply(deployment("web", replicas=1), deployment("asks", replicas=len(nodes)))
    kube.apply(service("web", type="NodePort"))
    local = service("local", type="NodePort", externalTrafficPolicy="Local")
    local["spec"]["selector"] = {"app": "web"}  # type: ignore[index]
    kube.apply(local)
    (web,) = kube.ready("web", 1)
    asking = kube.ready("asks", len(nodes))
    port = kube.get("service", "web")["spec"]["ports"][0]["nodePort"]
    there = kube.get("service", "local")["spec"]["ports"][0]["nodePort"]
    for pod in asking:
        for node in nodes:
            _answered(kube, pod, internal(node), port, web["metadata"]["name"])
        home = next(node for node in nodes if node["metadata"]["name"] == web["spec"]["nodeName"])
        _answered(kube, pod, internal(home), there, web["metadata"]["name"])
        seen = kube.ask(pod["metadata"]["name"], internal(home), "/clientip", there)
        assert pod["status"]["podIP"] in seen


def _answered(kube: Kubectl, pod: dict[str, Any], host: str, port: int, name: str) -> None:
    def look() -> None:
        assert kube.ask(pod["metadata"]["name"], host, "/hostname", port) == name

    eventually(look)


def test_host_port(kube: Kubectl) -> None:
    """A pod's host port answers on its node's address, from pods of every node."""
    nodes = kube.get("nodes")["items"]
    spec: dict[str, Any] = pod_spec()
    spec["containers"][0]["ports"] = [{"containerPort": PORT, "hostPort": 18080}]
    kube.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "door", "labels": {"app": "door"}}, "spec": spec}
    )
    kube.apply(deployment("asks", replicas=len(nodes)))
    (door,) = kube.ready("door", 1)
    home = next(node for node in nodes if node["metadata"]["name"] == door["spec"]["nodeName"])
    for pod in kube.ready("asks", len(nodes)):
        _answered(kube, pod, internal(home), 18080, "door")


def test_bandwidth_annotation(kube: Kubectl) -> None:
    """A pod that may send 8 Mbit/s needs a second for a megabyte; one without a limit does not."""
    limit = {"kubernetes.io/egress-bandwidth": "8M", "kubernetes.io/ingress-bandwidth": "8M"}
    for name, limits in (("slow", limit), ("fast", {}), ("other", {})):
        metadata = {"name": name, "labels": {"app": name}, "annotations": limits}
        kube.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod_spec()})
    for name in ("slow", "fast", "other"):
        kube.ready(name, 1)
    assert _seconds(kube, "fast", "other", 8) < 2
    assert _seconds(kube, "slow", "other", 4) > 2.5
    assert _seconds(kube, "other", "slow", 4) > 2.5


def _seconds(kube: Kubectl, sender: str, receiver: str, megabytes: int) -> float:
    """Return how long so many megabytes take from one pod into another, by the sender's clock until all has arrived."""
    address, clock = kube.get("pod", receiver)["status"]["podIP"], "read now rest </proc/uptime; echo $now"
    listen = f"nc -l -p 9000 -e sh -c 'head -c {megabytes << 20} | wc -c'"
    send = f"{clock}; head -c {megabytes << 20} /dev/zero | nc {address} 9000; {clock}"
    with ThreadPoolExecutor(1) as pool:
        receiving = pool.submit(kube.shell, receiver, listen)
        eventually(lambda: kube.shell(receiver, "grep -q :2328 /proc/net/tcp6"))
        begin, arrived, end = kube.shell(sender, send).split()
        receiving.result()
    assert int(arrived) == megabytes << 20
    return float(end) - float(begin)
