# SPDX-License-Identifier: Apache-2.0
"""kubectl as the tests use it: a cluster's door, whichever cluster it is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from lab.kubernetes.cluster import TEST_IMAGE
from lab.namespace import CommandError, run

PATIENCE = 60.0
"""Seconds until what a test waits for must be so, on a loaded machine."""

PORT = 8080
"""Where agnhost's netexec answers over HTTP."""


T = TypeVar("T")


class Kubectl:
    """Runs kubectl by the words that come before every command of it; in one namespace of Kubernetes."""

    def __init__(self, words: Sequence[str], namespace: str) -> None:
        self.words = tuple(words)
        self.namespace = namespace

    def __call__(self, *words: str, stdin: str | None = None, timeout: float = 120, namespaced: bool = True) -> str:
        """Return what a command prints; CommandError if it fails."""
        place = [f"--namespace={self.namespace}"] if namespaced else []
        return run(*self.words, *place, *words, stdin=stdin, timeout=timeout)

    def get(self, *words: str) -> dict[str, Any]:
        """Return an object, or a list of them."""
        found: dict[str, Any] = json.loads(self("get", *words, "-o", "json"))
        return found

    def apply(self, *objects: Mapping[str, object]) -> None:
        """Create or change objects."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self("apply", "-f", "-", stdin=json.dumps(items))

    def pods(self, app: str) -> list[dict[str, Any]]:
        """Return the pods of an app that are Ready, by name."""
        found = self.get("pods", "-l", f"app={app}")["items"]
        return sorted((pod for pod in found if _is_ready(pod)), key=lambda pod: str(pod["metadata"]["name"]))

    def ready(self, app: str, count: int) -> list[dict[str, Any]]:
        """Wait until so many pods of an app are Ready, and no other is there, and return them."""

        def there() -> list[dict[str, Any]]:
            pods = self.pods(app)
            assert len(pods) == count == len(self.get("pods", "-l", f"app={app}")["items"])
            return pods

        return eventually(there)

    def shell(self, pod: str, command: str) -> str:
        """Run a shell's command in a pod."""
        return self("exec", pod, "--", "sh", "-c", command)

    def ask(self, pod: str, host: str, path: str, port: int = PORT) -> str:
        """Return what netexec at an address answers to a pod; '' if nothing does in time."""
        request = rf"printf 'GET {path} HTTP/1.0\r\n\r\n' | nc -w 5 {host} {port} || :"
        head, _, body = self.shell(pod, request).replace("\r\n", "\n").partition("\n\n")
        return body.strip() if " 200 " in head else ""


def eventually(work: Callable[[], T], patience: float = PATIENCE) -> T:
    """Return what `work` returns, once it neither fails nor asserts; the last reason is raised in the end."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return work()
        except (AssertionError, CommandError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


def deployment(name: str, *, replicas: int) -> dict[str, Any]:
    """Return a Deployment of agnhost's netexec, its pods spread over the nodes."""
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": name}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"topologySpreadConstraints": [spread], **pod_spec()},
            },
        },
    }


def stateful_set(name: str, replicas: int) -> dict[str, object]:
    """Return a StatefulSet of agnhost's netexec: its pods keep their addresses."""
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": pod_spec(),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name},
        "spec": {
            "serviceName": name,
            "replicas": replicas,
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": {"app": name}},
            "template": template,
        },
    }


def pod_spec() -> dict[str, Any]:
    """Return what runs in a pod: netexec, ready once it answers."""
    container = {
        "name": "web",
        "image": TEST_IMAGE,
        "imagePullPolicy": "Never",
        "args": ["netexec", f"--http-port={PORT}", f"--udp-port={PORT}"],
        "env": [{"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}],
        "readinessProbe": {"httpGet": {"path": "/hostname", "port": PORT}, "periodSeconds": 1},
    }
    return {"containers": [container], "terminationGracePeriodSeconds": 0}


def service(name: str, **spec: object) -> dict[str, object]:
    """Return a Service of the pods of the app of that name, port 80."""
    ports = [{"name": "http", "port": 80, "targetPort": PORT}, {"name": "udp", "port": 80, "protocol": "UDP"}]
    ports[1]["targetPort"] = PORT
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": ports, **spec},
    }


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", [])
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]
