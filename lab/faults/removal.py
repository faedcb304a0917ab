# SPDX-License-Identifier: Apache-2.0
"""Invariant 7, at the end of a run: uninstall removes all that the agent made on a host, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from lab.fabric import Host
from lab.faults.invariants import differ
from lab.faults.stage import Stage
from lab.listing import listing

KERNEL = ("maps.debug", "progs.debug")
"""Files that every new bpffs has of the kernel itself."""


def uninstalled(stage: Stage, host: Host) -> list[str]:
    """Stop the agent of a host for good, uninstall it by its own command, and return what that has not made good."""
    stage.cluster.agents[host.name].stop()
    stage.cluster.uninstall(host)
    return [f"{host.name}: {text}" for text in remains(stage, host)]


def remains(stage: Stage, host: Host) -> Iterator[str]:
    """Compare a host with what it was before its first agent."""
    cluster = stage.cluster
    yield from differ("uninstalled host", set(listing(host.namespace)), set(stage.bare[host.name]))
    folders = (cluster.state(host), cluster.socket(host).parent, cluster.bpffs(host), cluster.conflist(host).parent)
    left = {path for folder in folders for path in folder.rglob("*") if path.name not in KERNEL}
    yield from differ(
        "files of an uninstalled host", {str(path.relative_to(cluster.directory)) for path in left}, set()
    )
