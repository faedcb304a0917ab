# SPDX-License-Identifier: Apache-2.0
"""NetworkPolicy objects: ilanet warns while nobody enforces them; with deploy/network-policies they hold."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.report import WARNING
from controller.reports import FRESH
from lab.kubernetes.cluster import SYSTEM, KubernetesCluster
from lab.kubernetes.enforcer import TABLE, accepted, remove_table
from lab.namespace import CommandError
from lab.process import SOURCE
from tests.cluster.kubectl import PATIENCE, PORT, Kubectl, eventually, pod_spec, service
from tests.cluster.operating import AGENT, agent_of, changed, ilanet, logs
from tests.cluster.shapes import ON_POOL

pytestmark = pytest.mark.timeout(300)

ENFORCER = "app.kubernetes.io/name=kube-network-policies"
SAYS = "NetworkPolicy objects exist, and nothing enforces them"

FRIENDS, STRANGERS = ("friend-near", "friend-far"), ("stranger-near", "stranger-far")
CLIENTS = (*FRIENDS, *STRANGERS)

CLOSED = 9
"""A port on which nobody listens."""

FIRST_STREAM = 9000

_AT_ONCE = 4
"""Questions to a server, on two cores."""

_STRICT = 120.0
"""Seconds within which a connection ends that a new policy forbids: it looks at them twice a minute."""


@contextlib.contextmanager
def overlay(cluster: KubernetesCluster, folder: Path) -> Iterator[None]:
    """Apply the component as an operator does, and remove all of it, what stays on the hosts too."""
    component = os.path.relpath(SOURCE / "deploy/network-policies", folder.resolve())
    lines = (
        "apiVersion: kustomize.config.k8s.io/v1beta1",
        "kind: Kustomization",
        f"components: [{component}]\n",
    )
    (folder / "kustomization.yaml").write_text("\n".join(lines))
    system = Kubectl(cluster.control.words, SYSTEM)
    with accepted(cluster.lab.hosts):
        try:
            system("apply", "-k", str(folder), namespaced=False)
            system("rollout", "status", "daemonset/kube-network-policies", "--timeout=60s")
            yield
        finally:
            system("delete", "-k", str(folder), "--ignore-not-found", namespaced=False)
            system("wait", "--for=delete", "pod", "-l", ENFORCER, "--timeout=60s")
            for host in cluster.lab.hosts:
                remove_table(host, TABLE)


@pytest.fixture(scope="module")
def enforced(cluster: KubernetesCluster | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have policies enforced."""
    if cluster is None:
        pytest.skip("KUBECONFIG is of a cluster whose hosts are not ours to clean up")
    with overlay(cluster, tmp_path_factory.mktemp("policies")):
        yield


@pytest.fixture
def policies(kube: Kubectl) -> Iterator[Callable[..., None]]:
    """Yield what makes or changes a policy, given its name and spec; all are gone afterwards."""

    def make(name: str, **spec: object) -> None:
        kind = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
        kube.apply({**kind, "metadata": {"name": name}, "spec": spec})

    try:
        yield make
    finally:
        kube("delete", "networkpolicies", "--all")


@dataclass(frozen=True, slots=True)
class World:
    """A server on one node, clients on the same and on another one."""

    kube: Kubectl
    near: str
    far: str

    def start(self, name: str, *, far: bool = False, **labels: str) -> None:
        """Start a pod on one of the two nodes."""
        spec = {**pod_spec(), "nodeSelector": {"kubernetes.io/hostname": self.far if far else self.near}}
        metadata = {"name": name, "labels": {"app": name, **labels}}
        self.kube.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    def client(self, name: str) -> None:
        """Start one of the clients, whose name says what it is and where."""
        role, _, place = name.partition("-")
        self.start(name, far=place == "far", role=role)

    def address(self, name: str) -> str:
        """Return a pod's address, once it is Ready."""
        [found] = self.kube.ready(name, 1)
        return str(found["status"]["podIP"])

    def again(self, start: Callable[[], None], name: str) -> None:
        """End a pod and start it anew: it gets another address."""
        before = self.address(name)
        self.kube("delete", "pod", name)
        start()
        assert self.address(name) != before

    @property
    def cluster_ip(self) -> str:
        """The address of the server's Service."""
        return str(self.kube.get("service", "web")["spec"]["clusterIP"])

    def asks(self, client: str, address: str, port: int = PORT, protocol: str = "tcp") -> str:
        """Return '' if a pod reaches a place, else why not."""
        words = ("/agnhost", "connect", f"[{address}]:{port}", f"--protocol={protocol}", "--timeout=1s")
        try:
            self.kube("exec", client, "--", *words)
        except CommandError as error:
            return str(error)
        return ""

    def reach(self, clients: Sequence[str], *, closed: Sequence[str] = ()) -> None:
        """Assert that those clients reach the server, by its address and its Service, and those others do not."""
        places = ((self.address("web"), PORT), (self.cluster_ip, 80))
        asked = [
            (client, *place, protocol)
            for client in (*clients, *closed)
            for place in places
            for protocol in ("tcp", "udp")
        ]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            said = list(pool.map(lambda one: self.asks(*one), asked))
        for one, why in zip(asked, said, strict=True):
            assert ("TIMEOUT" in why) if one[0] in closed else not why, (one, why)


@pytest.fixture
def world(kube: Kubectl) -> World:
    """Return a server with a Service, friends and strangers, all of whom reach it."""
    near, far = (node["metadata"]["name"] for node in kube.get("nodes")["items"][:2])
    world = World(kube, near, far)
    kube.apply(service("web"))
    world.start("web")
    for name in CLIENTS:
        world.client(name)
    for name in ("web", *CLIENTS):
        world.address(name)
    eventually(lambda: world.reach(CLIENTS))
    return world


def selected(**labels: str) -> dict[str, Any]:
    """Return the selector of pods that have these labels; of all, if none are given."""
    return {"podSelector": {"matchLabels": labels} if labels else {}}


DENY = {**selected(app="web"), "policyTypes": ["Ingress"]}
ALLOW = {**DENY, "ingress": [{"from": [selected(role="friend")]}]}


@ON_POOL
def test_a_policy_that_nobody_enforces(
    ours: KubernetesCluster, policies: Callable[..., None], door: Sequence[str], tmp_path: Path
) -> None:
    """Status and log of the controllers warn of it while there is no enforcer, and at no other time."""
    system = Kubectl(door, SYSTEM)

    eventually(lambda: warns(door))
    policies("deny", **DENY)
    eventually(lambda: warns(door, SAYS))
    assert SAYS in logs(system, "controller")
    with overlay(ours, tmp_path):
        eventually(lambda: warns(door))
    eventually(lambda: warns(door, SAYS))


@ON_POOL
@pytest.mark.usefixtures("enforced")
def test_packets_that_pass_netfilter_by(
    ours: KubernetesCluster, policies: Callable[..., None], door: Sequence[str]
) -> None:
    """A node whose pods' packets do not meet what enforces policies is named, until they do again.

    A controller believes an agent for a while which reports to another controller since.
    """
    system, node = Kubectl(door, SYSTEM), ours.lab.hosts[1].name
    policies("deny", **DENY)
    with changed(system, AGENT, lambda text: f'host_path = "bpf"\n{text}'):
        system("delete", "pod", agent_of(system, node))
        eventually(lambda: warns(door, f'packets pass by what enforces them on {node}: say host_path = "stack"'))
    eventually(lambda: warns(door), patience=FRESH + PATIENCE)


def warns(door: Sequence[str], *words: str) -> None:
    """Assert that `ilanet status` warns of policies in these words, or in none."""
    found = [one for one in ilanet(door, "status")[1]["findings"] if "NetworkPolicy" in one["what"]]
    assert [one["severity"] for one in found] == [WARNING for _ in words], found
    for one, said in zip(found, words, strict=True):
        assert said in one["what"]
        assert "overlay with kube-network-policies" in one["next"] or "host_path" in one["next"]


@pytest.mark.usefixtures("enforced")
def test_ingress(world: World, policies: Callable[..., None]) -> None:
    """Nobody reaches a pod that is closed, and then who is allowed to, also with other addresses or labels.

    The kubelet's probes pass all the time; who is allowed is told that nobody listens on a port.
    """
    policies("web", **DENY)
    eventually(lambda: world.reach((), closed=CLIENTS))
    policies("web", **ALLOW)
    eventually(lambda: world.reach(FRIENDS, closed=STRANGERS))
    web = world.kube.get("pod", "web")
    assert {one["type"]: one["status"] for one in web["status"]["conditions"]}["Ready"] == "True"
    for client in FRIENDS:
        for protocol in ("tcp", "udp"):
            assert "REFUSED" in world.asks(client, world.address("web"), CLOSED, protocol)

    for client in ("friend-far", "stranger-near"):
        world.again(lambda client=client: world.client(client), client)  # type: ignore[misc]
    eventually(lambda: world.reach(FRIENDS, closed=STRANGERS))
    world.again(lambda: world.start("web", far=True), "web")
    eventually(lambda: world.reach(FRIENDS, closed=STRANGERS))
    world.kube("label", "pod", "stranger-near", "role=friend", "--overwrite")
    eventually(lambda: world.reach((*FRIENDS, "stranger-near"), closed=STRANGERS[1:]))
    world.kube("delete", "networkpolicy", "web")
    eventually(lambda: world.reach(CLIENTS))


@pytest.mark.usefixtures("enforced")
def test_connections_that_are_there(world: World, policies: Callable[..., None]) -> None:
    """A connection that a new policy forbids ends within a minute or two; the others go on."""
    web, clients = world.address("web"), CLIENTS
    ports = {client: FIRST_STREAM + number for number, client in enumerate(clients)}
    for client, port in ports.items():
        world.kube.shell("web", f"(tail -f /dev/null | nc -l -p {port} >/tmp/{client}) >/tmp/nc 2>&1 &")
        world.kube.shell(client, f"(while sleep 0.2; do date; done | nc {web} {port}) >/tmp/nc 2>&1 &")

    def moves() -> dict[str, bool]:
        count = f"cd /tmp && wc -c {' '.join(clients)}"
        first, second = (world.kube.shell("web", f"{wait}{count}").splitlines() for wait in ("", "sleep 3; "))
        return {client: one != two for client, one, two in zip(clients, first, second, strict=False)}

    def only(wanted: Sequence[str]) -> None:
        assert moves() == {client: client in wanted for client in clients}

    eventually(lambda: only(clients))
    policies("web", **ALLOW)
    eventually(lambda: only(FRIENDS), patience=_STRICT)


@pytest.mark.usefixtures("enforced")
def test_egress(world: World, policies: Callable[..., None]) -> None:
    """Who may send nothing reaches no pod, Service, name or node, but is reached; what is allowed again passes."""
    node = next(
        one["address"]
        for one in world.kube.get("node", world.near)["status"]["addresses"]
        if one["type"] == "InternalIP"
    )
    places = {"node": (node, 10250), "friend": (world.address("friend-far"), PORT)}
    policies("strangers", **selected(role="stranger"), policyTypes=["Egress"])
    eventually(lambda: world.reach(FRIENDS, closed=STRANGERS))
    for client in STRANGERS:
        for place in places.values():
            assert "TIMEOUT" in world.asks(client, *place)
        assert not resolves(world, client)
        assert world.asks("friend-near", world.address(client)) == ""
    names = {**selected(), "namespaceSelector": {}}
    rules = [{"to": [selected(app="web")]}, {"to": [names], "ports": [{"port": 53, "protocol": "UDP"}]}]
    policies("strangers", **selected(role="stranger"), policyTypes=["Egress"], egress=rules)
    eventually(lambda: world.reach(CLIENTS))
    for client in STRANGERS:
        assert resolves(world, client)
        assert "TIMEOUT" in world.asks(client, *places["friend"])


def resolves(world: World, client: str) -> bool:
    """Tell whether a pod can ask for the server's name."""
    name = f"web.{world.kube.namespace}.svc.cluster.local"
    return world.cluster_ip in world.kube.shell(client, f"timeout 5 nslookup -type=aaaa {name} || :")


@pytest.mark.usefixtures("enforced")
def test_a_namespace_by_itself(world: World, other: Kubectl, policies: Callable[..., None]) -> None:
    """Pods that all admit their own namespace only reach each other, and nobody else, until it is named."""
    outsider = World(other, world.near, world.far)
    outsider.start("outside", far=True)
    outsider.address("outside")
    within = {**selected(), "policyTypes": ["Ingress"]}
    policies("within", **within, ingress=[{"from": [selected()]}])
    web = world.address("web")

    def apart() -> None:
        assert "TIMEOUT" in outsider.asks("outside", web)
        assert "TIMEOUT" in outsider.asks("outside", world.cluster_ip, 80)
        world.reach(CLIENTS)

    eventually(apart)
    assert world.asks("stranger-far", outsider.address("outside")) == ""
    named = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": other.namespace}}}
    policies("within", **within, ingress=[{"from": [selected(), named]}])

    def together() -> None:
        assert outsider.asks("outside", web) == ""
        assert outsider.asks("outside", world.cluster_ip, 80) == ""

    eventually(together)
    world.reach(CLIENTS)
