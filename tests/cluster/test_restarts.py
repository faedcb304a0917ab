# SPDX-License-Identifier: Apache-2.0
"""Every process of ilanet ends, one kind after the other, and pods that talk do not notice."""

from __future__ import annotations

import threading

import pytest

from lab.kubernetes.cluster import SYSTEM
from tests.cluster.kubectl import Kubectl, deployment

pytestmark = pytest.mark.timeout(300)

PACKETS = 600
"""Ten a second."""


def test_pods_do_not_notice_a_restart(kube: Kubectl) -> None:
    """Agents by a rolling update, controllers and etcd killed at once: no packet between nodes is lost meanwhile."""
    kube.apply(deployment("web", replicas=len(kube.get("nodes")["items"])))
    first, second, *_ = kube.ready("web", len(kube.get("nodes")["items"]))
    assert first["spec"]["nodeName"] != second["spec"]["nodeName"]
    said: list[str] = []

    def ping() -> None:
        address = second["status"]["podIP"]
        said.append(kube.shell(first["metadata"]["name"], f"ping -i 0.1 -c {PACKETS} -w 120 {address} || :"))

    thread = threading.Thread(target=ping)
    thread.start()
    system = Kubectl(kube.words, SYSTEM)
    system("rollout", "restart", "daemonset/ilanet-agent")
    system("delete", "pod", "-l", "app.kubernetes.io/component in (controller, etcd)", "--force", "--grace-period=0")
    system("rollout", "status", "daemonset/ilanet-agent", "--timeout=120s")
    thread.join()
    assert f"{PACKETS} packets transmitted, {PACKETS} packets received, 0% packet loss" in said[0]
    for kind, name in (("deployment", "controller"), ("statefulset", "etcd")):
        system("rollout", "status", f"{kind}/ilanet-{name}", "--timeout=120s")
    kube("scale", "deployment/web", "--replicas=0")
    kube("scale", "deployment/web", "--replicas=2")
    kube.ready("web", 2)
