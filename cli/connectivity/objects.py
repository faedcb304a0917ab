# SPDX-License-Identifier: Apache-2.0
"""What the connectivity test deploys, as trees of Kubernetes; pure, for cli.connectivity.

first-N, second-N   on every node: they ask, and answer each other
backend-0, -1       on the first and the last node: what the Services lead to
door                on the last node: has a host port
db-0                of a StatefulSet: keeps its address
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cli.cluster import Tree
from ila.annotations import KEEP_ADDRESS

PORT = 8080
"""Where agnhost's netexec answers over HTTP in a pod."""

SERVICE_PORT = 80
BACKENDS = ("backend-0", "backend-1")
DOOR = "door"
KEEPER = "db"
KEEPER_POD = "db-0"
SERVICE, OWN, EVERY = "web", "own", "every"
"""Services: of all backends, of the first one alone, of all backends without an address of its own."""


def first(index: int) -> str:
    """Return the name of the pod on a node that asks."""
    return f"first-{index}"


def second(index: int) -> str:
    """Return the name of its neighbour."""
    return f"second-{index}"


def namespace(name: str) -> Tree:
    """Return the namespace; a host port needs its admission level to be privileged."""
    labels = {"app.kubernetes.io/managed-by": "ilanet", "pod-security.kubernetes.io/enforce": "privileged"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def pods(nodes: Sequence[str], *, image: str, host_port: int) -> list[Tree]:
    """Return every pod but the StatefulSet's."""
    made = [_pod(name(index), node, image) for index, node in enumerate(nodes) for name in (first, second)]
    made += [_pod(name, node, image, backend="yes") for name, node in zip(BACKENDS, (nodes[0], nodes[-1]), strict=True)]
    return [*made, _pod(DOOR, nodes[-1], image, host_port=host_port)]


def services() -> list[Tree]:
    """Return the Services."""
    return [
        _service(SERVICE, {"backend": "yes"}, type="NodePort"),
        _service(OWN, {"pod": BACKENDS[0]}),
        _service(EVERY, {"backend": "yes"}, clusterIP="None"),
    ]


def keeper(nodes: Sequence[str], *, image: str) -> Tree:
    """Return the StatefulSet of one pod that keeps its address, on one of some nodes."""
    labels = {"pod": KEEPER}
    template = {
        "metadata": {"labels": labels, "annotations": {KEEP_ADDRESS: "true"}},
        "spec": {**_spec(image), "affinity": one_of(nodes)},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": KEEPER},
        "spec": {
            "serviceName": KEEPER,
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "updateStrategy": {"type": "OnDelete"},
            "template": template,
        },
    }


def one_of(nodes: Sequence[str]) -> dict[str, Any]:
    """Return an affinity to some nodes, by name: labels may lie."""
    terms = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]} for node in nodes]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


def _pod(name: str, node: str, image: str, *, host_port: int | None = None, **labels: str) -> Tree:
    spec = {**_spec(image, host_port), "affinity": one_of([node])}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"pod": name, **labels}},
        "spec": spec,
    }


def _spec(image: str, host_port: int | None = None) -> dict[str, Any]:
    """Return what runs in a pod: netexec, ready once the kubelet has reached it."""
    port = {"containerPort": PORT} if host_port is None else {"containerPort": PORT, "hostPort": host_port}
    container = {
        "name": "netexec",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["netexec", f"--http-port={PORT}", f"--udp-port={PORT}"],
        "ports": [port],
        "readinessProbe": {"httpGet": {"path": "/hostname", "port": PORT}, "periodSeconds": 1},
    }
    return {
        "containers": [container],
        "terminationGracePeriodSeconds": 1,  # 0 would delete by force: gone before its node has let go of its address
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "tolerations": [{"operator": "Exists"}],
    }


def _service(name: str, selector: dict[str, str], **spec: str) -> Tree:
    ports = [{"port": SERVICE_PORT, "targetPort": PORT}]
    metadata = {"name": name}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"selector": selector, "ports": ports, **spec},
    }
