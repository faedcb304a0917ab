# SPDX-License-Identifier: Apache-2.0
"""An underlay that kills ILA while nodes can ping each other is named: by `ilanet status`, an Event and the log."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from cli.__main__ import NOT_WELL
from cli.report import BROKEN
from lab.kubernetes.cluster import SYSTEM, KubernetesCluster
from tests.cluster.kubectl import Kubectl, eventually
from tests.cluster.operating import agent_of, ilanet, is_well
from tests.netns.conftest import ping

pytestmark = pytest.mark.timeout(300)

_RULES = """
table bridge underlay {{
  chain forward {{
    type filter hook forward priority 0; policy accept;
    {rule} counter drop
  }}
}}
"""

RULES = {
    "source check": ("ip6 saddr fd00:10:244::/64", "from an address under the SIR prefix fd00:10:244::/64"),
    "state": ("ip6 saddr fd00:10:244::/64 tcp flags & (syn | ack) == syn | ack", "ct state invalid drop"),
}
"""What the switch does, and words of what is said.  It can follow no connections (this kernel has no conntrack for
bridges), so it drops what such a filter calls invalid: the answers to SYNs."""


@contextlib.contextmanager
def harmed(cluster: KubernetesCluster, rule: str) -> Iterator[None]:
    """Have the switch between all nodes drop something."""
    cluster.lab.fabric.router.run("nft", "-f", "-", stdin=_RULES.format(rule=rule))
    try:
        yield
    finally:
        cluster.lab.fabric.router.run("nft", "delete", "table", "bridge", "underlay")


@pytest.mark.parametrize("harm", list(RULES))
def test_what_the_underlay_does_is_named(
    ours: KubernetesCluster, door: Sequence[str], kube: Kubectl, harm: str
) -> None:
    """Nodes stay Ready and ping each other; what is said names the fault and what to do, and ends with it."""
    rule, words = RULES[harm]
    system = Kubectl(door, SYSTEM)
    here, there = ours.lab.hosts[0], ours.lab.hosts[1]
    with harmed(ours, rule):
        ping(here.namespace, there.address)
        # An agent that starts probes at once, the others within their minute.
        system("delete", "pod", eventually(lambda: agent_of(system, here.name)), "--wait=true")
        agent = eventually(lambda: agent_of(system, here.name))
        since = time.monotonic()

        def found() -> dict[str, Any]:
            status, said = ilanet(door, "status")
            links = {(link["source"], link["to"]): link for link in said["links"]}
            assert status == NOT_WELL
            assert links[here.name, there.name]["state"] == BROKEN, said["findings"]
            assert words in links[here.name, there.name]["problem"]
            return dict(said)

        said = eventually(found)
        print(f"{harm}: named {time.monotonic() - since:.0f} s after the agent was ready")
        assert all(node["ready"] and node["serving"] for node in said["nodes"])
        eventually(lambda: _told(kube, here.name, words))
        assert words in system("logs", agent)
    eventually(lambda: is_well(door), patience=90)


def _told(kube: Kubectl, node: str, words: str) -> None:
    """Assert that an Event of a node says this of the underlay."""
    listed = kube("get", "events", "--all-namespaces", "-o", "json", namespaced=False)
    messages = [
        str(item.get("message") or item.get("note"))
        for item in json.loads(listed)["items"]
        if item["reason"] == "IlanetProblem" and item["involvedObject"]["name"] == node
    ]
    assert any(message.startswith("underlay: ") and words in message for message in messages), messages
