# SPDX-License-Identifier: Apache-2.0
"""A node that is gone for good, and comes back all the same: what it held is freed, not too much of it at once."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from typing import Any

import pytest

from controller.reports import FRESH
from lab.kubernetes.cluster import KubernetesCluster
from lab.namespace import CommandError
from tests.cluster.kubectl import Kubectl, deployment, eventually, stateful_set
from tests.cluster.operating import CONTROLLER, agent_of, asked, changed, has_event, has_finding, is_well
from tests.cluster.shapes import ON_POD_CIDRS, ON_POOL

pytestmark = pytest.mark.timeout(600)

PODS = 22
"""More than may always be freed at once (controller/sweep.py)."""


def status(system: Kubectl, node: str) -> dict[str, Any]:
    """Return what a node's agent says of itself."""
    found: dict[str, Any] = json.loads(asked(system, agent_of(system, node), 9475, "/status"))
    return found


def metric(system: Kubectl, name: str) -> float:
    """Return a metric of the controllers that can be asked: that of the one which leads is the largest."""
    lines: list[str] = []
    for pod in system.get("pods", "-l", "app.kubernetes.io/component=controller")["items"]:
        with contextlib.suppress(CommandError):  # it was on the node that is gone
            lines += asked(system, pod["metadata"]["name"], 9476, "/metrics").splitlines()
    found = [float(line.split()[-1]) for line in lines if line.startswith(f"{name} ")]
    assert found
    return max(found)


def written(system: Kubectl) -> str:
    """Return what the controllers that can be asked have written of late."""
    found = ""
    for pod in system.get("pods", "-l", "app.kubernetes.io/component=controller")["items"]:
        with contextlib.suppress(CommandError):
            found += system("logs", pod["metadata"]["name"], "--tail=100")
    return found


def sweeping(text: str, share: float) -> str:
    """Return settings of controllers that sweep at once."""
    wanted = f"sweep_pause = 1\nsweep_grace = 3\nsweep_share = {share}\n"
    return text.replace("[kubernetes]\n", f"[kubernetes]\n{wanted}", 1)


@ON_POOL
def test_a_node_that_is_gone_and_comes_back(
    ours: KubernetesCluster, door: Sequence[str], system: Kubectl, kube: Kubectl
) -> None:
    """Its pods' identifiers are freed once the brake lets them, then its record; its locator stays out of use."""
    gone, first = ours.nodes[-1], ours.nodes[0].host.name
    name = gone.host.name
    many = deployment("many", replicas=PODS)
    many["spec"]["template"]["spec"] |= {
        "topologySpreadConstraints": [],
        "nodeSelector": {"kubernetes.io/hostname": name},
    }
    kube.apply(many)
    eventually(lambda: kube.ready("many", PODS), patience=120)
    locator = status(system, name)["locator"]
    eventually(lambda: _alone(kube))
    mappings = eventually(lambda: _settled(system, first))
    with contextlib.ExitStack() as power:
        with changed(system, CONTROLLER, lambda text: sweeping(text, 0)):
            system("rollout", "status", CONTROLLER, "--timeout=120s", timeout=130)
            ours.power_off_node(gone)
            power.callback(ours.power_on_node, gone)
            kube("delete", "node", name, "--wait=false", namespaced=False)
            kube("delete", "deployment", "many", "--wait=false")
            kube("delete", "pods", "--selector=app=many", "--force", "--grace-period=0")

            def braked() -> None:
                assert metric(system, "ilanet_sweep_braked") == 1
                has_event(system, "IlanetSweepBraked", "belong to nobody whom Kubernetes shows", "raise sweep_share")
                has_finding(door, "belong to nobody whom Kubernetes shows")
                assert "belong to nobody whom Kubernetes shows" in written(system)

            eventually(braked, patience=60 + FRESH)  # until then the node's last report counts
            assert status(system, first)["mappings"] >= mappings
        with changed(system, CONTROLLER, lambda text: sweeping(text, 1)):

            def swept() -> None:
                said = status(system, first)
                assert name not in said["nodes"]
                assert said["mappings"] <= mappings - PODS
                assert metric(system, "ilanet_sweep_braked") == 0

            eventually(swept, patience=120)
            power.close()
            eventually(lambda: kube("label", "node", name, "node-role.kubernetes.io/control-plane="))
            kube("wait", "--for=condition=Ready", f"node/{name}", "--timeout=120s", timeout=130)

            def back() -> None:
                said = status(system, name)
                assert said["serving"], said["problems"]
                assert said["locator"] != locator, (said["locator"], said["problems"], said["nodes"])

            eventually(back)
    kube.apply(deployment("web", replicas=len(ours.nodes)))
    pods = kube.ready("web", len(ours.nodes))
    for pod in pods:
        for other in pods:
            assert kube.ask(pod["metadata"]["name"], other["status"]["podIP"], "/hostname") == other["metadata"]["name"]
    eventually(lambda: is_well(door), patience=120)


def _settled(system: Kubectl, node: str) -> int:
    """Return how many mappings a node has, all of the new pods' among them."""
    said = status(system, node)
    assert said["mappings"] >= PODS
    return int(said["mappings"])


def _alone(kube: Kubectl) -> None:
    """See that no pod of an earlier test is left: it would leave its mapping while they are counted."""
    namespaces = {pod["metadata"]["namespace"] for pod in kube.get("pods", "--all-namespaces")["items"]}
    assert [name for name in namespaces if name.startswith("test-")] == [kube.namespace]


@ON_POD_CIDRS
def test_a_node_that_is_installed_anew(
    ours: KubernetesCluster, door: Sequence[str], system: Kubectl, kube: Kubectl
) -> None:
    """It comes back under its name, without its records and with another podCIDR: it waits for nothing that it lost."""
    node, count = ours.nodes[-1], len(ours.nodes)
    name = node.host.name
    kube.apply(deployment("web", replicas=count), stateful_set("db", count))
    kube.ready("web", count)
    kept = {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in kube.ready("db", count)}
    before = status(system, name)["locator"]
    with contextlib.ExitStack() as power:
        ours.power_off_node(node)
        power.callback(ours.power_on_node, node)
        kube("delete", "node", name, namespaced=False)
        shutil.rmtree(node.runtime.machine.disk / "lib/ilanet")  # its /var/lib/ilanet

    def back() -> None:
        said = status(system, name)
        assert said["serving"], said["problems"]
        assert said["locator"] == kube.get("node", name)["spec"]["podCIDR"] != before

    eventually(back, patience=180)
    pods = eventually(lambda: kube.ready("web", count), patience=120)
    for pod in pods:
        for other in pods:
            assert kube.ask(pod["metadata"]["name"], other["status"]["podIP"], "/hostname") == other["metadata"]["name"]
    assert {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in kube.ready("db", count)} == kept
    eventually(lambda: is_well(door), patience=120)
