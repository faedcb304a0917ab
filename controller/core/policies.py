# SPDX-License-Identifier: Apache-2.0
"""Where nothing enforces NetworkPolicy objects; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from controller.core.pods import PodFacts

_NAMED = 5
"""Nodes that are named at most."""


def unenforced(count: int, nodes: Iterable[str], pods: Iterable[PodFacts], past: Iterable[str] = ()) -> str:
    """Return what to say of so many NetworkPolicy objects; '' if a pod enforces them on every node, or there are none.

    pods: those of ilanet's own namespace; what a pod elsewhere says of itself is not believed.
    past: nodes whose pods' packets pass netfilter by, where policies are enforced.
    """
    known = set(nodes)
    enforced = {pod.node for pod in pods if pod.enforces_policies}
    missing = known - enforced
    if count and missing:
        where = f" on {_named(missing)}" if enforced else ""
        return (
            f"{count} NetworkPolicy objects exist, and nothing enforces them{where}: install what does "
            "(deploy/network-policies), or say policies_enforced = true"
        )
    passed = known & set(past)
    if count and passed:
        return (
            f"{count} NetworkPolicy objects exist, and packets pass by what enforces them on {_named(passed)}: "
            'say host_path = "stack" there'
        )
    return ""


def _named(nodes: Collection[str]) -> str:
    more = f" and {len(nodes) - _NAMED} more" if len(nodes) > _NAMED else ""
    return ", ".join(sorted(nodes)[:_NAMED]) + more
