# SPDX-License-Identifier: Apache-2.0
"""What an operator may give wrongly: log, Event and `ilanet status` say what and what to do, and the network stays.

The rest of the table in docs/operator.md is pure: tests/unit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from lab.fabric import Host
from lab.kubernetes.cluster import SYSTEM, KubernetesCluster
from lab.process import SOURCE
from tests.cluster.kubectl import Kubectl, deployment, eventually
from tests.cluster.operating import (
    AGENT,
    CONTROLLER,
    OTHER_SETTINGS,
    agent_of,
    changed,
    has_event,
    has_finding,
    is_well,
    logs,
)
from tests.cluster.shapes import ON_POD_CIDRS, ON_POOL, lab_cluster

pytestmark = pytest.mark.timeout(300)

SERVICE = "ILANET_CONTROLLER_SERVICE_HOST"


@pytest.fixture
def stays(kube: Kubectl) -> Callable[[], None]:
    """Return what asserts that two pods on different nodes, there since before, are as they were."""
    kube.apply(deployment("web", replicas=2))
    before = kube.ready("web", 2)

    def check() -> None:
        now = kube.pods("web")
        assert [pod["metadata"]["uid"] for pod in now] == [pod["metadata"]["uid"] for pod in before]
        for pod, other in (now, reversed(now)):
            name = other["metadata"]["name"]
            assert kube.ask(pod["metadata"]["name"], other["status"]["podIP"], "/hostname") == name

    check()
    return check


def nudge(host: Host) -> None:
    """Have a host's kernel say that something changed, so that its agent looks now and not within half a minute."""
    host.namespace.run("ip", "link", "add", "nudge0", "type", "veth", "peer", "name", "nudge1")
    host.namespace.run("ip", "link", "delete", "nudge0")


def sir_prefix(prefix: str) -> Callable[[str], str]:
    """Return what gives settings another SIR prefix."""
    return lambda text: re.sub(r'sir_prefix = ".*"', f'sir_prefix = "{prefix}"', text)


WRONG = {
    "range of Services": (
        sir_prefix("fd00:10:96::/64"),
        "IlanetRefused",
        ("SIR prefix fd00:10:96::/64 overlaps with what the cluster uses", "Service", "choose another prefix"),
    ),
    "range of nodes": (
        sir_prefix("fd00:a::/64"),
        "IlanetRefused",
        ("SIR prefix fd00:a::/64 overlaps with what the cluster uses", "this controller's node", "choose another"),
    ),
    "another SIR prefix": (
        sir_prefix("fd00:dead:beef::/64"),
        "IlanetRefused",
        ("sir_prefix is fd00:10:244::/64 in etcd, fd00:dead:beef::/64 in this", "set it as etcd has it"),
    ),
    "wrong endpoint": (
        lambda text: text.replace("HOST}]:2379", "HOST}]:2378"),
        "IlanetNotServing",
        ("etcd at [", "]:2378 ([etcd] of controller.toml) "),
    ),
}
"""Settings of controllers: the change, the Event's reason, and what is said."""


@ON_POOL
@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize("what", list(WRONG))
def test_controllers_with_wrong_settings(
    door: Sequence[str], system: Kubectl, stays: Callable[[], None], what: str
) -> None:
    """The first one that gets them says it, and serves nobody; the others go on as they are."""
    change, reason, words = WRONG[what]
    with changed(system, CONTROLLER, change):

        def said() -> None:
            assert all(word in logs(system, "controller") for word in words)
            has_event(system, reason, *words)
            rows = has_finding(door, *words)
            assert any(one["serving"] for one in rows["controllers"])
            assert all(node["serving"] for node in rows["nodes"])

        eventually(said)
        stays()
    eventually(lambda: is_well(door))
    stays()


@ON_POD_CIDRS
@pytest.mark.parametrize(
    ("port", "wrong", "words"),
    [
        ("2379", "2378", ("etcd: at [", "]:2378: etcd does not answer")),
        ("7443", "7445", ("controller: registration: controller [", "]:7445: UNAVAILABLE")),
    ],
)
def test_an_agent_with_a_wrong_endpoint(
    ours: KubernetesCluster,
    door: Sequence[str],
    system: Kubectl,
    stays: Callable[[], None],
    *,
    port: str,
    wrong: str,
    words: tuple[str, str],
) -> None:
    """It goes on with what it knows, and names what does not answer; a controller, if it has one, writes the Event."""
    node = ours.lab.hosts[-1].name
    with changed(system, AGENT, lambda text: text.replace(f"HOST}}]:{port}", f"HOST}}]:{wrong}")):
        system("delete", "pod", agent_of(system, node), "--wait=true")
        agent = eventually(lambda: agent_of(system, node))

        def said() -> None:
            assert all(word in system("logs", agent) for word in words)
            has_finding(door, *words)
            if port == "2379":
                has_event(system, "IlanetProblem", *words)

        eventually(said)
        stays()
    eventually(lambda: is_well(door))
    stays()


@ON_POD_CIDRS
def test_an_etcd_of_one_s_own_without_its_secret(
    ours: KubernetesCluster, door: Sequence[str], system: Kubectl, stays: Callable[[], None]
) -> None:
    """One controller and one agent wait for it, and say so; the rest stays as it was deployed before."""
    missing = 'secret "ilanet-etcd-client" not found'
    system("apply", "-k", str(SOURCE / "deploy/external-etcd"), namespaced=False)
    try:

        def said() -> None:
            has_event(system, "FailedMount", missing)
            rows = has_finding(door, missing)
            steps = {one["next"] for one in rows["findings"] if missing in one["what"]}
            assert all("make that Secret" in step for step in steps)
            about = {name for one in rows["findings"] if missing in one["what"] for name in one["about"]}
            assert {name.split()[0] for name in about} == {"agent", "controller"}

        eventually(said)
        stays()
    finally:
        system("apply", "-k", str(ours.deploy), namespaced=False)
        for workload in (CONTROLLER, AGENT):
            system("rollout", "status", workload, "--timeout=120s", timeout=130)
    eventually(lambda: is_well(door))
    stays()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (
            {"HOST_IPS": "10.0.0.1", SERVICE: "fd00::1"},
            "key 'address': '10.0.0.1': has no IPv6 address: ilanet needs nodes with one",
        ),
        ({"HOST_IPS": "fd00::1"}, "'ILANET_CONTROLLER_SERVICE_HOST': there was no such Service when this pod started"),
    ],
)
def test_a_cluster_of_ipv4(
    door: Sequence[str], system: Kubectl, kube: Kubectl, environment: dict[str, str], words: str
) -> None:
    """An agent there ends at once, before it touches anything; Kubernetes shows its last words by itself."""
    found = system.get(AGENT)["spec"]["template"]["spec"]
    text = (SOURCE / "deploy/base/agent.toml").read_text()
    labels = {"app.kubernetes.io/name": "ilanet", "app.kubernetes.io/component": "agent"}
    metadata = {"name": OTHER_SETTINGS, "labels": labels}
    environment = {"NODE_NAME": "n1", "ILANET_ETCD_SERVICE_HOST": "fd00::2", **environment}
    container = {
        "name": "agent",
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "volumeMounts": [{"name": "settings", "mountPath": "/etc/ilanet"}],
    }
    real = found["containers"][0]
    container |= {key: real[key] for key in ("image", "imagePullPolicy", "command", "terminationMessagePolicy")}
    spec = {
        "containers": [container],
        "volumes": [{"name": "settings", "configMap": {"name": OTHER_SETTINGS}}],
        "tolerations": [{"operator": "Exists"}],
    }
    kube.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"agent.toml": text}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec},
    )

    def said() -> None:
        assert words in kube("logs", OTHER_SETTINGS)
        status = kube.get("pod", OTHER_SETTINGS)["status"]["containerStatuses"][0]
        ended = status["state"].get("terminated") or status["lastState"].get("terminated") or {}
        assert words in ended.get("message", "")
        has_finding(door, words, namespace=kube.namespace)

    eventually(said)


@ON_POD_CIDRS
@pytest.mark.parametrize(
    ("name", "said_of_it"),
    [("05-other.conflist", "comes before 10-ilanet.conflist"), ("20-other.conflist", "is the network of this node")],
)
def test_another_network(
    ours: KubernetesCluster,
    door: Sequence[str],
    system: Kubectl,
    stays: Callable[[], None],
    *,
    name: str,
    said_of_it: str,
) -> None:
    """What its runtime uses is said of that node, and left alone: one beside ours, and one that is there without it."""
    node = ours.nodes[-1]
    theirs = {"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "loopback"}]}
    words = (f"runtime: /etc/cni/net.d/{name} {said_of_it}", "remove it")
    folder = Path(f"{node.runtime.machine.root}/etc/cni/net.d")
    file, written = folder / name, folder / "10-ilanet.conflist"
    stays_beside = name < written.name
    file.write_text(json.dumps(theirs))
    try:
        if not stays_beside:
            written.unlink()
        nudge(node.host)

        def said() -> None:
            has_finding(door, *words)
            has_event(system, "IlanetProblem", *words)
            assert words[0] in system("logs", agent_of(system, node.host.name))

        eventually(said)
        assert json.loads(file.read_text()) == theirs
        assert written.exists() is stays_beside
        stays()
    finally:
        file.unlink()
        nudge(node.host)
    eventually(lambda: is_well(door))


def test_a_kube_proxy_that_takes_pods_for_outsiders(
    ours: KubernetesCluster, door: Sequence[str], system: Kubectl, stays: Callable[[], None]
) -> None:
    """It masquerades what pods send to Services: the agent of that node says what to set."""
    node = ours.nodes[-1]
    words = ("kube-proxy: Services show this node's address", "detectLocalMode: InterfaceNamePrefix")
    node.start_proxy(
        proxy_mode=ours.proxy_mode, detect={"detectLocalMode": "ClusterCIDR", "clusterCIDR": "fd00:dead::/56"}
    )
    try:
        system("delete", "pod", agent_of(system, node.host.name), "--wait=true")  # else it looks every ten minutes

        def said() -> None:
            has_finding(door, *words)
            has_event(system, "IlanetProblem", *words)
            assert words[0] in system("logs", agent_of(system, node.host.name))

        eventually(said, patience=120)
        stays()
    finally:
        node.start_proxy(proxy_mode=ours.proxy_mode)
    eventually(lambda: is_well(door), patience=90)


@pytest.fixture
def narrow() -> Iterator[KubernetesCluster]:
    """Yield one more cluster, of a node, whose controller manager gives podCIDRs that are no /64."""
    with lab_cluster("n", nodes=1, deploy=SOURCE / "deploy/kind", pod_mask=60) as cluster:
        cluster.begin()
        yield cluster


@ON_POD_CIDRS
@pytest.mark.usefixtures("ours")
def test_pod_cidrs_that_are_no_locators(narrow: KubernetesCluster) -> None:
    """The node stays as it came, and log, Event and status say what to give the controller manager."""
    door, system = narrow.control.words, Kubectl(narrow.control.words, SYSTEM)
    words = ("podCIDR fd00:c0de::/60 of node 'host1' is no /64", "--node-cidr-mask-size-ipv6=64")

    def said() -> None:
        has_event(system, "IlanetRefused", *words)
        assert all(word in logs(system, "agent") for word in words)
        has_finding(door, *words)

    eventually(said, patience=90)
    (node,) = system.get("nodes")["items"]
    ready = next(one for one in node["status"]["conditions"] if one["type"] == "Ready")
    assert ready["status"] == "False"
    assert not (Path(f"{narrow.nodes[0].runtime.machine.root}") / "etc/cni/net.d/10-ilanet.conflist").exists()
