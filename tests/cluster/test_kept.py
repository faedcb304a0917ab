# SPDX-License-Identifier: Apache-2.0
"""Pods that keep their address: a StatefulSet's pod comes back on another node and is reached where it was."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.kubectl import Kubectl, deployment, eventually, stateful_set

pytestmark = pytest.mark.timeout(300)


def test_comes_back_on_another_node_with_its_address(kube: Kubectl) -> None:
    """Deleted while its node takes no pods: the pod of its name has its address elsewhere, and its peers reach it."""
    kube.apply(stateful_set("db", 1), deployment("web", replicas=len(kube.get("nodes")["items"])))
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
        assert kube.ask(peer["metadata"]["name"], address, "/hostname") == "db-0"


def _come_back(kube: Kubectl, before: dict[str, Any]) -> dict[str, Any]:
    pods = kube.pods("db")
    assert [pod["metadata"]["uid"] for pod in pods] != [before["metadata"]["uid"]]
    assert len(pods) == 1
    return pods[0]
