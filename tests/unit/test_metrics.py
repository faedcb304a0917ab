# SPDX-License-Identifier: Apache-2.0
"""Every metric of agent and controller: help, unit, and labels that a cluster of any size does not multiply."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.core import CollectorRegistry, Metric

from agent.__main__ import Agent
from agent.config import AgentConfig
from agent.metrics import AgentCollector
from controller.__main__ import Controller
from controller.config import ControllerConfig
from ila.settings import read
from tests.fakes import FakeDatapath
from tests.unit.test_agent_config import GOOD as AGENT
from tests.unit.test_controller_config import GOOD as CONTROLLER
from tests.unit.test_controller_sweep import World

LABELS = {
    "operation": {"add"},
    "step": {"total", "wire"},
    "hook": {"from_pod"},
    "verdict": {"spoofed_source"},
    "drop": {"0", "1"},
    "found": {"well", "silent", "locator", "source", "state", "mtu"},
    "what": {"host", "plugin portmap"},
    "call": {"Assign"},
    "outcome": {"ok"},
    "kind": {"identifier"},
}
"""Every label that there may be, and what is seen of it here: parts, steps and reasons, that the code has names for."""

COUNTS = re.compile(
    r"ilanet_(mappings|endpoints|endpoints_unpublished|reserve|nodes|probe_nodes|sweep_waiting|sweep_freed"
    r"|verdict_packets|verdict_bytes|generation_epoch|generation_revision)"
)
FLAGS = re.compile(r"ilanet_(serving|mappings_complete|problem|controller_serving|sweep_braked)")
TIMES = re.compile(r"ilanet_\w+_seconds")
"""What is not counted in things that its name says, and is no 0 or 1, is in seconds."""


@pytest.fixture
def metrics(tmp_path: Path) -> list[Metric]:
    """Return all of an agent and of a controller as they are wired, after some of everything has happened."""
    found: list[Metric] = []
    for name, text in (("agent.toml", AGENT), ("controller.toml", CONTROLLER)):
        (tmp_path / name).write_text(text)
    agent = Agent(read(AgentConfig, tmp_path / "agent.toml"))
    (wired,) = [one for one in collectors(agent._registry) if isinstance(one, AgentCollector)]
    wired._datapath = FakeDatapath()
    agent._status.problem("host", "no device")
    agent._status.problem("plugin portmap", "left out")
    for timings in (one for one in collectors(agent._registry) if one is not wired):
        timings.labels("add", "total").observe(0.1)  # type: ignore[attr-defined]
    controller = Controller(read(ControllerConfig, tmp_path / "controller.toml"))
    with controller._standing.call("Assign"):
        pass
    world = World()
    world.sweep._freed.labels("identifier").inc()
    for registry in (agent._registry, controller._registry, world.registry):
        found += registry.collect()
    return found


def collectors(registry: CollectorRegistry) -> Iterator[object]:
    """Return what is registered."""
    yield from registry._collector_to_names


def test_each_has_a_name_help_and_a_unit(metrics: list[Metric]) -> None:
    """Help is a sentence; a name says what is counted, or the unit, and none is there twice."""
    names = [metric.name for metric in metrics]
    assert len(names) == len(set(names)) > 15
    for metric in metrics:
        assert re.fullmatch(r"[A-Z0-9].*\.", metric.documentation), metric.name
        matching = [one for one in (COUNTS, FLAGS, TIMES) if one.fullmatch(metric.name)]
        assert len(matching) == 1, f"{metric.name}: neither a count of something, nor a flag, nor in seconds"
        if metric.type == "histogram":
            assert matching == [TIMES]


def test_labels_are_bounded(metrics: list[Metric]) -> None:
    """No label has a pod, a node, an identifier or an address."""
    seen: dict[str, set[str]] = {}
    for metric in metrics:
        for sample in metric.samples:
            for label, value in sample.labels.items():
                if label != "le":
                    seen.setdefault(label, set()).add(value)
    assert seen.keys() == LABELS.keys()
    assert all(values <= LABELS[label] for label, values in seen.items()), seen
