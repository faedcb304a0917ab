# SPDX-License-Identifier: Apache-2.0
"""Pods and what is no part of the cluster: they reach it with their node's address, of either version of IP."""

from __future__ import annotations

import pytest

from lab.fabric import OUTSIDE, OUTSIDE_IPV4, host_ipv4
from lab.kubernetes.cluster import KubernetesCluster
from tests.cluster.kubectl import Kubectl, deployment
from tests.cluster.outside import PORT, outside

pytestmark = pytest.mark.timeout(300)


def test_pods_reach_the_outside(ours: KubernetesCluster, kube: Kubectl) -> None:
    """From every node, by that node's address; among themselves their own is seen."""
    nodes = {node["metadata"]["name"]: node["status"]["addresses"][0]["address"] for node in kube.get("nodes")["items"]}
    kube.apply(deployment("web", replicas=len(nodes)))
    pods = kube.ready("web", len(nodes))
    with outside(ours, OUTSIDE):
        for pod in pods:
            name = pod["metadata"]["name"]
            assert kube.ask(name, OUTSIDE, "/", PORT) == nodes[pod["spec"]["nodeName"]]
            for other in pods:
                assert pod["status"]["podIP"] in kube.ask(name, other["status"]["podIP"], "/clientip")


def test_pods_reach_what_has_ipv4_alone(ours: KubernetesCluster, kube: Kubectl) -> None:
    """Where the setting says so, by that address of their node; to Kubernetes each has its SIR address and no other."""
    nodes = {host.name: host_ipv4(host) for host in ours.lab.hosts}
    kube.apply(deployment("web", replicas=len(nodes)))
    pods = kube.ready("web", len(nodes))
    with outside(ours, OUTSIDE_IPV4):
        for pod in pods:
            seen = kube.ask(pod["metadata"]["name"], OUTSIDE_IPV4, "/", PORT)
            assert seen == (nodes[pod["spec"]["nodeName"]] if ours.deploy.name == "kind" else "")
            assert [entry["ip"] for entry in pod["status"]["podIPs"]] == [pod["status"]["podIP"]]
            assert ":" in pod["status"]["podIP"]
