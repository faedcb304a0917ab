# SPDX-License-Identifier: Apache-2.0
"""What is not as it should be in a cluster, and what to do about it; pure, for cli.status."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from cli.facts import AGENT_PORT, CONTROLLER_PORT, NEVER, Agent, Facts, Pod
from cli.report import BROKEN, NOT_YET, PROBLEM, WARNING, Finding, LinkRow, some


def find(facts: Facts, links: Sequence[LinkRow]) -> tuple[Finding, ...]:
    """Return all that is not as it should be; problems come before warnings."""
    agents = {one.pod.node for one in facts.agents}
    # What others stand on comes first: a reader begins at the top.
    judges = (_etcd(facts), _controllers(facts), _agents(facts), _nodes(facts, agents), _broken(facts, links))
    return _merged([found for judged in (*judges, _versions(facts)) for found in judged])


def behind(facts: Facts, says: Agent) -> int | None:
    """Return how many revisions an agent lacks of what others have published; None if it is of another epoch."""
    newest = facts.newest or NEVER
    if says.generation >= newest:
        return 0
    return newest.revision - says.generation.revision if newest.epoch == says.generation.epoch else None


def _problem(about: str, what: str, then: str) -> Finding:
    return Finding(severity=PROBLEM, about=(about,), what=what, next=then)


def _merged(findings: list[Finding]) -> tuple[Finding, ...]:
    """Return one finding for all of whom the same is true: problems before warnings, else as found."""
    about: dict[tuple[str, str, str], list[str]] = {}
    for found in findings:
        about.setdefault((found.severity, found.what, found.next), []).extend(found.about)
    merged = [
        Finding(severity=severity, about=tuple(dict.fromkeys(names)), what=what, next=then)
        for (severity, what, then), names in about.items()
    ]
    return tuple(sorted(merged, key=lambda found: found.severity))  # "problem" < "warning"


def _nodes(facts: Facts, agents: Collection[str]) -> Iterator[Finding]:
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
            yield _problem(about, f"not Ready: {node.reason}", "see its agent, then kubectl describe node NAME")
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
        elif (lack := behind(facts, says)) != 0:
            much = "of an older epoch" if lack is None else f"{lack} revisions behind"
            yield _problem(
                about, f"its mappings are {much}: pods there may not reach those that moved", _ADVICE["etcd"]
            )
        present = {other.pod.node for other in facts.agents if other.says and other.says.locator}
        if missing := sorted(present - {*says.nodes, one.pod.node}) if says.complete else []:
            yield _problem(about, f"it does not know {some(missing)}", _ADVICE["etcd"])


def _why_silent(facts: Facts, pod: Pod, why: str) -> str:
    if "FailedMount" in why and "secret" in why:
        return f"make that Secret in {facts.namespace}: deploy/README.md, 'Each in a sentence', says what is in it"
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
    "etcd": "see the etcd pods; from the node, does the Service ilanet-etcd answer (kube-proxy)? [etcd] of agent.toml",
    "mappings": "the kernel's map refuses: is it full? see the agent's log",
    "reserve": "pods start while identifiers are left; see the controllers, which hand out more",
    "publication": "other nodes do not reach these pods yet; see the controllers and etcd",
    "release": "addresses of deleted pods stay taken meanwhile; see the controllers",
    "report": "see the controllers",
    "kube-proxy": "kubectl -n kube-system edit configmap kube-proxy (kubeadm, kind), then restart its pods",
    "runtime": "ls /etc/cni/net.d on that node: the first file by name is the network of its pods",
    "underlay": "docs/operator.md, 'What the underlay must do', has a table by cloud",
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
            about=("versions",),
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
        yield Finding(severity=WARNING, about=("controllers",), what=warning, next=_after(warning))


def _after(warning: str) -> str:
    if "host_path" in warning:
        return 'set host_path = "stack" in agent.toml, and restart the agents'
    if "NetworkPolic" in warning:
        return "deploy what enforces them (the overlay with kube-network-policies), or delete them"
    return "see the controller's log"


def _etcd(facts: Facts) -> Iterator[Finding]:
    for pod in facts.etcd:
        if not pod.ready:
            container = pod.crashed or "etcd"
            then = f"kubectl -n {facts.namespace} describe pod {pod.name}; {_logs(facts, pod)} -c {container}"
            yield _problem(f"etcd {pod.name}", pod.trouble, then)


def _broken(facts: Facts, links: Sequence[LinkRow]) -> Iterator[Finding]:
    """Yield what is wrong between nodes; a link that nobody can know of is told where its agent is."""
    for link in links:
        if link.state == BROKEN:
            yield _problem(
                f"link {link.source} -> {link.to}",
                link.problem or "probes are lost",
                "the underlay must route each locator, take SIR sources from every node (no strict source check) "
                "and not filter by connection state between nodes",
            )
        elif link.problem == NOT_YET:
            yield _problem(f"link {link.source} -> {link.to}", link.problem, "wait some seconds (--wait)")
    silent = [one.pod.node for one in facts.agents if one.says and one.says.probes is None]
    if silent and len(facts.agents) > 1:
        what = f"links are unknown: agents of this version do not probe ({some(silent)})"
        yield Finding(severity=WARNING, about=("links",), what=what, next="ilanet connectivity test shows them")
