# SPDX-License-Identifier: Apache-2.0
"""What is deployed: the overlays, the same by Helm's values, and how both are read."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lab.kubernetes.programs import HELM, KUBECTL, KUBERNETES
from lab.namespace import run

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm/ilanet"
NAMESPACE = "ilanet-system"

Tree = dict[str, Any]
"""An object of Kubernetes, as JSON has it."""

HELM_VALUES: Mapping[str, Tree] = {
    "own-etcd": {},
    "own-etcd-ha": {"etcd": {"replicas": 3}},
    "external-etcd": {
        "etcd": {
            "own": False,
            "external": {
                "endpoints": [f"[2001:db8::{number}]:2379" for number in (1, 2, 3)],
                "authority": "etcd.example.org",
            },
        }
    },
    "kind": {"locators": {"from": "podcidr"}, "agent": {"settings": {"ipv4_network": "169.254.172.0/22"}}},
}
"""The overlays that the chart can make too, by name."""

FOLDERS = {
    **{name: DEPLOY / name for name in (*HELM_VALUES, "cert-manager")},
    "components": Path(__file__).parent / "components",
}
"""Everything that an operator applies."""

_ROLL = "checksum/settings"
"""The annotation by which Helm lets a change of settings roll the pods: kustomize has the hash for that."""


@dataclass(frozen=True, slots=True)
class Renderers:
    """kubectl and Helm; each folder is rendered once."""

    programs: Mapping[str, Path]
    _rendered: dict[str, list[Tree]] = field(default_factory=dict)

    def kustomize(self, folder: Path) -> list[Tree]:
        """Return what `kubectl apply -k` would send."""
        if str(folder) not in self._rendered:
            text = run(str(self.programs[KUBECTL]), "kustomize", str(folder))
            self._rendered[str(folder)] = [tree for tree in yaml.safe_load_all(text) if tree]
        return self._rendered[str(folder)]

    def helm(self, values: Tree) -> list[Tree]:
        """Return what `helm template` makes of these values; CommandError if the schema refuses them."""
        words = ("template", "ilanet", str(CHART), "--namespace", NAMESPACE, "--kube-version", KUBERNETES.version)
        text = run(str(self.programs[HELM]), *words, "--values", "-", stdin=json.dumps(values))
        return [tree for tree in yaml.safe_load_all(text) if tree]

    def lint(self, values: Tree) -> str:
        """Return what `helm lint --strict` says; CommandError if it finds fault."""
        return run(str(self.programs[HELM]), "lint", "--strict", str(CHART), "--values", "-", stdin=json.dumps(values))


def key(tree: Tree) -> str:
    """Return what tells an object from the others."""
    metadata = tree["metadata"]
    return f"{tree['apiVersion']} {tree['kind']} {metadata.get('namespace', '')}/{metadata['name']}"


def plain(trees: list[Tree]) -> dict[str, Tree]:
    """Return objects by key, settings as trees, and without the two ways to roll pods when the settings change."""
    text = json.dumps(trees)
    for tree in trees:
        if tree["kind"] == "ConfigMap":
            text = text.replace(f'"{tree["metadata"]["name"]}"', '"ilanet"')
    plain_trees = json.loads(text)
    for tree in plain_trees:
        if tree["kind"] == "ConfigMap":
            tree["data"] = {file: tomllib.loads(text) for file, text in tree["data"].items()}
        metadata = tree.get("spec", {}).get("template", {}).get("metadata", {})
        metadata.get("annotations", {}).pop(_ROLL, None)
        if not metadata.get("annotations", True):
            del metadata["annotations"]
    return {key(tree): tree for tree in plain_trees}


def pods(trees: list[Tree]) -> Iterator[tuple[str, Tree]]:
    """Yield the key of each workload and the spec of its pods."""
    for tree in trees:
        if "template" in tree.get("spec", {}):
            yield key(tree), tree["spec"]["template"]["spec"]


def containers(trees: list[Tree]) -> Iterator[tuple[str, str, Tree, Tree]]:
    """Yield each container: a name for people, 'init', 'sidecar' or 'main', its pod's spec and its own."""
    for name, pod in pods(trees):
        for container in pod.get("initContainers", []):
            kind = "sidecar" if container.get("restartPolicy") == "Always" else "init"
            yield f"{name} {container['name']}", kind, pod, container
        for container in pod["containers"]:
            yield f"{name} {container['name']}", "main", pod, container
