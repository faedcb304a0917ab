# SPDX-License-Identifier: Apache-2.0
"""The story of one pod, found in the logs by their fields."""

from __future__ import annotations

import json

import pytest

from lab.kubernetes.cluster import SYSTEM
from tests.cluster.kubectl import Kubectl, deployment, eventually

pytestmark = pytest.mark.timeout(300)


def test_a_pod_is_found_by_its_name(kube: Kubectl) -> None:
    """Every line is one JSON object; the agent's of the pod's node says that it came, a controller's what it holds."""
    kube.apply(deployment("web", replicas=1))
    (pod,) = kube.ready("web", 1)
    node, name = pod["spec"]["nodeName"], f"{kube.namespace}/{pod['metadata']['name']}"
    system = Kubectl(kube.words, SYSTEM)

    def lines(component: str) -> list[dict[str, str]]:
        pods = system.get("pods", "-l", f"app.kubernetes.io/component={component}")["items"]
        texts = [system("logs", one["metadata"]["name"], "--since=5m") for one in pods]
        return [json.loads(line) for text in texts for line in text.splitlines()]

    def told() -> None:
        agents = [line for line in lines("agent") if line.get("pod") == name]
        assert {line["node"] for line in agents} == {node}
        assert any(line["message"].startswith("added ") for line in agents)
        controllers = [line for line in lines("controller") if line.get("pod") == name]
        assert {line["node"] for line in controllers} == {node}
        assert any(line["message"].endswith(" is held") for line in controllers)

    eventually(told)
