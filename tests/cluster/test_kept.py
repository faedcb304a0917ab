# SPDX-License-Identifier: Apache-2.0
"""Pods that keep their address: a StatefulSet's pod comes back on another node and is reached where it was."""

from __future__ import annotations

from typing import Any

import pytest

from lab.kubernetes.cluster import KubernetesCluster
from tests.cluster.kubectl import Kubectl, deployment, eventually, service, stateful_set

pytestmark = pytest.mark.timeout(300)


def test_comes_back_on_another_node_with_its_address(kube: Kubectl) -> None:
    """Deleted while its node takes no pods: it has its address elsewhere, where peers reach it, by its names too."""
    headless = service("db", clusterIP="None")
    kube.apply(stateful_set("db", 1), headless, deployment("web", replicas=len(kube.get("nodes")["items"])))
    (before,) = kube.ready("db", 1)
    peers = kube.ready("web", len(kube.get("nodes")["items"]))
    node, address = before["spec"]["nodeName"], before["status"]["podIP"]
    for peer in peers:
        assert kube.ask(peer["metadata"]["name"], address, "/hostname") == "db-0"
    kube("cordon", node)
    try:
        kube("delete", "pod", "db-0", "--wait=true")
        after = eventually(lambda: _come_back(kube, before))
    finally:
        kube("uncordon", node)
    assert after["spec"]["nodeName"] != node
    assert after["status"]["podIP"] == address
    for peer in peers:
        for host in (address, "db", "db-0.db"):  # its names need not wait for a TTL: they lead where they did
            assert kube.ask(peer["metadata"]["name"], host, "/hostname") == "db-0"


def test_a_cut_off_node_does_not_win(ours: KubernetesCluster, kube: Kubectl) -> None:
    """Its pod, deleted by force, comes up elsewhere: peers reach that one, also once the node is back."""
    last = ours.lab.hosts[-1]
    others = [host.name for host in ours.lab.hosts[:-1]]
    for name in others:
        kube("cordon", name)
    try:
        kube.apply(stateful_set("db", 1))
        (before,) = kube.ready("db", 1)
    finally:
        for name in others:
            kube("uncordon", name)
    assert before["spec"]["nodeName"] == last.name
    kube("cordon", last.name)
    try:
        kube.apply(deployment("web", replicas=1))
        (peer,) = kube.ready("web", 1)
        address = before["status"]["podIP"]
        assert kube.ask(peer["metadata"]["name"], address, "/hostname") == "db-0"
        ours.lab.fabric.unplug(last)
        try:
            kube("delete", "pod", "db-0", "--force", "--grace-period=0")
            after = eventually(lambda: _come_back(kube, before))
            assert after["status"]["podIP"] == address
            eventually(lambda: _is_at(kube, peer, address, after))
        finally:
            ours.lab.fabric.plug(last)
        kube("wait", "--for=condition=Ready", f"node/{last.name}", "--timeout=90s")
        for _ in range(20):
            _is_at(kube, peer, address, after)
    finally:
        kube("uncordon", last.name)


def _is_at(kube: Kubectl, peer: dict[str, Any], address: str, pod: dict[str, Any]) -> None:
    """See that a pod, and no other of its name, answers a peer at an address.

    A peer's agent that had its mappings from an etcd on the node that is cut off hears of the new one only once its
    connection counts as dead.
    """
    said = kube.ask(peer["metadata"]["name"], address, "/shell?cmd=echo+$POD_UID")
    assert pod["metadata"]["uid"] in said


def _come_back(kube: Kubectl, before: dict[str, Any]) -> dict[str, Any]:
    pods = kube.pods("db")
    assert [pod["metadata"]["uid"] for pod in pods] != [before["metadata"]["uid"]]
    assert len(pods) == 1
    return pods[0]
