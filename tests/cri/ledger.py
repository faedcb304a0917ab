# SPDX-License-Identifier: Apache-2.0
"""What everybody says of a host's pods: runtime, agent, its records, its kernel, etcd and the runtime's CNI results."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from agent.core.conflist import NETWORK
from agent.core.network import parse_alias
from ila.address import Identifier
from ila.mapping import OwnerName, owner_key, taken_identifier_key
from lab.cluster import Cluster
from lab.containerd import Containerd
from lab.cri import CriError
from lab.fabric import Host
from lab.machine import cgroups
from lab.namespace import CommandError, run
from tests.cri.stored import Stored

PATIENCE = 45.0
"""Seconds until everybody must agree, on a loaded machine."""

_PAUSE = 0.1
_SANDBOXES = "io.containerd.grpc.v1.cri/sandboxes"
_TASKS = "io.containerd.runtime.v2.task/k8s.io"

SHIMS = frozenset({"processes", "cgroups", "mounts", "tasks", "bundles", "sockets"})
"""What stays of a shim, by the names that counts have."""

Book = dict[str, str]
"""Container id -> SIR address, as one of them has it."""


class Ledger:
    """Compares what is said of the pods of every host of a cluster."""

    def __init__(self, cluster: Cluster, runtimes: list[Containerd]) -> None:
        self._cluster = cluster
        self._runtimes = dict(zip([host.name for host in cluster.hosts], runtimes, strict=True))

    def settled(self, *, pods: int) -> None:
        """Wait until all agree on this number of pods, and nobody has a problem; AssertionError quotes who differs."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                complaints = self._complaints(pods)
            except (OSError, CommandError, CriError) as error:
                complaints = [str(error)]
            if not complaints:
                return
            assert time.monotonic() < deadline, "\n".join(complaints)
            time.sleep(_PAUSE)

    def _complaints(self, pods: int) -> list[str]:
        """Return what is not as the runtime says; empty when all is well."""
        stored = self._stored()
        complaints = stored.complaints()
        count = 0
        for host in self._cluster.hosts:
            status = self._cluster.status(host)
            books = self._books(host, status, stored)
            count += len(books["runtime"])
            for who, book in books.items():
                complaints += [f"{host.name} {who}: {item}" for item in _differences(book, books["runtime"])]
            complaints += [f"{host.name}: {item}" for item in status["problems"].items()]
            reserved = list(stored.reserves.values()).count(host.name)
            if reserved != status["reserve"]:
                complaints.append(f"{host.name} has {status['reserve']} in reserve, in etcd {reserved}")
        if count != pods:
            complaints.append(f"the runtimes have {count} pods that are ready, not {pods}")
        return complaints

    def _books(self, host: Host, status: dict[str, Any], stored: Stored) -> dict[str, Book]:
        """Return what each says of a host's pods."""
        runtime = self._runtimes[host.name]
        ready = {sandbox.id: runtime.cri.address(sandbox.id) for sandbox in runtime.cri.sandboxes() if sandbox.ready}
        records = [json.loads(raw) for raw in _texts(self._cluster.state(host) / "endpoints", "*.json")]
        cached = [json.loads(raw) for raw in _texts(runtime.results, f"{NETWORK}-*")]
        return {
            "runtime": ready,
            "results": {item["containerId"]: item["result"]["ips"][0]["address"].partition("/")[0] for item in cached},
            "agent": {
                item["container"]: item["address"] if item["state"] == "wired" else item["state"]
                for item in status["endpoints"].values()
            },
            "records": {
                item["container_id"]: self._address(item["identifier"]) if item["state"] == "wired" else item["state"]
                for item in records
            },
            "etcd": {
                container: self._address(str(identifier)) if isinstance(identifier, Identifier) else identifier
                for container, identifier in stored.held(host.name, str(host.locator)).items()
            },
            "links": {container: ready.get(container, "no pod") for container in _linked(host)},
            "namespaces": ready if _attached(runtime) == len(ready) else {"attached": str(_attached(runtime))},
        }

    def _address(self, identifier: str) -> str:
        return str(self._cluster.domain.sir_prefix.address(Identifier.parse(identifier)))

    def _stored(self) -> Stored:
        assert self._cluster.etcd is not None
        return Stored.read(self._cluster.etcd)

    def forget_kept(self, namespace: str, name: str) -> None:
        """Remove from etcd what a pod that keeps its address leaves to the next pod of its name."""
        assert self._cluster.etcd is not None
        key = owner_key(OwnerName.of_name(namespace, name)).decode()
        owner = self._stored().owners[f"name/{namespace}/{name}"]
        identifier = Identifier.parse(owner["identifier"])
        self._cluster.etcd.ctl("del", key)
        self._cluster.etcd.ctl("del", taken_identifier_key(identifier).decode())

    def unchanged(self, before: Counter[str], *, without: frozenset[str] = frozenset()) -> None:
        """Wait until everything but `without` counts as before; AssertionError names what has leaked."""
        deadline = time.monotonic() + PATIENCE
        while True:
            after = self.counted()
            leaks = {
                name: f"{before[name]} -> {after[name]}"
                for name in before | after
                if before[name] != after[name] and name.rpartition(" ")[2] not in without
            }
            if not leaks:
                return
            assert time.monotonic() < deadline, leaks
            time.sleep(_PAUSE)

    def steady(self, seconds: float = 1.0) -> Counter[str]:
        """Return the counts once they have not changed for so long: what the start began has come to its end."""
        since = time.monotonic()
        counts = self.counted()
        while time.monotonic() - since < seconds:
            time.sleep(_PAUSE)
            if (now := self.counted()) != counts:
                counts, since = now, time.monotonic()
        return counts

    def counted(self) -> Counter[str]:
        """Count all that pods make: with the same pods a later count must be equal, or something has leaked."""
        counts: Counter[str] = Counter()
        stored = self._stored()
        counts["owners"], counts["mappings"] = len(stored.owners), len(stored.mappings)
        counts["taken"] = len(stored.taken) - len(stored.reserves)
        counts["other records"] = stored.others
        for host in self._cluster.hosts:
            for what, count in self._made(host, self._runtimes[host.name]).items():
                counts[f"{host.name} {what}"] = count
        return counts

    def _made(self, host: Host, runtime: Containerd) -> dict[str, int]:
        machine = runtime.machine
        run_folder = machine.disk / "run/containerd"
        return {
            "links": len(json.loads(run("ip", "-n", host.namespace.name, "-j", "link"))),
            "namespaces": _attached(runtime),
            "pins": _files(self._cluster.directory / host.name / "bpf"),
            "records": _files(self._cluster.state(host)),
            "queued": _files(self._cluster.queue(host)),
            "results": _files(runtime.results),
            "cgroups": len([path for path in cgroups(machine.cgroup) if path.name != host.name]),
            "mounts": Path(f"/proc/{machine.first}/mountinfo").read_text().count(" /run/"),
            "processes": len(machine.processes()),
            "sandboxes": _files(runtime.root / _SANDBOXES) + _files(runtime.state / _SANDBOXES),
            "tasks": _files(runtime.state / _TASKS),
            "bundles": _files(run_folder / "runc/k8s.io"),
            "snapshots": len(runtime.ctr("snapshots", "list").splitlines()),
            "containers": len(runtime.ctr("containers", "list", "-q").splitlines()),
            "sockets": _files(run_folder / "s"),
        }


def _differences(book: Book, agreed: Book) -> list[str]:
    """Return in words where a book is not as the runtime's."""
    names = sorted(name for name in book.keys() | agreed.keys() if book.get(name) != agreed.get(name))
    return [f"{name[:12]} {book.get(name, 'is not there')}, runtime: {agreed.get(name, 'not there')}" for name in names]


def _linked(host: Host) -> list[str]:
    """Return the containers whose host link is there, by its mark."""
    links = json.loads(run("ip", "-n", host.namespace.name, "-j", "link"))
    marks = (parse_alias(link.get("ifalias", "")) for link in links)
    return [mark[0] for mark in marks if mark is not None]


def _attached(runtime: Containerd) -> int:
    """Count the pods' namespaces that have more than a loopback device.

    A containerd that is killed before it has written a new namespace down forgets it; no plugin has been asked then.
    """
    count = 0
    for namespace in runtime.namespaces.iterdir():
        with contextlib.suppress(CommandError):
            path = runtime.machine.root / "run/netns" / namespace.name
            count += len(json.loads(run("nsenter", f"--net={path}", "ip", "-j", "link"))) > 1
    return count


def _texts(folder: Path, pattern: str) -> list[str]:
    """Return the content of files, without those that vanish meanwhile."""
    texts = []
    for path in sorted(folder.glob(pattern)):
        with contextlib.suppress(FileNotFoundError):
            texts.append(path.read_text())
    return texts


def _files(folder: Path) -> int:
    """Count what lies in a folder, 0 if it is not there."""
    return sum(1 for _ in folder.rglob("*"))
