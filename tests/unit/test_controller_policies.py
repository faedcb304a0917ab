# SPDX-License-Identifier: Apache-2.0
"""NetworkPolicy objects that nobody enforces are spoken of, with the nodes where that is so."""

from __future__ import annotations

from typing import Any

import pytest

from controller.core.pods import PodFacts, parse_pod
from controller.core.policies import unenforced
from tests.fakes_kubernetes import pod

LABELS = {"ilanet.io/enforces": "network-policies"}
NODES = [f"n{number}" for number in range(1, 8)]


def enforcer(node: str, *, ready: bool = True, labels: dict[str, str] = LABELS) -> PodFacts:
    tree: dict[str, Any] = pod(f"enforcer-{node}", node=node, labels=labels)
    tree["status"]["conditions"] = [{"type": "Ready", "status": str(ready)}]
    return parse_pod(tree)


@pytest.mark.parametrize(
    ("count", "nodes", "pods", "said"),
    [
        (0, NODES, [], None),
        (2, ["n1"], [], "2 NetworkPolicy objects exist, and nothing enforces them: install"),
        (2, ["n1", "n2"], [enforcer("n1"), enforcer("n2")], None),
        (2, ["n1", "n2"], [enforcer("n1")], "nothing enforces them on n2: install"),
        (2, ["n1", "n2"], [enforcer("n1"), enforcer("n2", ready=False)], "nothing enforces them on n2: install"),
        (2, ["n1"], [enforcer("n1", labels={"ilanet.io/enforces": "nothing"})], "nothing enforces them: install"),
        (2, ["n1"], [enforcer("n1", labels={})], "nothing enforces them: install"),
        (2, ["n1"], [parse_pod(pod("one", labels=LABELS))], "nothing enforces them: install"),
        (2, NODES, [enforcer("n1")], "on n2, n3, n4, n5, n6 and 1 more: install"),
        (2, ["n1"], [enforcer("n1"), enforcer("gone")], None),
    ],
)
def test_what_is_said(count: int, nodes: list[str], pods: list[PodFacts], said: str | None) -> None:
    """Every node needs a pod that says that it enforces, and is ready."""
    found = unenforced(count, nodes, pods)
    assert (said in found) if said else not found


def test_packets_that_pass_netfilter_by() -> None:
    """Where they do, what enforces does not see them."""
    nodes, pods = ["n1", "n2"], [enforcer("n1"), enforcer("n2")]
    assert "pass by what enforces them on n2: say host_path" in unenforced(1, nodes, pods, ["n2", "gone"])
    assert unenforced(0, nodes, pods, ["n2"]) == unenforced(1, nodes, pods, ["gone"]) == ""
    assert "nothing enforces them on n1: install" in unenforced(1, nodes, pods[1:], ["n2"])
