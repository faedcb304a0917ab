# SPDX-License-Identifier: Apache-2.0
"""Doors on nodes: NodePorts in both traffic policies, host ports by portmap, and a bandwidth that is limited."""

from __future__ import annotations

from typing import Any

import pytest

from lab.fabric import OUTSIDE
from lab.kubernetes.cluster import KubernetesCluster
from tests.cluster.kubectl import PORT, Kubectl, deployment, eventually, pod_spec, service
from tests.cluster.outside import ask_from_outside

pytestmark = pytest.mark.timeout(300)


def internal(node: dict[str, Any]) -> str:
    """Return a node's address."""
    return str(next(one["address"] for one in node["status"]["addresses"] if one["type"] == "InternalIP"))


def test_node_ports(kube: Kubectl) -> None:
    """Every node's port leads pods to a pod; with the policy Local it sees who asks."""
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


def test_node_ports_from_outside(ours: KubernetesCluster, kube: Kubectl) -> None:
    """Every node's port answers; with the policy Local only that of the pod's node, whose pod sees the real client."""
    nodes = kube.get("nodes")["items"]
    kube.apply(deployment("web", replicas=1))
    kube.apply(service("web", type="NodePort"))
    local = service("local", type="NodePort", externalTrafficPolicy="Local")
    local["spec"]["selector"] = {"app": "web"}  # type: ignore[index]
    kube.apply(local)
    (web,) = kube.ready("web", 1)
    everywhere, there = (kube.get("service", name)["spec"]["ports"][0]["nodePort"] for name in ("web", "local"))

    def answered() -> None:
        for node in nodes:
            home = node["metadata"]["name"] == web["spec"]["nodeName"]
            name = web["metadata"]["name"]
            assert ask_from_outside(ours, internal(node), "/hostname", everywhere) == name
            assert ask_from_outside(ours, internal(node), "/hostname", there) == (name if home else "")
            assert (f"[{OUTSIDE}]:" in ask_from_outside(ours, internal(node), "/clientip", there)) == home

    eventually(answered)


def _answered(kube: Kubectl, pod: dict[str, Any], host: str, port: int, name: str) -> None:
    def look() -> None:
        assert kube.ask(pod["metadata"]["name"], host, "/hostname", port) == name

    eventually(look)


def door_pod(kube: Kubectl, number: int) -> dict[str, Any]:
    """Make a pod with that host port and return it."""
    spec: dict[str, Any] = pod_spec()
    spec["containers"][0]["ports"] = [{"containerPort": PORT, "hostPort": number}]
    kube.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "door", "labels": {"app": "door"}}, "spec": spec}
    )
    return kube.ready("door", 1)[0]


def test_host_port(kube: Kubectl) -> None:
    """A pod's host port answers on its node's address, from pods of every node."""
    nodes = kube.get("nodes")["items"]
    kube.apply(deployment("asks", replicas=len(nodes)))
    door = door_pod(kube, 18080)
    home = next(node for node in nodes if node["metadata"]["name"] == door["spec"]["nodeName"])
    for pod in kube.ready("asks", len(nodes)):
        _answered(kube, pod, internal(home), 18080, "door")


def test_host_port_from_outside(ours: KubernetesCluster, kube: Kubectl) -> None:
    """It answers there on its node's address, and on no other's."""
    door = door_pod(kube, 18081)

    def answered() -> None:
        for node in kube.get("nodes")["items"]:
            home = node["metadata"]["name"] == door["spec"]["nodeName"]
            assert ask_from_outside(ours, internal(node), "/hostname", 18081) == ("door" if home else "")

    eventually(answered)


def test_bandwidth_annotation(kube: Kubectl) -> None:
    """A pod with a limit starts, is reached, and its node holds it to both rates: how well, tests/netns shows."""
    limit = {"kubernetes.io/egress-bandwidth": "8M", "kubernetes.io/ingress-bandwidth": "8M"}
    metadata = {"name": "slow", "labels": {"app": "slow"}, "annotations": limit}
    kube.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod_spec()})
    (slow,) = kube.ready("slow", 1)
    spec = {**pod_spec(), "hostNetwork": True, "nodeName": slow["spec"]["nodeName"]}
    spec["containers"][0]["args"] = ["pause"]
    del spec["containers"][0]["readinessProbe"]
    kube.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "host", "labels": {"app": "host"}}, "spec": spec}
    )
    kube.ready("host", 1)
    assert kube.ask("host", slow["status"]["podIP"], "/hostname") == "slow"
    shown = kube.shell("host", "/bin/busybox tc qdisc show")
    assert shown.count("qdisc tbf") == 2, shown
