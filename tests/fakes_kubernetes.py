# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes in memory: implements controller.core.kubernetes.Kubernetes, remembers what it was told, can fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from controller.core.kubernetes import Kind, KubernetesError, Lease, Listed, Review
from ila.certificates import Authority

Tree = dict[str, Any]


def pod(name: str, *, uid: str = "", node: str = "n1", namespace: str = "ns", **metadata: object) -> Tree:
    """Return a pod as the API server writes it."""
    return {
        "metadata": {"namespace": namespace, "name": name, "uid": uid or f"uid-{name}", **metadata},
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": "Running"},
    }


def of_set(name: str) -> list[Tree]:
    """Return the owner references of a StatefulSet's pod."""
    return [{"kind": "StatefulSet", "name": name, "uid": "s", "controller": True}]


def node(name: str, address: str = "fd00:a::1", **spec: object) -> Tree:
    """Return a node as the API server writes it."""
    return {
        "metadata": {"name": name, "uid": f"uid-{name}"},
        "spec": dict(spec),
        "status": {"addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": address}]},
    }


def _key(tree: Tree) -> str:
    return f"{tree['metadata'].get('namespace', '')}/{tree['metadata']['name']}"


class FakeKubernetes:
    """The API server of a test."""

    def __init__(self) -> None:
        self.objects: dict[Kind, dict[str, Tree]] = {kind: {} for kind in Kind}
        self.lists = 0
        self.reviews: dict[str, Review] = {}
        self.authority: Authority | None = None
        self.bundle = ""
        self.lease: Lease | None = None
        self.told: list[tuple[str, ...]] = []
        self.fail_next = ""
        self.brief = False
        """Every watch ends once there is nothing new."""
        self.version = 0
        self._restored = 0
        self._changes: dict[Kind, list[tuple[int, str, Tree]]] = {kind: [] for kind in Kind}
        self._news = asyncio.Event()
        self._oldest = 0

    def put(self, kind: Kind, tree: Tree) -> None:
        """Make or change an object."""
        key = _key(tree)
        event = "MODIFIED" if key in self.objects[kind] else "ADDED"
        self._note(kind, event, tree)
        self.objects[kind][key] = tree

    def remove(self, kind: Kind, name: str, namespace: str = "") -> None:
        """Remove an object."""
        self._note(kind, "DELETED", self.objects[kind].pop(f"{namespace}/{name}"))

    def restore(self, version: int) -> None:
        """Be as it was at that version, and break all watches that wait."""
        self.version = version
        for kind, changes in self._changes.items():
            kept = [change for change in changes if change[0] <= version]
            self._changes[kind], self.objects[kind] = kept, {}
            for _, event, tree in kept:
                self.objects[kind].pop(_key(tree), None)
                if event != "DELETED":
                    self.objects[kind][_key(tree)] = tree
        self._restored += 1
        self._news.set()

    def compact(self) -> None:
        """Forget every change so far, and end all watches."""
        self._oldest = self.version + 1
        self.version += 1
        self._news.set()

    def _note(self, kind: Kind, event: str, tree: Tree) -> None:
        self.version += 1
        tree["metadata"]["resourceVersion"] = str(self.version)
        self._changes[kind].append((self.version, event, tree))
        self._news.set()

    def _called(self, what: str) -> None:
        if self.fail_next == what:
            self.fail_next = ""
            raise KubernetesError(f"{what}: the API server says 500")

    async def list(self, kind: Kind) -> Listed:
        self._called("list")
        self.lists += 1
        return Listed(list(self.objects[kind].values()), str(self.version))

    async def watch(self, kind: Kind, version: str) -> AsyncGenerator[tuple[str, Mapping[str, Any]], None]:
        self._called("watch")
        at, restored = int(version), self._restored
        while True:
            if restored != self._restored:
                raise KubernetesError("the connection is lost")
            if at < self._oldest:
                raise KubernetesError("too old")
            for number, event, tree in [change for change in self._changes[kind] if change[0] > at]:
                at = number
                yield event, tree
            if self.brief:
                return
            self._news.clear()
            await self._news.wait()

    async def review(self, token: str, audience: str) -> Review | None:
        self._called("review")
        assert audience == "ilanet"
        return self.reviews.get(token)

    async def read_authority(self, namespace: str) -> Authority | None:
        self._called("read_authority")
        assert namespace == "ilanet-system"
        return self.authority

    async def write_authority(self, namespace: str, authority: Authority) -> bool:
        assert namespace == "ilanet-system"
        if self.authority is not None:
            return False
        self.authority = authority
        return True

    async def publish_authorities(self, namespace: str, bundle: str) -> None:
        assert namespace == "ilanet-system"
        self.bundle = bundle

    async def read_lease(self, namespace: str, name: str) -> Lease | None:
        self._called("read_lease")
        assert (namespace, name) == ("ilanet-system", "ilanet-controller")
        return self.lease

    async def write_lease(self, namespace: str, name: str, *, holder: str, seconds: int, after: str) -> bool:
        assert (namespace, name, seconds) == ("ilanet-system", "ilanet-controller", 15)
        if after != (self.lease.version if self.lease else ""):
            return False
        self.lease = Lease(holder, f"{int(after or 0) + 1}")
        return True

    async def network_available(self, node: str, why: str) -> None:
        self._called("network_available")
        self.told.append(("available", node))
        assert why

    async def remove_taint(self, node: str, key: str) -> None:
        self.told.append(("taint", node, key))

    async def event(self, about: Mapping[str, str], *, reason: str, message: str, warning: bool, reporter: str) -> None:
        self._called("event")
        assert reporter
        self.told.append(("event", about["kind"], about["name"], reason, message, str(warning)))
