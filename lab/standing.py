# SPDX-License-Identifier: Apache-2.0
"""Whether the network that `make up` left running still stands: everything in its place, alive and well."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

from lab.cluster import Cluster
from lab.demo import pod_places
from lab.fabric import Host
from lab.namespace import CommandError, Namespace

_PATIENCE = 3.0
"""Seconds in which what is wrong may pass: an agent that misses its controller for a moment is no ruin."""


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """Hold the name of a network during the block; CommandError while another command makes or removes it.

    The kernel frees an abstract socket with the process that holds it, however that ends.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as held:
        try:
            held.bind(f"\0ilanet-lab-{name}")
        except OSError as error:
            raise CommandError(f"another command brings network {name!r} up or down; wait for its end") from error
        yield


def faults(cluster: Cluster, patience: float = _PATIENCE) -> list[str]:
    """Return what is missing, dead or unwell for at least `patience` seconds, a sentence each; empty: all is well."""
    deadline = time.monotonic() + patience
    while found := _faults(cluster):
        if time.monotonic() >= deadline:
            return found
        time.sleep(0.2)
    return []


def addresses(cluster: Cluster) -> dict[str, str]:
    """Return the SIR addresses of the pods that are wired, by name."""
    found = {}
    for host in cluster.recall():
        with contextlib.suppress(OSError):
            for endpoint in cluster.status(host)["endpoints"].values():
                if endpoint["state"] == "wired":
                    found[endpoint["pod"].removeprefix("default/")] = endpoint["address"]
    return found


def _faults(cluster: Cluster) -> list[str]:
    hosts = cluster.recall()
    pods = {name: Namespace(f"{cluster.name}-{name}") for name, _ in pod_places(hosts)}
    namespaces = [cluster.fabric.router, *(host.namespace for host in hosts), *pods.values()]
    found = [f"namespace {namespace.name} is missing" for namespace in namespaces if not namespace.path.exists()]
    found += [f"{process.name} does not run" for process in cluster.noted() if not process.pid]
    for host in hosts:
        found += _unwell(cluster, host)
    return found or _silent(pods, addresses(cluster))


def _unwell(cluster: Cluster, host: Host) -> Iterator[str]:
    """Yield what a host's agent says is wrong, or that it says nothing."""
    try:
        status: dict[str, Any] = cluster.status(host)
    except OSError as error:
        yield f"{host.name}: the agent does not answer: {error}"
        return
    if not status["serving"] or not status["mappings_complete"]:
        yield f"{host.name}: the agent does not serve"
    if len(status["nodes"]) != len(cluster.hosts):
        yield f"{host.name}: the agent knows no nodes but {', '.join(status['nodes'])}"
    for what, why in status["problems"].items():
        yield f"{host.name}: {what}: {why}"


def _silent(pods: dict[str, Namespace], known: dict[str, str]) -> list[str]:
    """Return which pods no agent has, or that do not answer the first one."""
    lost = [f"{name} is attached nowhere" for name in pods if name not in known]
    if lost:
        return lost
    first, *others = pods
    for name in others:
        try:
            pods[first].run("ping", "-6", "-c", "1", "-W", "2", known[name])
        except CommandError:
            lost.append(f"{first} gets no answer from {name}")
    return lost
