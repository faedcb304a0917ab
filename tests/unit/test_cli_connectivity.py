# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio

import pytest

from cli.cluster import ClusterError
from cli.connectivity import objects
from cli.connectivity.run import NODE_TO_POD, Settings, Summary, connectivity
from cli.connectivity.scenarios import FAILED, PASSED, SCENARIOS, SKIPPED, Result
from cli.connectivity.world import Failed, client_address, cluster_domain, resolved
from cli.render import result_line, summary_line
from tests.fakes_cli import FakeNetwork

NAMES = [NODE_TO_POD, *(scenario.name for scenario in SCENARIOS)]


async def tried(network: FakeNetwork, **settings: object) -> tuple[Summary, list[str]]:
    """Return how a test ends, and what it says beside its results."""
    heard: list[str] = []
    chosen = Settings(**({"image": "test:1", "patience": 0.01} | settings))  # type: ignore[arg-type]
    summary = await connectivity(network, chosen, show=lambda _: None, say=heard.append)
    return summary, heard


def outcomes(summary: Summary) -> dict[str, str]:
    return {result.test: result.outcome for result in summary.results}


def reason(summary: Summary, test: str) -> str:
    return next(result.reason for result in summary.results if result.test == test)


async def test_a_network_that_works() -> None:
    """Every scenario passes but the one that is not asked for, and nothing is left."""
    network = FakeNetwork("n1", "n2", "n3")
    summary, _ = await tried(network, patience=30.0)
    assert outcomes(summary) == dict.fromkeys(NAMES, PASSED) | {"pod to outside": SKIPPED}, summary.results
    assert (summary.well, summary.left, network.namespaces) == (True, None, {})
    assert "n1 -> n2" in reason(summary, "StatefulSet comes back")
    assert summary_line(summary) == "12 passed, 1 not asked, on 3 nodes"


async def test_one_node() -> None:
    """What needs two nodes is not asked; the rest passes."""
    summary, _ = await tried(FakeNetwork("n1"), patience=30.0)
    skipped = [name for name, outcome in outcomes(summary).items() if outcome == SKIPPED]
    assert skipped == ["pod to pod, across nodes", "pod to outside", "StatefulSet comes back"]
    assert summary.well


async def test_a_broken_link_is_named() -> None:
    """Packets lost from one node to another fail what crosses them, and the reason names who asked whom."""
    network = FakeNetwork("n1", "n2")
    network.broken = {("n2", "n1")}
    summary, _ = await tried(network)
    ends = outcomes(summary)
    assert (ends["pod to pod, one node"], ends["pod to pod, across nodes"]) == (PASSED, FAILED)
    assert reason(summary, "pod to pod, across nodes").startswith("1 of 2 failed: first-1 (n2) asks [")
    assert "first-1 (n2) does not reach [fd00:a::1]:10250: TIMEOUT" in reason(summary, "pod to node")
    assert not summary.well


async def test_masquerading_is_seen() -> None:
    """A pod that is seen with another address than its own fails, and kube-proxy's setting is named."""
    network = FakeNetwork("n1", "n2")
    network.masqueraded = True
    summary, _ = await tried(network)
    assert outcomes(summary)["pod to Service"] == FAILED
    assert "detectLocalMode" in reason(summary, "pod to pod, across nodes")


async def test_an_address_that_is_not_kept_fails() -> None:
    """A StatefulSet's pod that comes back with another address fails by both addresses."""
    network = FakeNetwork("n1", "n2")
    network.keeps_address = False
    summary, _ = await tried(network, patience=30.0)
    assert [name for name, outcome in outcomes(summary).items() if outcome == FAILED] == ["StatefulSet comes back"]
    assert "it came back with fd00:10:244::" in reason(summary, "StatefulSet comes back")


async def test_outside() -> None:
    """What is named outside is tried from every node."""
    summary, _ = await tried(FakeNetwork("n1", "n2"), outside="[2001:db8::1]:443")
    assert "2 of 2 failed: first-0 (n1) does not reach [2001:db8::1]:443" in reason(summary, "pod to outside")


async def test_pods_that_do_not_start() -> None:
    """Those that never are Ready are named, and the others go on."""
    network = FakeNetwork("n1", "n2")
    network.never_ready = {"first-1", objects.DOOR}
    summary, _ = await tried(network)
    ends = outcomes(summary)
    assert "2 not Ready: first-1 on n2: not probed" in reason(summary, NODE_TO_POD)
    assert (ends["pod to pod, one node"], ends["host port"]) == (PASSED, SKIPPED)
    assert not summary.well


async def test_a_namespace_without_its_account_yet() -> None:
    """The first pods are created again until the namespace has its service account."""
    network = FakeNetwork("n1")
    network.account = False
    summary, _ = await tried(network, patience=30.0)
    assert outcomes(summary)[NODE_TO_POD] == PASSED


async def test_exec_that_fails_is_a_result() -> None:
    """An API server that fails in the middle fails a scenario, not the test."""
    network = FakeNetwork("n1", "n2")
    network.fail_next["run"] = ClusterError("exec was cut off")
    summary, _ = await tried(network, patience=30.0)
    assert summary.well, summary.results


@pytest.mark.parametrize("call", ["create", "patch"])
async def test_a_failure_cleans_up(call: str) -> None:
    """What fails while it is deployed, or later, leaves no namespace."""
    network = FakeNetwork("n1", "n2")
    network.fail_next[call] = ClusterError("away")
    if call == "create":
        with pytest.raises(ClusterError, match="away"):
            await tried(network)
    else:
        assert outcomes((await tried(network))[0])["StatefulSet comes back"] == FAILED
    assert network.namespaces == {}


async def test_an_interruption_cleans_up() -> None:
    """Cancelled in the middle of a wait, it removes its namespace before it ends."""
    network = FakeNetwork("n1")
    network.never_ready = {"first-0"}
    running = asyncio.ensure_future(tried(network, patience=60.0))
    while not network.pods:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert network.namespaces == {}


async def test_keep() -> None:
    """Asked to keep it, the namespace stays and how to remove it is said."""
    network = FakeNetwork("n1")
    summary, heard = await tried(network, keep=True, patience=30.0)
    assert list(network.namespaces) == [summary.namespace] == [summary.left]
    assert f"kubectl delete namespace {summary.namespace}" in heard[-1]


async def test_a_removal_that_fails_is_said() -> None:
    """A namespace that may be left behind is named, with the command that removes it."""
    network = FakeNetwork("n1")
    network.fail_next["remove"] = ClusterError("away")
    heard: list[str] = []
    chosen = Settings(image="test:1", patience=30.0)
    summary = await connectivity(network, chosen, show=lambda _: None, say=heard.append, scenarios=SCENARIOS[:1])
    assert summary.left == summary.namespace
    assert heard[-1] == f"namespace {summary.left} may be left behind (away): kubectl delete namespace {summary.left}"


async def test_nodes_are_chosen() -> None:
    """Only the named nodes are used; a name that no node has is an error before anything is made."""
    network = FakeNetwork("n1", "n2", "n3")
    summary, _ = await tried(network, nodes=("n3", "n1"), patience=30.0)
    assert summary.nodes == ("n1", "n3")
    with pytest.raises(ClusterError, match="no node is named n9"):
        await tried(network, nodes=("n9",))


def test_a_row() -> None:
    """A result is a line with its time and reason."""
    row = result_line(Result(test="pod to node", outcome=FAILED, seconds=1.5, reason="why"))
    assert row.split() == ["pod", "to", "node", "failed", "1.50", "s", "why"]


BIND = "Server:\t\tfd00::a\nAddress:\tfd00::a#53\n\nName:\tweb.x\nAddress: fd00::1:0\n"
OLD_BIND = "Server:\t\tfd00::a\nAddress:\tfd00::a#53\n\nweb.x has AAAA address fd00::1:0\n"
BUSYBOX = "Server:\t\tfd00::a\nAddress:\t[fd00::a]:53\n\nName:\tweb.x\nAddress: fd00:0::1:0\n\n"


@pytest.mark.parametrize("text", [BIND, OLD_BIND, BUSYBOX])
def test_every_nslookup_is_read(text: str) -> None:
    """The server's own address is none of the answer, whoever prints it."""
    assert resolved(text) == {"fd00::1:0"}


def test_no_answer_of_nslookup() -> None:
    """A name without addresses has none."""
    assert resolved("Server:\t\tfd00::a\nAddress:\tfd00::a#53\n\n** server can't find web.x: NXDOMAIN\n") == set()


def test_the_cluster_s_domain() -> None:
    """It stands in the search list; a pod without one fails with the reason."""
    assert cluster_domain("nameserver ::1\nsearch x.svc.c.test svc.c.test c.test\n") == "c.test"
    with pytest.raises(Failed, match="DNS policy"):
        cluster_domain("nameserver ::1\n")


def test_a_client_s_address() -> None:
    """The address comes out of netexec's answer; what is none is quoted."""
    assert client_address("[fd00:0::1]:80") == "fd00::1"
    with pytest.raises(Failed, match="'hello'"):
        client_address("hello")
