# SPDX-License-Identifier: Apache-2.0
"""Fakes of cli.cluster.Cluster: one that has what it is given, and a small network that connectivity tests run on."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Sequence
from typing import Any

from cli.cluster import Absent, ClusterError, Ran, Refused, Tree
from cli.connectivity.objects import PORT
from tests.fakes import Failing

Mutable = dict[str, Any]


class FakeCluster(Failing):
    """Objects and texts by path; a text that is an exception is raised, one that is None never comes."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, Tree] = {}
        self.texts: dict[str, str | Exception | None] = {}
        self.asked: list[str] = []

    async def read(self, path: str, **_: str) -> Tree:
        self.called("read")
        if path not in self.objects:
            raise Absent(f"{path}: 404 not found")
        return self.objects[path]

    async def text(self, path: str, *, deadline: float, **_: str) -> str:
        self.called("text")
        self.asked.append(path)
        found = self.texts.get(path, Refused("503 error trying to reach service: connection refused", 503))
        if found is None:
            await asyncio.sleep(deadline)
            raise ClusterError(f"no answer within {deadline:g} s")
        if isinstance(found, Exception):
            raise found
        return found

    async def create(self, path: str, tree: Tree) -> Tree:
        raise NotImplementedError(path, tree)

    async def patch(self, path: str, tree: Tree) -> Tree:
        raise NotImplementedError(path, tree)

    async def remove(self, path: str) -> None:
        raise NotImplementedError(path)

    async def run(self, namespace: str, pod: str, command: Sequence[str], *, deadline: float) -> Ran:
        raise NotImplementedError(namespace, pod, command, deadline)


def node(name: str, address: str = "fd00:a::1", *, ready: bool = True) -> Tree:
    """Return a node of Kubernetes."""
    condition = {"type": "Ready", "status": "True" if ready else "False", "message": "PLEG is not healthy"}
    addresses = [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}]
    return {"metadata": {"name": name}, "status": {"conditions": [condition], "addresses": addresses}}


class FakeNetwork(FakeCluster):
    """A cluster whose pods are Ready at once and reach each other, but for what a test breaks."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.namespaces: dict[str, Mutable] = {}
        self.pods: dict[str, Mutable] = {}
        self.services: dict[str, Mutable] = {}
        self.sets: dict[str, Mutable] = {}
        self.broken: set[tuple[str, str]] = set()
        """(node, node): packets from the first to the second are lost."""

        self.masqueraded = False
        self.never_ready: set[str] = set()
        self.keeps_address = True
        self.account = True
        """Whether a new namespace has its service account at once."""

        self._number = 0
        self.addresses = {name: f"fd00:a::{index + 1}" for index, name in enumerate(names)}
        nodes = [node(name, address) for name, address in self.addresses.items()]
        self.objects["/api/v1/nodes"] = {"items": nodes}
        ports = [{"port": 443}]
        self.objects["/api/v1/namespaces/default/services/kubernetes"] = {
            "spec": {"clusterIP": "fd00:96::1", "ports": ports}
        }

    # --- the API server ---

    async def create(self, path: str, tree: Tree) -> Tree:
        self.called("create")
        made: Mutable = copy.deepcopy(dict(tree))
        name = made["metadata"]["name"]
        kind = made["kind"]
        if kind == "Namespace":
            self.namespaces[name] = made
        elif kind == "Service":
            self._number += 1
            made["spec"].setdefault("clusterIP", f"fd00:96::1:{self._number}")
            made["spec"]["ports"][0]["nodePort"] = 30000 + self._number
            self.services[name] = made
        elif kind == "StatefulSet":
            made["metadata"]["generation"], made["status"] = 1, {"observedGeneration": 1}
            self.sets[name] = made
            self._start(f"{name}-0", made["spec"]["template"])
        elif not self.account:
            self.account = True
            raise Refused(f"{path}: 403 error looking up service account: serviceaccount default not found", 403)
        else:
            self._start(name, made)
        return made

    async def read(self, path: str, **query: str) -> Tree:
        kind, name = path.split("/")[-2:]
        if kind == "namespaces" and name in self.namespaces:
            return self.namespaces[name]
        if name == "pods":
            self.called("read")
            return {"items": [*self.pods.values()]}
        for plural, found in (("pods", self.pods), ("services", self.services), ("statefulsets", self.sets)):
            if kind == plural and name in found:
                return found[name]
        return await super().read(path, **query)

    async def patch(self, path: str, tree: Tree) -> Tree:
        self.called("patch")
        found = self.sets[path.rsplit("/", maxsplit=1)[-1]]
        found["spec"]["template"]["spec"].update(tree["spec"]["template"]["spec"])
        found["metadata"]["generation"] += 1
        found["status"]["observedGeneration"] = found["metadata"]["generation"]
        return found

    async def remove(self, path: str) -> None:
        self.called("remove")
        kind, name = path.split("/")[-2:]
        if kind == "namespaces":
            self.namespaces.pop(name, None)
            return
        before = self.pods.pop(name)
        self._start(name, self.sets[name.removesuffix("-0")]["spec"]["template"])
        if self.keeps_address:
            self.pods[name]["status"]["podIP"] = before["status"]["podIP"]

    def _start(self, name: str, template: Tree) -> None:
        self._number += 1
        spec = copy.deepcopy(template["spec"])
        terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        spec["nodeName"] = terms[0]["matchFields"][0]["values"][0]
        ready = "False" if name in self.never_ready else "True"
        self.pods[name] = {
            "metadata": {"name": name, "uid": f"uid-{self._number}", "labels": template["metadata"]["labels"]},
            "spec": spec,
            "status": {
                "conditions": [{"type": "Ready", "status": ready, "message": "not probed"}],
                "podIP": f"fd00:10:244::{self._number:x}",
                "hostIP": self.addresses[spec["nodeName"]],
            },
        }

    # --- the network ---

    async def run(self, namespace: str, pod: str, command: Sequence[str], *, deadline: float) -> Ran:
        self.called("run")
        assert deadline > 0
        asking = self.pods[pod]
        match list(command):
            case ["cat", _]:
                return Ran(0, f"search {namespace}.svc.cluster.test svc.cluster.test cluster.test\n", "")
            case ["nslookup", _, name]:
                return Ran(0, self._nslookup(name.partition(".")[0]), "")
            case ["/agnhost", "connect", endpoint, *_]:
                host = endpoint.rpartition(":")[0].strip("[]")
                lost = any(
                    self.addresses[to] == host and (asking["spec"]["nodeName"], to) in self.broken
                    for to in self.addresses
                )
                return Ran(1, "", "TIMEOUT\n") if lost or host.startswith("2001:db8:") else Ran(0, "", "")
            case ["sh", "-c", _, _, path, host, port, _]:
                return self._http(asking, path, host, int(port))
        raise NotImplementedError(command)

    def _nslookup(self, service: str) -> str:
        spec = self.services[service]["spec"]
        if spec["clusterIP"] == "None":
            found = [pod["status"]["podIP"] for pod in self._behind(spec)]
        else:
            found = [spec["clusterIP"]]
        answers = "".join(f"Name:\t{service}\nAddress: {address}\n" for address in found)
        return f"Server:\t\tfd00:96::a\nAddress:\t[fd00:96::a]:53\n\n{answers}\n"

    def _behind(self, spec: Tree) -> list[Mutable]:
        wanted = spec["selector"].items()
        return [pod for pod in self.pods.values() if wanted <= pod["metadata"]["labels"].items()]

    def _http(self, asking: Mutable, path: str, host: str, port: int) -> Ran:
        answers = self._who(asking, host, port)
        if answers is None or (asking["spec"]["nodeName"], answers["spec"]["nodeName"]) in self.broken:
            return Ran(1, "", "nc: timed out\n")
        source = "fd00:a::99" if self.masqueraded else asking["status"]["podIP"]
        body = answers["metadata"]["name"] if path == "/hostname" else f"[{source}]:4711"
        return Ran(0, f"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n{body}", "")

    def _who(self, asking: Mutable, host: str, port: int) -> Mutable | None:
        """Return the pod that answers there: of a Service each in turn."""
        for service in self.services.values():
            spec = service["spec"]
            by_node = host in self.addresses.values() and port == spec["ports"][0]["nodePort"]
            if by_node or spec["clusterIP"] == host:
                behind: list[Mutable] = self._behind(spec)
                asking["turn"] = asking.get("turn", 0) + 1
                turn: int = asking["turn"]
                return behind[turn % len(behind)]
        for pod in self.pods.values():
            (door,) = pod["spec"]["containers"][0]["ports"]
            if pod["status"]["podIP"] == host and port == PORT:
                return pod
            if pod["status"]["hostIP"] == host and port == door.get("hostPort"):
                return pod
        return None


def answer(**fields: object) -> str:
    """Return what a well agent's /status says, with other fields."""
    well: dict[str, object] = {
        "node": "node1",
        "version": "1.0",
        "address": "fd00:a::1",
        "locator": "fd00:c0de:0:1::/64",
        "serving": True,
        "reserve": 64,
        "mappings": 2,
        "mappings_complete": True,
        "generation": "1/20",
        "nodes": ["node1", "node2"],
        "endpoints": {},
        "problems": {},
        "probes": {"node1": {"ok": True, "problem": ""}, "node2": {"ok": True, "problem": ""}},
    }
    return json.dumps(well | fields)
