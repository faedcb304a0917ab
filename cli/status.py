# SPDX-License-Identifier: Apache-2.0
"""Judges what was read of a cluster: facts in, a report with findings out; pure, for cli.

A Report is what `ilanet status -o json` prints, field by field, beside `"kind": "ilanet/status"` and `"version": 1`.
Fields may be added; one that is taken away or changes its meaning raises the version.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cli.facts import AGENT_PORT, CONTROLLER_PORT, NEVER, Agent, Asked, Facts, Node, Pod

PROBLEM, WARNING = "problem", "warning"
WELL, BROKEN, UNKNOWN = "well", "broken", "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is not as it should be."""

    severity: str
    """'problem': not well; 'warning': well, but somebody should know."""

    about: str
    """Such as 'node worker-1' or 'controller ilanet-controller-x'."""

    what: str
    next: str
    """What to do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    """A node of Kubernetes and its agent."""

    name: str
    ready: bool
    agent: str | None
    """Name of the agent's pod."""

    answers: bool
    version: str = ""
    locator: str | None = None
    address: str | None = None
    serving: bool = False
    mappings: int | None = None
    complete: bool = False
    endpoints: int | None = None
    generation: str | None = None
    behind: int | None = None
    """etcd revisions that the newest published mapping is ahead of this agent; null: unknown, or of another epoch."""

    problems: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerRow:
    """A replica of the controller."""

    name: str
    node: str
    ready: bool
    answers: bool
    serving: bool = False
    leader: bool | None = None
    version: str = ""
    reason: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdRow:
    """A member of ilanet's own etcd."""

    name: str
    node: str
    ready: bool
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRow:
    """The underlay from one node towards another, as the first one's agent probed it."""

    source: str
    to: str
    state: str
    """'well', 'broken' or 'unknown'."""

    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that `ilanet status` shows."""

    well: bool
    """Whether there is no problem; warnings do not count."""

    namespace: str
    nodes: tuple[NodeRow, ...]
    controllers: tuple[ControllerRow, ...]
    etcd: tuple[EtcdRow, ...]
    links: tuple[LinkRow, ...]
    findings: tuple[Finding, ...]


def judge(facts: Facts) -> Report:
    """Return the report of what was read."""
    agents = {one.pod.node: one for one in facts.agents}
    links = tuple(_links(facts))
    judges = (_nodes(facts, agents), _agents(facts), _versions(facts), _controllers(facts), _etcd(facts))
    findings = [found for judged in judges for found in judged] + [*_broken(facts, links)]
    findings.sort(key=lambda found: found.severity)  # "problem" comes before "warning"; else as found
    return Report(
        well=not any(found.severity == PROBLEM for found in findings),
        namespace=facts.namespace,
        nodes=tuple(_node_row(facts, node, agents.get(node.name)) for node in facts.nodes),
        controllers=tuple(_controller_rows(facts)),
        etcd=tuple(EtcdRow(name=pod.name, node=pod.node, ready=pod.ready, reason=pod.trouble) for pod in facts.etcd),
        links=links,
        findings=tuple(findings),
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
        behind=_behind(facts, says),
        problems=len(says.problems),
    )


def _behind(facts: Facts, says: Agent) -> int | None:
    newest = facts.newest or NEVER
    if says.generation >= newest:
        return 0
    return newest.revision - says.generation.revision if newest.epoch == says.generation.epoch else None


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
        return LinkRow(source=one.pod.node, to=to, state=UNKNOWN, problem="not probed yet")
    return LinkRow(source=one.pod.node, to=to, state=WELL if probe.ok else BROKEN, problem=probe.problem)


# --- findings ---


def _problem(about: str, what: str, then: str) -> Finding:
    return Finding(severity=PROBLEM, about=about, what=what, next=then)


def _nodes(facts: Facts, agents: dict[str, Asked[Agent]]) -> Iterator[Finding]:
    if not facts.nodes:
        yield _problem("cluster", "it has no nodes", "join a node")
    if not facts.agents:
        yield _problem(
            f"namespace {facts.namespace}",
            "no agent pod is there: ilanet does not run as pods in this namespace",
            "deploy it (kubectl apply -k deploy/...), or name its namespace with --namespace",
        )
    for node in facts.nodes:
        about = f"node {node.name}"
        if facts.agents and node.name not in agents:
            then = f"kubectl -n {facts.namespace} describe daemonset ilanet-agent"
            yield _problem(about, "it has no agent pod", then)
        if not node.ready:
            yield _problem(about, f"not Ready: {node.reason}", f"kubectl describe node {node.name}")
        if node.network_unavailable:
            yield _problem(
                about,
                "its condition NetworkUnavailable is True",
                "the controller clears it once the node's agent has reported: see the agent and the controllers",
            )


def _agents(facts: Facts) -> Iterator[Finding]:
    for one in facts.agents:
        about = f"agent on {one.pod.node}" if one.pod.node else f"agent {one.pod.name}"
        logs = _logs(facts, one.pod)
        if one.says is None:
            yield _problem(about, one.why, _why_silent(facts, one.pod, one.why))
            continue
        says = one.says
        for part, why in says.problems.items():
            yield _problem(about, f"{part}: {why}", _ADVICE.get(part.split()[0], "") or logs)
        if not says.serving and not says.problems:
            yield _problem(about, "it does not serve: no pod starts there", logs)
        if not one.pod.ready and says.serving and not says.problems:
            yield _problem(about, f"its pod is not ready: {one.pod.trouble}", logs)
        if says.serving and not says.complete:
            yield _problem(
                about, "it has not heard all mappings yet: pods there do not reach all others", _ADVICE["etcd"]
            )
        elif (behind := _behind(facts, says)) != 0:
            much = "of an older epoch" if behind is None else f"{behind} revisions behind"
            yield _problem(
                about, f"its mappings are {much}: pods there may not reach those that moved", _ADVICE["etcd"]
            )
        present = {other.pod.node for other in facts.agents if other.says and other.says.locator}
        if missing := sorted(present - {*says.nodes, one.pod.node}) if says.complete else []:
            yield _problem(about, f"it does not know {_some(missing)}", _ADVICE["etcd"])


def _why_silent(facts: Facts, pod: Pod, why: str) -> str:
    if "forbidden" in why:
        return f"kubectl create role ilanet-status -n {facts.namespace} --verb=get --resource=pods/proxy, bound to you"
    if not pod.running:
        return f"kubectl -n {facts.namespace} describe pod {pod.name}; {_logs(facts, pod)}"
    port = AGENT_PORT if pod.component == "agent" else CONTROLLER_PORT
    return f"{_logs(facts, pod)}; can the API server's host reach TCP port {port} of that node?"


def _logs(facts: Facts, pod: Pod) -> str:
    return f"kubectl -n {facts.namespace} logs {pod.name}"


_ADVICE = {
    "controller": "see the controllers below; from the node, does the Service ilanet-controller answer (kube-proxy)?",
    "certificates": "see the controllers' logs for enrolment: they sign against the agent's token and this node's name",
    "etcd": "see the etcd pods; from the node, does the Service ilanet-etcd answer (kube-proxy)?",
    "mappings": "the kernel's map refuses: is it full? see the agent's log",
    "reserve": "pods start while identifiers are left; see the controllers, which hand out more",
    "publication": "other nodes do not reach these pods yet; see the controllers and etcd",
    "release": "addresses of deleted pods stay taken meanwhile; see the controllers",
    "report": "see the controllers",
    "plugin": "put that plugin's executable into the node's /opt/cni/bin, or take it out of cni_chain in agent.toml",
}
"""What to do about a problem that an agent has, by its first word."""


def _versions(facts: Facts) -> Iterator[Finding]:
    agents = {one.says.version for one in facts.agents if one.says}
    controllers = {one.says.version for one in facts.controllers if one.says}
    versions = (agents | controllers) - {""}
    if len(versions) > 1:
        yield Finding(
            severity=WARNING,
            about="versions",
            what=f"several run side by side: {', '.join(sorted(versions))}",
            next=f"fine during an upgrade; kubectl -n {facts.namespace} rollout status daemonset/ilanet-agent",
        )


def _controllers(facts: Facts) -> Iterator[Finding]:
    if facts.agents and not facts.controllers:
        yield _problem(
            f"namespace {facts.namespace}",
            "no controller pod is there",
            f"kubectl -n {facts.namespace} describe deployment ilanet-controller",
        )
    for one in facts.controllers:
        about = f"controller {one.pod.name}"
        if one.says is None:
            yield _problem(about, one.why, _why_silent(facts, one.pod, one.why))
        elif not one.says.serving or not one.pod.ready:
            why = one.says.reason or one.pod.trouble
            yield _problem(about, f"it does not serve: {why}", f"{_logs(facts, one.pod)}; see the etcd pods")
    says = [one.says for one in facts.controllers if one.says]
    leads = [one.leader for one in says]
    if says and None not in leads and not any(leads) and len(says) == len(facts.controllers):
        lease = f"kubectl -n {facts.namespace} get lease ilanet-controller -o yaml"
        yield _problem("controllers", "none leads: nothing is swept, no condition cleared", lease)
    for warning in dict.fromkeys(text for one in says for text in one.warnings):
        yield Finding(severity=WARNING, about="controllers", what=warning, next=_after(warning))


def _after(warning: str) -> str:
    if "NetworkPolic" in warning:
        return "deploy what enforces them (the overlay with kube-network-policies), or delete them"
    return "see the controller's log"


def _etcd(facts: Facts) -> Iterator[Finding]:
    for pod in facts.etcd:
        if not pod.ready:
            then = f"kubectl -n {facts.namespace} describe pod {pod.name}; {_logs(facts, pod)} -c etcd"
            yield _problem(f"etcd {pod.name}", pod.trouble, then)


def _broken(facts: Facts, links: tuple[LinkRow, ...]) -> Iterator[Finding]:
    """Yield what is wrong between nodes; a link that nobody can know of is told where its agent is."""
    for link in links:
        if link.state == BROKEN:
            yield _problem(
                f"link {link.source} -> {link.to}",
                link.problem or "probes are lost",
                "the underlay must route each locator, take SIR sources from every node (no strict source check) "
                "and not filter by connection state between nodes",
            )
        elif link.problem == "not probed yet":
            yield _problem(f"link {link.source} -> {link.to}", link.problem, "wait some seconds (--wait)")
    silent = [one.pod.node for one in facts.agents if one.says and one.says.probes is None]
    if silent and len(facts.agents) > 1:
        what = f"links are unknown: agents of this version do not probe ({_some(silent)})"
        yield Finding(severity=WARNING, about="links", what=what, next="ilanet connectivity test shows them")


def _some(names: list[str], most: int = 5) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{rest}"
