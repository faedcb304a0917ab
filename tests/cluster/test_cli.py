# SPDX-License-Identifier: Apache-2.0
"""The operator's command on a real cluster, as a person runs it: a process with a kubeconfig."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Sequence

import pytest

from cli.__main__ import INTERRUPTED, NOT_WELL, WELL
from cli.connectivity.run import NODE_TO_POD
from cli.connectivity.scenarios import FAILED, SCENARIOS, SKIPPED
from cli.report import WELL as FINE
from lab.fabric import OUTSIDE
from lab.kubernetes.cluster import TEST_IMAGE, KubernetesCluster
from lab.process import SOURCE
from tests.cluster.kubectl import Kubectl
from tests.cluster.operating import command, ilanet
from tests.cluster.outside import PORT, outside
from tests.cluster.shapes import ON_POD_CIDRS

pytestmark = pytest.mark.timeout(300)


def left(kube: Kubectl) -> list[str]:
    """Return the namespaces of connectivity tests."""
    names = [item["metadata"]["name"] for item in kube.get("namespaces")["items"]]
    return [name for name in names if name.startswith("ilanet-connectivity-")]


def test_connectivity(cluster: KubernetesCluster | None, door: Sequence[str], kube: Kubectl) -> None:
    """Every scenario passes, but for an outside where there is none to name, and the namespace goes."""
    words, skipped = ["connectivity", "test", "--image", TEST_IMAGE], ["pod to outside"]
    with contextlib.ExitStack() as stack:
        if cluster is not None:
            stack.enter_context(outside(cluster, OUTSIDE))
            words, skipped = [*words, "--outside", f"[{OUTSIDE}]:{PORT}"], []
        status, said = ilanet(door, *words)
    outcomes = {result["test"]: (result["outcome"], result["reason"]) for result in said["results"]}
    assert [name for name, (outcome, _) in outcomes.items() if outcome == SKIPPED] == skipped
    assert [one for one in outcomes.items() if one[1][0] == FAILED] == []
    assert list(outcomes) == [NODE_TO_POD, *(scenario.name for scenario in SCENARIOS)]
    assert (status, said["well"], said["left"]) == (WELL, True, None)
    assert left(kube) == []


@ON_POD_CIDRS
def test_what_is_not_there_is_said(door: Sequence[str], kube: Kubectl) -> None:
    """An outside that does not answer fails by its name, what else there is passes, and the namespace goes."""
    words = ("connectivity", "test", "--image", TEST_IMAGE, "--outside", "[2001:db8::1]:443", "--patience", "15s")
    status, said = ilanet(door, *words)
    failed = [result for result in said["results"] if result["outcome"] == FAILED]
    assert [result["test"] for result in failed] == ["pod to outside"]
    assert "[2001:db8::1]:443" in failed[0]["reason"]
    assert (status, said["well"], left(kube)) == (NOT_WELL, False, [])


def test_ctrl_c_cleans_up(door: Sequence[str], kube: Kubectl) -> None:
    """Interrupted in the middle, it removes its namespace before it ends."""
    words = command(door, "connectivity", "test", "--image", TEST_IMAGE)
    with subprocess.Popen(words, cwd=SOURCE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert NODE_TO_POD in process.stdout.readline()
        assert left(kube)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    assert process.returncode == INTERRUPTED
    assert left(kube) == []


def test_status_of_a_cluster_that_is_well(door: Sequence[str], kube: Kubectl) -> None:
    """Every node has an agent that serves and has heard everything, one controller leads, and all is well.

    The underlay was probed in both directions between each two nodes within a minute, and nothing is wrong with it.
    """
    status, said = ilanet(door, "status", "--wait", "--timeout", "60s")
    assert (status, said["well"]) == (WELL, True), said["findings"]
    assert {link["state"] for link in said["links"]} == {FINE}
    names = {node["metadata"]["name"] for node in kube.get("nodes")["items"]}
    serving = {node["name"] for node in said["nodes"] if node["serving"] and node["complete"] and node["behind"] == 0}
    assert serving == names
    assert [one["leader"] for one in said["controllers"]].count(True) == 1
    assert {(link["source"], link["to"]) for link in said["links"]} == {
        (one, other) for one in names for other in names if one != other
    }


def test_status_where_nothing_is_deployed(door: Sequence[str], kube: Kubectl) -> None:
    """A namespace without agents is said to be one, and every node has a row all the same."""
    status, said = ilanet(door, "--namespace", kube.namespace, "status")
    assert (status, said["well"]) == (NOT_WELL, False)
    assert {node["name"] for node in said["nodes"]} == {node["metadata"]["name"] for node in kube.get("nodes")["items"]}
    assert ["no agent pod is there" in found["what"] for found in said["findings"]] == [True]
