# SPDX-License-Identifier: Apache-2.0
"""Judges what was read of a cluster: facts in, a report with findings out; pure, for cli."""

from __future__ import annotations

from collections.abc import Iterator

from cli.facts import NEVER, Agent, Asked, Facts, Node
from cli.findings import behind, find
from cli.report import (
    BROKEN,
    NOT_YET,
    PROBLEM,
    UNKNOWN,
    WELL,
    ControllerRow,
    EtcdRow,
    LinkRow,
    NodeRow,
    Report,
)


def judge(facts: Facts) -> Report:
    """Return the report of what was read."""
    agents = {one.pod.node: one for one in facts.agents}
    links = tuple(_links(facts))
    findings = find(facts, links)
    return Report(
        well=not any(found.severity == PROBLEM for found in findings),
        namespace=facts.namespace,
        nodes=tuple(_node_row(facts, node, agents.get(node.name)) for node in facts.nodes),
        controllers=tuple(_controller_rows(facts)),
        etcd=tuple(EtcdRow(name=pod.name, node=pod.node, ready=pod.ready, reason=pod.trouble) for pod in facts.etcd),
        links=links,
        findings=findings,
    )


# --- rows ---


def _node_row(facts: Facts, node: Node, asked: Asked[Agent] | None) -> NodeRow:
    pod = asked.pod.name if asked else None
    if asked is None or asked.says is None:
        return NodeRow(name=node.name, ready=node.ready, agent=pod, answers=False, address=node.address)
    says = asked.says
    return NodeRow(
        name=node.name,
        ready=node.ready,
        agent=pod,
        answers=True,
        version=says.version,
        locator=says.locator,
        address=says.address,
        serving=says.serving,
        mappings=says.mappings,
        complete=says.complete,
        endpoints=says.endpoints,
        generation=str(says.generation) if says.generation > NEVER else None,
        behind=behind(facts, says),
        problems=len(says.problems),
    )


def _controller_rows(facts: Facts) -> Iterator[ControllerRow]:
    for one in facts.controllers:
        pod, says = one.pod, one.says
        yield ControllerRow(
            name=pod.name,
            node=pod.node,
            ready=pod.ready,
            answers=says is not None,
            serving=says is not None and says.serving,
            leader=says.leader if says else None,
            version=says.version if says else "",
            reason=says.reason if says else one.why,
            warnings=says.warnings if says else (),
        )


def _links(facts: Facts) -> Iterator[LinkRow]:
    """Yield both directions between each two nodes that have an agent."""
    for one in facts.agents:
        for other in facts.agents:
            if one is not other:
                yield _link(one, other.pod.node)


def _link(one: Asked[Agent], to: str) -> LinkRow:
    if one.says is None:
        return LinkRow(source=one.pod.node, to=to, state=UNKNOWN, problem="the agent does not answer")
    if one.says.probes is None:
        return LinkRow(source=one.pod.node, to=to, state=UNKNOWN, problem="this version does not probe")
    probe = one.says.probes.get(to)
    if probe is None:
        return LinkRow(source=one.pod.node, to=to, state=UNKNOWN, problem=NOT_YET)
    return LinkRow(source=one.pod.node, to=to, state=WELL if probe.ok else BROKEN, problem=probe.problem)
