# SPDX-License-Identifier: Apache-2.0
"""What an operator does and sees: `ilanet status`, settings, logs and Events."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cli.__main__ import NOT_WELL, WELL
from lab.kubernetes.cluster import SYSTEM
from lab.process import SOURCE
from tests.cluster.kubectl import Kubectl

CONTROLLER, AGENT = "deployment/ilanet-controller", "daemonset/ilanet-agent"
OTHER_SETTINGS = "ilanet-bad-input"


def command(door: Sequence[str], *words: str) -> list[str]:
    """Return `ilanet` with the way into the cluster that kubectl has."""
    place = next(i for i, word in enumerate(door) if Path(word).name == "kubectl")
    return [*door[:place], sys.executable, "-m", "cli", *door[place + 1 :], *words]


def ilanet(door: Sequence[str], *words: str) -> tuple[int, Any]:
    """Run it; return its exit status and what it prints as JSON."""
    ran = subprocess.run(
        [*command(door, *words), "-o", "json"], cwd=SOURCE, capture_output=True, text=True, timeout=240, check=False
    )
    assert ran.stdout, ran.stderr
    return ran.returncode, json.loads(ran.stdout)


def agent_of(system: Kubectl, node: str) -> str:
    """Return the name of a node's agent pod that is Ready."""
    words = ("-l", "app.kubernetes.io/component=agent", "--field-selector", f"spec.nodeName={node}")
    pods = [pod for pod in system.get("pods", *words)["items"] if "deletionTimestamp" not in pod["metadata"]]
    assert len(pods) == 1
    assert all(status["ready"] for status in pods[0]["status"].get("containerStatuses", [{"ready": False}]))
    return str(pods[0]["metadata"]["name"])


@contextlib.contextmanager
def changed(system: Kubectl, workload: str, change: Callable[[str], str]) -> Iterator[None]:
    """Give a workload other settings, as an overlay does, and the old ones again."""
    kind = "controller" if workload == CONTROLLER else "agent"
    volumes = system.get(workload)["spec"]["template"]["spec"]["volumes"]
    name = next(volume["configMap"]["name"] for volume in volumes if volume["name"] == "settings")
    found = system.get("configmap", name)["data"]
    text = change(found[f"{kind}.toml"])
    assert text != found[f"{kind}.toml"]
    metadata = {"name": OTHER_SETTINGS}
    system.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {f"{kind}.toml": text}})
    try:
        use(system, workload, OTHER_SETTINGS)
        yield
    finally:
        use(system, workload, name)
        system("rollout", "status", workload, "--timeout=120s", timeout=130)
        system("delete", "configmap", OTHER_SETTINGS)


def use(system: Kubectl, workload: str, settings: str) -> None:
    """Have a workload's pods read these settings; agents one by one, when their pod is deleted."""
    spec: dict[str, Any] = {
        "template": {"spec": {"volumes": [{"name": "settings", "configMap": {"name": settings}}]}},
    }
    if workload == AGENT and settings == OTHER_SETTINGS:
        spec["updateStrategy"] = {"type": "OnDelete", "rollingUpdate": None}
    elif workload == AGENT:
        spec["updateStrategy"] = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}}
    system("patch", workload, "-p", json.dumps({"spec": spec}))


def asked(system: Kubectl, pod: str, port: int, path: str) -> str:
    """Return what a pod of ilanet answers over HTTP."""
    return system("get", "--raw", f"/api/v1/namespaces/{system.namespace}/pods/{pod}:{port}/proxy{path}")


def logs(system: Kubectl, component: str) -> str:
    """Return what the pods of a component have written; of one that has ended, what it wrote last."""
    words = ("-l", f"app.kubernetes.io/component={component}", "-o", "name")
    return "\n".join(system("logs", name, "--tail=50") for name in system("get", "pods", *words).split())


def has_event(system: Kubectl, reason: str, *words: str) -> None:
    """Assert that an Event says this."""
    listed = json.loads(system("get", "events", "--all-namespaces", "-o", "json", namespaced=False))["items"]
    messages = [item["message"] for item in listed if item["reason"] == reason]
    assert any(all(word in message for word in words) for message in messages), messages


def has_finding(door: Sequence[str], *words: str, namespace: str = SYSTEM) -> dict[str, Any]:
    """Assert that `ilanet status` says this, and what to do; return all that it says."""
    status, said = ilanet(door, "--namespace", namespace, "status")
    assert status == NOT_WELL
    found = [found for found in said["findings"] if all(word in found["what"] for word in words)]
    assert found, said["findings"]
    assert all(one["next"] for one in found)
    return dict(said)


def is_well(door: Sequence[str]) -> None:
    """Assert that nothing is wrong any more."""
    status, said = ilanet(door, "status")
    assert status == WELL, said["findings"]
