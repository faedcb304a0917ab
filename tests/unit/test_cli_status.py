# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cli.cluster import ClusterError, Refused
from cli.facts import Agent, Asked, Controller, Facts, Node, Pod, Probe, last_word
from cli.gather import gather
from cli.render import as_json, status_lines
from cli.report import BROKEN, NOT_YET, PROBLEM, UNKNOWN, WARNING, Report
from cli.status import judge
from cli.wait import until_well
from ila.mapping import Generation
from tests.fakes_cli import FakeCluster, answer, node


def pod(component: str, on: str, **fields: object) -> Pod:
    well = Pod(name=f"{component}-{on}", component=component, node=on, running=True, ready=True)
    return replace(well, **fields)  # type: ignore[arg-type]


def agent(on: str, **fields: object) -> Asked[Agent]:
    well = Agent.parse(json.loads(answer(node=on)))
    return Asked(pod("agent", on), replace(well, **fields))  # type: ignore[arg-type]


CONTROLLER = Controller(version="1.0", serving=True, leader=True)
WELL = Facts(
    namespace="ilanet-system",
    nodes=(Node(name="node1", ready=True), Node(name="node2", ready=True)),
    agents=(agent("node1"), agent("node2")),
    controllers=(Asked(pod("controller", "node1"), CONTROLLER),),
    etcd=(pod("etcd", "node1"),),
    newest=Generation(1, 20),
)


def with_agent(**fields: object) -> Facts:
    """Return a cluster that is well but for one agent."""
    return replace(WELL, agents=(agent("node1"), agent("node2", **fields)))


def said(report: Report, severity: str = PROBLEM) -> list[str]:
    return [f"{', '.join(one.about)}: {one.what}" for one in report.findings if one.severity == severity]


def test_a_cluster_that_is_well() -> None:
    """Nothing is found, both directions between the nodes are well, and the table says so."""
    report = judge(WELL)
    assert report.findings == ()
    assert report.well
    assert [(link.source, link.to, link.state) for link in report.links] == [
        ("node1", "node2", "well"),
        ("node2", "node1", "well"),
    ]
    lines = list(status_lines(report))
    assert lines[-1] == "well"
    assert "links: 2 of 2 well" in lines


SERVES_NOT = replace(CONTROLLER, serving=False, reason="etcd is away")
WARNS = replace(CONTROLLER, warnings=("2 NetworkPolicies that nobody enforces",))
WRONG = [
    (replace(WELL, agents=(), controllers=()), "namespace ilanet-system: no agent pod is there"),
    (replace(WELL, agents=WELL.agents[:1]), "node node2: it has no agent pod"),
    (replace(WELL, nodes=()), "cluster: it has no nodes"),
    (replace(WELL, nodes=(Node(name="n", ready=False, reason="gone"),)), "node n: not Ready: gone"),
    (
        replace(WELL, nodes=(Node(name="node1", ready=True, network_unavailable=True),)),
        "node node1: its condition NetworkUnavailable is True",
    ),
    (replace(WELL, agents=(agent("node1"), Asked(pod("agent", "node2"), why="silence"))), "agent on node2: silence"),
    (with_agent(problems={"etcd": "it is away"}), "agent on node2: etcd: it is away"),
    (with_agent(serving=False), "agent on node2: it does not serve"),
    (with_agent(complete=False), "agent on node2: it has not heard all mappings"),
    (with_agent(generation=Generation(1, 12)), "agent on node2: its mappings are 8 revisions behind"),
    (with_agent(generation=Generation(0, 99)), "agent on node2: its mappings are of an older epoch"),
    (with_agent(nodes=("node2",)), "agent on node2: it does not know node1"),
    (with_agent(probes={"node1": Probe(ok=False, problem="strict source check")}), "link node2 -> node1: strict"),
    (with_agent(probes={}), f"link node2 -> node1: {NOT_YET}"),
    (replace(WELL, controllers=()), "namespace ilanet-system: no controller pod is there"),
    (
        replace(WELL, controllers=(Asked(pod("controller", "node1"), SERVES_NOT),)),
        "controller controller-node1: it does not serve: etcd is away",
    ),
    (
        replace(WELL, controllers=(Asked(pod("controller", "node1"), replace(CONTROLLER, leader=False)),)),
        "controllers: none leads",
    ),
    (replace(WELL, etcd=(pod("etcd", "node1", ready=False, trouble="no space"),)), "etcd etcd-node1: no space"),
]


@pytest.mark.parametrize(("facts", "begins"), WRONG, ids=[begins for _, begins in WRONG])
def test_what_is_wrong_is_said_with_what_to_do(facts: Facts, begins: str) -> None:
    """Each thing that can be wrong is one problem, the report is not well, and says what to do."""
    report = judge(facts)
    assert not report.well
    assert [one for one in said(report) if one.startswith(begins)], said(report)
    assert all(found.next for found in report.findings)
    assert list(status_lines(report))[-1].startswith("NOT WELL")


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        (with_agent(version="2.0"), "versions: several run side by side: 1.0, 2.0"),
        (with_agent(probes=None), "links: links are unknown: agents of this version do not probe (node2)"),
        (
            replace(WELL, controllers=(Asked(pod("controller", "node1"), WARNS),)),
            "controllers: 2 NetworkPolicies that nobody enforces",
        ),
    ],
)
def test_warnings_leave_it_well(facts: Facts, text: str) -> None:
    """What somebody should know, but needs no cure now, does not make the report bad."""
    report = judge(facts)
    assert report.well
    assert said(report, WARNING) == [text]
    assert list(status_lines(report))[-1] == "well, 1 warning"


def test_a_higher_generation_of_one_is_no_lag_of_others() -> None:
    """Behind is who lacks what somebody has published; a snapshot's revision may be above every mapping's."""
    report = judge(with_agent(generation=Generation(1, 900)))
    assert [row.behind for row in report.nodes] == [0, 0]
    assert report.well


def test_the_same_of_many_is_said_once_and_causes_come_first() -> None:
    """A controller that is away is told before the agents that miss it, and they in one finding."""
    agents = tuple(agent(name, problems={"controller": "no answer"}) for name in ("node1", "node2"))
    facts = replace(WELL, agents=agents, controllers=(Asked(pod("controller", "node1"), why="it does not run: x"),))
    assert said(judge(facts)) == [
        "controller controller-node1: it does not run: x",
        "agent on node1, agent on node2: controller: no answer",
    ]


def test_links_of_who_does_not_answer_are_unknown() -> None:
    """A silent agent's probes are unknown; those of others towards it stand."""
    other = agent("node1", probes={"node2": Probe(ok=False, problem="lost")})
    report = judge(replace(WELL, agents=(other, Asked(pod("agent", "node2"), why="silence"))))
    assert [(link.source, link.state) for link in report.links] == [("node1", BROKEN), ("node2", UNKNOWN)]


def test_json_is_the_report() -> None:
    """JSON says what it is, in which version, and has every field that is documented."""
    tree = json.loads(as_json("status", judge(with_agent(generation=Generation(0, 0)))))
    assert (tree["kind"], tree["version"], tree["well"]) == ("ilanet/status", 1, False)
    assert set(tree) == {"kind", "version", *Report.__dataclass_fields__}
    assert tree["nodes"][1]["behind"] is None
    assert tree["findings"][0]["about"] == ["agent on node2"]


# --- asking ---

CREATING = "ContainerCreating"
PODS = "/api/v1/namespaces/ilanet-system/pods"


def pod_tree(name: str, component: str, on: str, **status: object) -> dict[str, object]:
    well: dict[str, object] = {
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": component, "state": {"running": {}}, "restartCount": 0}],
    }
    labels = {"app.kubernetes.io/component": component}
    return {"metadata": {"name": name, "labels": labels}, "spec": {"nodeName": on}, "status": well | status}


def agent_path(name: str) -> str:
    return f"{PODS}/{name}:9475/proxy/status"


@pytest.fixture
def cluster() -> FakeCluster:
    """Return a cluster of two nodes with agents a1 and a2, and a controller."""
    fake = FakeCluster()
    fake.objects["/api/v1/nodes"] = {"items": [node("node1", "fd00:a::1"), node("node2", "fd00:a::2")]}
    pods = [pod_tree(f"a{i}", "agent", f"node{i}") for i in (1, 2)] + [pod_tree("c", "controller", "node1")]
    fake.objects[PODS] = {"items": pods}
    fake.texts = {agent_path(f"a{i}"): answer(node=f"node{i}") for i in (1, 2)}
    fake.texts[f"{PODS}/c:9476/proxy/status"] = '{"serving": true, "reason": "", "leader": true, "version": "1.0"}'
    return fake


async def asked(cluster: FakeCluster) -> Facts:
    return await gather(cluster, "ilanet-system", deadline=0.05, settle=0.01)


async def test_everything_is_asked(cluster: FakeCluster) -> None:
    """Nodes, agents and controllers that are well make a report that is."""
    report = judge(await asked(cluster))
    assert report.well, report.findings
    assert [row.agent for row in report.nodes] == ["a1", "a2"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "no answer within"),
        (Refused("503 connection refused", 503), "cannot be asked: 503"),
        (Refused("403 forbidden", 403), "you may not ask it: get pods/proxy in ilanet-system"),
        (ClusterError("the API server does not answer: reset"), "reset"),
        ("<html>", "does not parse"),
        ('{"node": "node2"}', "does not parse"),
        (answer(generation="twelve"), "'twelve' is not 'epoch/revision'"),
    ],
)
async def test_an_agent_that_does_not_answer_is_a_row(
    cluster: FakeCluster, text: str | Exception | None, why: str
) -> None:
    """Silence, refusal and nonsense of one agent are said of it, and the others are shown."""
    cluster.texts[agent_path("a2")] = text
    report = judge(await asked(cluster))
    assert [row.answers for row in report.nodes] == [True, False]
    assert [one for one in said(report) if one.startswith("agent on node2") and why in one], said(report)


async def test_who_is_behind_is_asked_again(cluster: FakeCluster) -> None:
    """A mapping that was on its way is no problem; one that never comes is."""
    ahead = {"ila1": {"pod": "p", "generation": "1/30"}}
    cluster.texts[agent_path("a1")] = answer(generation="1/30", endpoints=ahead)
    report = judge(await asked(cluster))
    assert cluster.asked.count(agent_path("a2")) == 2
    assert [row.behind for row in report.nodes] == [0, 10]
    assert not report.well


async def test_a_crashed_container_s_last_word_is_shown(cluster: FakeCluster) -> None:
    """What a container wrote last is part of why its pod does not run; where that cannot be had, the rest is."""
    waiting = {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 3}}}
    state = {"conditions": [], "containerStatuses": [{"name": "agent", "restartCount": 4, **waiting}]}
    cluster.objects[PODS] = {"items": [pod_tree("a1", "agent", "node1", **state)]}
    cluster.texts[f"{PODS}/a1/log"] = 'x\n{"level": "error", "message": "no BTF"}\n'
    (one,) = (await asked(cluster)).agents
    assert one.why == "it does not run: container agent ends again and again, with 3; its last word: no BTF"
    del cluster.texts[f"{PODS}/a1/log"]
    (one,) = (await asked(cluster)).agents
    assert one.why == "it does not run: container agent ends again and again, with 3"


async def test_pods_that_leave_are_not_judged(cluster: FakeCluster) -> None:
    """A pod that is being deleted and one that was evicted are no rows: others take their places."""
    leaving = pod_tree("old", "agent", "node1")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"  # type: ignore[index]
    evicted = pod_tree("out", "controller", "node2", phase="Failed")
    cluster.objects[PODS] = {"items": [*cluster.objects[PODS]["items"], leaving, evicted]}
    assert judge(await asked(cluster)).well


async def test_without_the_api_server_there_are_no_facts(cluster: FakeCluster) -> None:
    """That nodes or pods cannot be listed is an error, not a report."""
    cluster.fail_next["read"] = ClusterError("the API server does not answer")
    with pytest.raises(ClusterError, match="does not answer"):
        await asked(cluster)


async def test_what_a_pod_waits_for_is_shown(cluster: FakeCluster) -> None:
    """By its newest Event that warns, and what to do about a missing Secret; without the right to Events it goes on."""
    state = {"conditions": [], "containerStatuses": [{"name": "agent", "state": {"waiting": {"reason": CREATING}}}]}
    cluster.objects[PODS] = {"items": [pod_tree("a1", "agent", "node1", **state)]}
    (one,) = (await asked(cluster)).agents
    assert one.why == "it does not run: container agent: ContainerCreating"
    warnings = [
        {"type": "Warning", "reason": "FailedMount", "message": f'secret "{name}" not found', "lastTimestamp": when}
        for name, when in (("new", "2026-01-02T00:00:00Z"), ("old", "2026-01-01T00:00:00Z"))
    ]
    normal = {"type": "Normal", "reason": "Scheduled", "message": "it is", "lastTimestamp": "2026-01-03T00:00:00Z"}
    cluster.objects["/api/v1/namespaces/ilanet-system/events"] = {"items": [*warnings, normal]}
    facts = await asked(cluster)
    assert facts.agents[0].why.endswith('ContainerCreating; FailedMount: secret "new" not found')
    found = next(one for one in judge(facts).findings if "FailedMount" in one.what)
    assert found.next.startswith("make that Secret in ilanet-system")


@pytest.mark.parametrize(
    ("log", "word"),
    [
        ("", ""),
        ("a\nValueError: no\n\n", "ValueError: no"),
        ('{"message": "failed", "traceback": "Traceback\\nOSError: full"}\n', "failed OSError: full"),
        ("  | OSError: full\n  +-----------------\n", "OSError: full"),
        ("unable to retrieve container logs for containerd://1", ""),
        ("[1]", "[1]"),
    ],
)
def test_last_word(log: str, word: str) -> None:
    """The message of the last line, be it text, JSON or the end of a traceback."""
    assert last_word(log) == word


# --- waiting ---


async def waited(*looks: Report | ClusterError, timeout: float) -> tuple[Report, list[str]]:
    left = list(looks)
    heard: list[str] = []

    async def look() -> Report:
        found = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(found, ClusterError):
            raise found
        return found

    return await until_well(look, timeout=timeout, pause=0.01, say=heard.append), heard


async def test_wait_until_well() -> None:
    """It looks again after a problem and after an API server that did not answer, and says each reason once."""
    bad, good = judge(replace(WELL, agents=())), judge(WELL)
    report, heard = await waited(ClusterError("away"), bad, bad, good, timeout=10)
    assert report is good
    assert len(heard) == 2
    assert heard[0] == "away"
    assert "no agent pod is there" in heard[1]


async def test_wait_ends() -> None:
    """When time is up the last report is returned, bad as it is; without one the error is raised."""
    bad = judge(replace(WELL, agents=()))
    assert (await waited(bad, timeout=0.05))[0] is bad
    with pytest.raises(ClusterError, match="away"):
        await waited(ClusterError("away"), timeout=0.05)
