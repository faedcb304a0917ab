# SPDX-License-Identifier: Apache-2.0
"""What is deployed: the API server takes every overlay whole, and the one that runs is well."""

from __future__ import annotations

import ipaddress
import json

import pytest

from lab.kubernetes.cluster import SYSTEM, KubernetesCluster
from lab.kubernetes.control import POD_CIDRS
from lab.process import SOURCE
from tests.cluster.kubectl import Kubectl, eventually

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("overlay", ["own-etcd", "own-etcd-ha", "external-etcd", "kind"])
def test_the_server_takes_it(kube: Kubectl, overlay: str) -> None:
    """By the API server's own dry run, after its defaults, admission and validation."""
    said = kube("apply", "-k", str(SOURCE / "deploy" / overlay), "--dry-run=server", namespaced=False)
    assert "daemonset.apps/ilanet-agent" in said
    assert all(line.endswith("(server dry run)") for line in said.splitlines())


def test_nodes_are_ready_for_pods(kube: Kubectl) -> None:
    """Their start-up taint is taken off, each by its own agent's word."""
    nodes = kube.get("nodes")["items"]
    assert [node["spec"].get("taints", []) for node in nodes] == [[]] * len(nodes)
    events = Kubectl(kube.words, "default").get("events", "--field-selector=reason=IlanetReady")["items"]
    assert {event["involvedObject"]["name"] for event in events} == {node["metadata"]["name"] for node in nodes}


def test_a_condition_and_a_taint_are_taken_back(kube: Kubectl) -> None:
    """A node that comes with the network unavailable, as clouds make them, and with the taint."""
    name = kube.get("nodes")["items"][-1]["metadata"]["name"]
    condition = {"type": "NetworkUnavailable", "status": "True", "reason": "Test", "message": "set by a test"}
    kube("patch", "node", name, "--subresource=status", "-p", json.dumps({"status": {"conditions": [condition]}}))
    kube("taint", "node", name, "ilanet.io/agent-not-ready=:NoSchedule")

    def taken_back() -> None:
        node = kube.get("node", name)
        found = {item["type"]: item["status"] for item in node["status"]["conditions"]}
        assert (found["NetworkUnavailable"], node["spec"].get("taints", [])) == ("False", [])

    eventually(taken_back)


def test_agents_have_no_right_in_kubernetes(kube: Kubectl) -> None:
    """Nor has etcd; the controller has what it needs, and no secret but its own."""
    for account in ("ilanet-agent", "ilanet-etcd"):
        listed = kube(
            "auth", "can-i", "--list", f"--as=system:serviceaccount:{SYSTEM}:{account}", f"-n{SYSTEM}", namespaced=False
        )
        rights = [line.split()[0] for line in listed.splitlines()[1:] if not line.startswith(" ")]
        assert {right.partition(".")[2] for right in rights} <= {"authorization.k8s.io", "authentication.k8s.io"}
    us = f"--as=system:serviceaccount:{SYSTEM}:ilanet-controller"
    rules = kube("auth", "can-i", "--list", us, f"-n{SYSTEM}", namespaced=False).splitlines()
    secrets = [line.split(maxsplit=1)[1] for line in rules if line.startswith("secrets ")]
    assert sorted(" ".join(line.split()) for line in secrets) == ["[] [] [create]", "[] [ilanet-ca] [get]"]


def test_locators_are_where_they_were_chosen(kube: Kubectl, ours: KubernetesCluster) -> None:
    """Each node's podCIDR, where that was asked for; every node's in one space, none twice."""
    nodes = {node["metadata"]["name"]: node for node in kube.get("nodes")["items"]}
    pods = Kubectl(kube.words, SYSTEM).get("pods", "-l", "app.kubernetes.io/component=agent")["items"]
    found = {}
    for pod in pods:
        path = f"/api/v1/namespaces/{SYSTEM}/pods/{pod['metadata']['name']}:9475/proxy/status"
        found[pod["spec"]["nodeName"]] = json.loads(kube("get", "--raw", path))["locator"]
    assert len(set(found.values())) == len(nodes)
    assert all(ipaddress.IPv6Network(text).subnet_of(ipaddress.IPv6Network(POD_CIDRS)) for text in found.values())
    if ours.deploy.name == "kind":
        assert found == {name: node["spec"]["podCIDR"] for name, node in nodes.items()}
