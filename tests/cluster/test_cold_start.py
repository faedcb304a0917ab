# SPDX-License-Identifier: Apache-2.0
"""The power of the whole cluster goes, and comes back for all machines at once."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from lab.kubernetes.cluster import SYSTEM, KubernetesCluster
from tests.cluster.kubectl import Kubectl, deployment, eventually, service, stateful_set

pytestmark = pytest.mark.timeout(600)


def test_everything_comes_back(ours: KubernetesCluster, kube: Kubectl) -> None:
    """Nothing of ours waits for the pod network: controllers, etcd and agents start, then pods; kept addresses stay."""
    count = len(ours.nodes)
    kube.apply(deployment("web", replicas=count), service("web"), stateful_set("db", 1))
    kube.ready("web", count)
    (before,) = kube.ready("db", 1)
    ours.power_off()
    ours.power_on()

    def all_ready() -> None:
        for kind, name in (("daemonset", "agent"), ("deployment", "controller"), ("statefulset", "etcd")):
            kube("rollout", "status", f"{kind}/ilanet-{name}", f"--namespace={SYSTEM}", "--timeout=5s")
        kube("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=5s")

    eventually(all_ready, patience=240)
    pods = eventually(lambda: restarted(kube, count), patience=120)
    (after,) = kube.ready("db", 1)
    assert after["status"]["podIP"] == before["status"]["podIP"]
    asker = pods[0]["metadata"]["name"]
    for pod in (*pods, after):
        name, address = pod["metadata"]["name"], pod["status"]["podIP"]
        eventually(partial(answers, kube, asker, address, name))
    eventually(partial(answers, kube, asker, "web", "web-", port=80))


def restarted(kube: Kubectl, count: int) -> list[dict[str, Any]]:
    """Return the pods, all of which have started once more."""
    pods = kube.ready("web", count)
    for pod in pods:
        assert pod["status"]["containerStatuses"][0]["restartCount"] > 0
    return pods


def answers(kube: Kubectl, asker: str, host: str, name: str, port: int = 8080) -> None:
    """See that who answers a pod is called so."""
    assert kube.ask(asker, host, "/hostname", port).startswith(name)
