# SPDX-License-Identifier: Apache-2.0
"""Where nothing enforces NetworkPolicy objects; pure."""

from __future__ import annotations

from collections.abc import Iterable

from controller.core.pods import PodFacts

_NAMED = 5
"""Nodes that are named at most."""


def unenforced(count: int, nodes: Iterable[str], pods: Iterable[PodFacts]) -> str:
    """Return what to say of so many NetworkPolicy objects; '' if a pod enforces them on every node, or there are none.

    pods: those of ilanet's own namespace; what a pod elsewhere says of itself is not believed.
    """
    enforced = {pod.node for pod in pods if pod.enforces_policies}
    missing = sorted(set(nodes) - enforced)
    if not count or not missing:
        return ""
    named = ", ".join(missing[:_NAMED]) + (f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else "")
    where = f" on {named}" if enforced else ""
    return (
        f"{count} NetworkPolicy objects exist, and nothing enforces them{where}: install what does "
        "(deploy/network-policies), or say policies_enforced = true"
    )
