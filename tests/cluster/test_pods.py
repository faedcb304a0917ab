# SPDX-License-Identifier: Apache-2.0
"""Pods of a real Kubernetes: reached by each other, by Services and names; what exec, logs and probes need works."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import pytest

from lab.kubernetes.cluster import KubernetesCluster
from tests.cluster.kubectl import PORT, Kubectl, deployment, eventually, pod_spec, service

pytestmark = pytest.mark.timeout(300)


def name(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["name"])


def address(pod: dict[str, Any]) -> str:
    return str(pod["status"]["podIP"])


def client(answer: str) -> str:
    """Return the address without the port in netexec's answer to /clientip."""
    return answer.rpartition(":")[0].strip("[]")


def test_every_node_is_ready(kube: Kubectl) -> None:
    """A kubelet finds its network ready on every node."""
    for node in kube.get("nodes")["items"]:
        conditions = {one["type"]: one["status"] for one in node["status"]["conditions"]}
        assert conditions["Ready"] == "True"
        assert conditions.get("NetworkUnavailable", "False") == "False"


def test_pods_reach_each_other(kube: Kubectl) -> None:
    """Two pods on every node: each reaches each, itself too, and is seen there with the address that Kubernetes has."""
    count = 2 * len(kube.get("nodes")["items"])
    kube.apply(deployment("web", replicas=count))
    pods = kube.ready("web", count)
    assert len({pod["spec"]["nodeName"] for pod in pods}) == count // 2
    assert len({address(pod) for pod in pods}) == count
    for pod in pods:
        for other in pods:
            assert kube.ask(name(pod), address(other), "/hostname") == name(other)
            assert client(kube.ask(name(pod), address(other), "/clientip")) == address(pod)


def test_a_static_pod(ours: KubernetesCluster, kube: Kubectl) -> None:
    """A kubelet's own pod, whose uid the API server has in an annotation of its mirror only, is reached like others."""
    metadata = {"name": "own", "namespace": kube.namespace, "labels": {"app": "own"}}
    file = ours.nodes[0].static / "own.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod_spec()}))
    try:
        (own,) = kube.ready("own", 1)
        kube.apply(deployment("asks", replicas=1))
        (asks,) = kube.ready("asks", 1)
        assert kube.ask(name(asks), address(own), "/hostname") == name(own)
    finally:
        file.unlink()


def test_services(kube: Kubectl) -> None:
    """A ClusterIP leads to every pod behind it, from a pod of its own too; who asks from outside of it is seen."""
    kube.apply(deployment("web", replicas=3), service("web"), deployment("asks", replicas=1))
    pods = kube.ready("web", 3)
    (asks,) = kube.ready("asks", 1)
    cluster_ip = kube.get("service", "web")["spec"]["clusterIP"]
    wanted = {name(pod) for pod in pods}
    for pod in (*pods, asks):
        _reaches(kube, name(pod), cluster_ip, wanted)
    assert {client(kube.ask(name(asks), cluster_ip, "/clientip", 80)) for _ in range(10)} == {address(asks)}


def _reaches(kube: Kubectl, asking: str, cluster_ip: str, wanted: set[str]) -> None:
    seen: set[str] = set()

    def look() -> None:
        seen.add(kube.ask(asking, cluster_ip, "/hostname", 80))
        assert seen >= wanted

    eventually(look)


def test_names(kube: Kubectl) -> None:
    """A Service's name resolves to its address, a headless one's to all of its pods, by the cluster's DNS server."""
    kube.apply(deployment("web", replicas=2), service("web"))
    headless = service("every", clusterIP="None")
    headless["spec"]["selector"] = {"app": "web"}  # type: ignore[index]
    kube.apply(headless)
    pods = kube.ready("web", 2)
    asking = name(pods[0])

    def resolved(what: str) -> set[str]:
        lines = kube.shell(asking, f"nslookup -type=aaaa {what}.{kube.namespace}.svc.cluster.local").splitlines()
        return {line.split()[-1] for line in lines[2:] if line.startswith("Address")}

    cluster_ip = kube.get("service", "web")["spec"]["clusterIP"]
    eventually(lambda: _same(resolved("web"), {cluster_ip}))
    eventually(lambda: _same(resolved("every"), {address(pod) for pod in pods}))


def _silent(answer: str) -> None:
    assert not answer


def _same(found: set[str], wanted: set[str]) -> None:
    assert {ipaddress.ip_address(one) for one in found} == {ipaddress.ip_address(one) for one in wanted}


def test_pod_to_nodes_and_to_the_api_server(kube: Kubectl) -> None:
    """A pod reaches every node's kubelet and, by its Service, the API server, which asks back who it is."""
    kube.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one", "labels": {"app": "one"}},
                "spec": pod_spec()})  # fmt: skip
    kube.ready("one", 1)
    for node in kube.get("nodes")["items"]:
        internal = next(one["address"] for one in node["status"]["addresses"] if one["type"] == "InternalIP")
        kube("exec", "one", "--", "/agnhost", "connect", f"[{internal}]:10250", "--timeout=5s")
    kube("exec", "one", "--", "/agnhost", "connect", "kubernetes.default.svc.cluster.local:443", "--timeout=5s")


def test_exec_and_logs(kube: Kubectl) -> None:
    """The API server reaches the kubelet of every node for exec and logs."""
    count = len(kube.get("nodes")["items"])
    kube.apply(deployment("web", replicas=count))
    for pod in kube.ready("web", count):
        assert kube.shell(name(pod), "hostname").strip() == name(pod)
        assert str(PORT) in kube("logs", name(pod))


def test_a_pod_ends(kube: Kubectl) -> None:
    """The address of a pod that has been deleted answers nobody; one that takes its place has another."""
    kube.apply(deployment("web", replicas=2))
    first, second = kube.ready("web", 2)
    kube("delete", "pod", name(second), "--wait=true")
    eventually(lambda: _silent(kube.ask(name(first), address(second), "/hostname")))
    replacement = next(pod for pod in kube.ready("web", 2) if name(pod) != name(first))
    assert address(replacement) != address(second)
    assert kube.ask(name(first), address(replacement), "/hostname") == name(replacement)


def test_session_affinity(kube: Kubectl) -> None:
    """A client that is to stay with one backend does, whichever it was first; another one may have another."""
    count = len(kube.get("nodes")["items"])
    kube.apply(deployment("web", replicas=count), service("web", sessionAffinity="ClientIP"))
    pods = [pod["metadata"]["name"] for pod in kube.ready("web", count)]
    address = kube.get("service", "web")["spec"]["clusterIP"]
    for pod in pods:
        eventually(lambda pod=pod: _answered(kube, pod, address))  # type: ignore[misc]
        asked = {kube.ask(pod, address, "/hostname", port=80) for _ in range(10)}
        assert len(asked) == 1
        assert asked <= set(pods)


def _answered(kube: Kubectl, pod: str, address: str) -> None:
    assert kube.ask(pod, address, "/hostname", port=80)
