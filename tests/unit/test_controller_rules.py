# SPDX-License-Identifier: Apache-2.0
"""Rules, reports and Events: what Kubernetes decides, and what it hears."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from controller import reports as reports_module
from controller.core.assignment import Claim
from controller.core.decision import Reason, Refused
from controller.core.kubernetes import TAINT, Kind, KubernetesError, NodeFacts, parse_node
from controller.core.pods import PodFacts, Pods, parse_pod
from controller.core.registration import Registration
from controller.events import Events
from controller.informer import Informer
from controller.reports import NodeConditions, Report, Reports
from controller.rules import Grant, KubernetesRules, Rules, TrustingRules, owner_of
from controller.server import ControllerServer
from controller.service import Registered, Service
from controller.standing import Standing
from ila.address import Locator
from ila.mapping import Generation, Node, OwnerName
from proto import ilanet_pb2 as pb
from tests.fake_store import FakeStore
from tests.fakes import DOMAIN
from tests.fakes_kubernetes import FakeKubernetes, node, of_set, pod


class World:
    """Rules over a Kubernetes in memory, with everything that follows it running."""

    def __init__(self, *, by_pod_cidr: bool = False) -> None:
        self.kubernetes = FakeKubernetes()
        self.pods = Pods()
        self.followed: Informer[PodFacts] = Informer(
            kubernetes=self.kubernetes,
            kind=Kind.POD,
            parse=parse_pod,
            put=self.pods.put,
            removed=self.pods.remove,
            backoff=(0.0,),
        )
        self.nodes: Informer[NodeFacts] = Informer(
            kubernetes=self.kubernetes, kind=Kind.NODE, parse=parse_node, backoff=(0.0,)
        )
        self.events = Events(kubernetes=self.kubernetes, reporter="c1")
        self.reports = Reports()
        self.rules = KubernetesRules(
            pods=self.pods,
            followed=self.followed,
            nodes=self.nodes,
            by_pod_cidr=by_pod_cidr,
            events=self.events,
            patience=0.2,
        )
        self.conditions = NodeConditions(
            kubernetes=self.kubernetes, reports=self.reports, nodes=self.nodes, events=self.events
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        works = (self.followed.run(), self.nodes.run(), self.events.run())
        tasks = [asyncio.ensure_future(work) for work in works]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks)

    async def told(self, *what: str) -> bool:
        """Wait until something was said to Kubernetes; each word must be in it."""
        for _ in range(100):
            if any(all(word in " ".join(told) for word in what) for told in self.kubernetes.told):
                return True
            await asyncio.sleep(0.01)
        return False


NOBODY: Any = None
"""Who is on the line."""


def serving(service: Any, *, rules: Rules) -> ControllerServer:
    """Return the face of a service, or of what has as much of one as is asked for."""
    return ControllerServer(
        service=service,
        domain=DOMAIN,
        closed_ports=(),
        authenticated=False,
        standing=Standing(registry=CollectorRegistry()),
        rules=rules,
        reports=Reports(),
    )


def asked(name: str, **more: str) -> pb.Pod:
    return pb.Pod(**{"namespace": "ns", "name": name, "uid": f"uid-{name}", **more})  # type: ignore[arg-type]


async def test_a_pod_that_comes_a_moment_later_is_waited_for() -> None:
    """The kubelet may have heard of it before us."""
    world = World()
    async with world.running():
        asking = asyncio.ensure_future(world.rules.grant("n1", asked("web")))
        await asyncio.sleep(0.02)
        world.kubernetes.put(Kind.POD, pod("web"))
        grant = await asking
        assert (str(grant.owner), grant.take_over, grant.wanted) == ("uid/uid-web", True, None)
        with pytest.raises(Refused, match="does not show pod ns/other with uid 'uid-other' on node 'n1'") as caught:
            await world.rules.grant("n1", asked("other"))
        assert caught.value.reason is Reason.NOT_NOW
        with pytest.raises(Refused, match="bound to node 'n1'"):
            await world.rules.grant("n2", asked("web"))


async def test_who_is_named_as_owner_does_not_matter() -> None:
    """The pod decides it; two pods of a virtual machine do not take it from each other."""
    world = World()
    reference = [{"kind": "VirtualMachineInstance", "name": "vm"}]
    async with world.running():
        world.kubernetes.put(Kind.POD, pod("db-0", ownerReferences=of_set("db")))
        grant = await world.rules.grant("n1", asked("db-0", owner="name/theirs/db-0"))
        assert str(grant.owner) == "name/ns/db-0"
        for name in ("one", "two"):
            world.kubernetes.put(Kind.POD, pod(name, ownerReferences=reference))
        grant = await world.rules.grant("n1", asked("two"))
        assert (str(grant.owner), grant.take_over) == ("machine/ns/vm", False)
        world.kubernetes.put(Kind.POD, {**pod("one", ownerReferences=reference), "status": {"phase": "Succeeded"}})
        assert await world.followed.until(lambda: bool((found := world.pods.of_uid("uid-one")) and found.ended), 1)
        assert (await world.rules.grant("n1", asked("two"))).take_over


async def test_a_node_s_word_takes_nothing_from_a_pod_that_lives() -> None:
    """It says that the holder is gone; Kubernetes shows whether it is."""
    world = World()
    reference = [{"kind": "VirtualMachineInstance", "name": "vm"}]
    service = Service(store=FakeStore(), domain=DOMAIN, locator_pool=DOMAIN.locator_space[0])
    server = serving(service, rules=world.rules)
    ask = pb.AssignRequest(node="n2", pod=asked("two"), container_id="c2", take_over=True)
    async with world.running():
        for number, name in ((1, "one"), (2, "two")):
            world.kubernetes.put(Kind.NODE, node(f"n{number}", f"fd00:a::{number}"))
            world.kubernetes.put(Kind.POD, pod(name, node=f"n{number}", ownerReferences=reference))
            joined = pb.RegisterRequest(node=f"n{number}", control_address=f"fd00:a::{number}", control_port=7444)
            await server._register(joined, NOBODY)
        first = await server._assign(pb.AssignRequest(node="n1", pod=asked("one"), container_id="c1"), NOBODY)
        with pytest.raises(Refused, match="is held by container 'c1' on node 'n1', which has not released it"):
            await server._assign(ask, NOBODY)
        ended = {**pod("one", ownerReferences=reference), "status": {"phase": "Succeeded"}}
        world.kubernetes.put(Kind.POD, ended)
        assert await world.followed.until(lambda: bool((found := world.pods.of_uid("uid-one")) and found.ended), 1)
        assert (await server._assign(ask, NOBODY)).identifier == first.identifier


async def test_nothing_is_judged_before_everything_is_known() -> None:
    """Another replica may know."""
    world = World()
    with pytest.raises(KubernetesError, match="not all known yet"):
        await world.rules.grant("n1", asked("web"))
    assert not world.rules.is_gone("n1")


async def test_a_registration_follows_kubernetes() -> None:
    """The node's podCIDR is its locator, whatever it declares nothing."""
    world = World(by_pod_cidr=True)
    request = Registration(
        node="n1", address=ipaddress.IPv6Address("fd00:a::1"), port=7444, declared=None, highest=Generation(0, 0)
    )
    async with world.running():
        world.kubernetes.put(Kind.NODE, node("n1", podCIDRs=["fd00:c0de:0:3::/64"]))
        allowed = await world.rules.registered(request)
        assert allowed.declared == Locator.parse("fd00:c0de:0:3::/64")
        assert (world.rules.is_gone("n1"), world.rules.is_gone("n2")) == (False, True)


async def test_a_refusal_is_an_event_of_the_pod() -> None:
    """Once, and of pods of that node only."""
    world = World()
    async with world.running():
        world.kubernetes.put(Kind.POD, pod("web"))
        assert await world.followed.until(lambda: world.pods.of_uid("uid-web") is not None, 1)
        for name in ("n2", "n1", "n1"):
            world.rules.refused(name, asked("web"), Refused(Reason.NOT_YOURS, f"because of {name}"))
        world.kubernetes.fail_next = ""
        assert await world.told("event", "Pod", "web", "IlanetRefused", "because of n1")
        assert len(world.kubernetes.told) == 1


async def test_an_event_that_cannot_be_written_is_dropped() -> None:
    """The next one is not."""
    world = World()
    world.kubernetes.fail_next = "event"
    async with world.running():
        for reason in ("First", "Second"):
            world.events.about_us("ilanet-system", "c1", reason=reason, message="m")
        assert await world.told("event", "c1", "Second")
        assert not any("First" in told for told in world.kubernetes.told)


def test_the_lab_s_rules_believe_everybody() -> None:
    """By uid, by name where the annotation asks for it, or by what the controller said before."""
    assert str(owner_of(asked("web"))) == "uid/uid-web"
    assert str(owner_of(pb.Pod(namespace="ns", name="web", uid="u", keep_address=True))) == "name/ns/web"
    assert owner_of(asked("web", owner="name/ns/web")) == OwnerName.of_name("ns", "web")
    assert not TrustingRules().is_gone("n1")
    for wrong in ("web", "uid/", "name/ns", "name/ns/a/b", "machine/NS/vm"):
        with pytest.raises(ValueError, match=r"is not|begins with"):
            owner_of(asked("web", owner=wrong))


def report(*, serving: bool = True, **problems: str) -> Report:
    return Report(version="1", serving=serving, problems=problems, when=time.monotonic())


async def test_a_report_makes_a_node_ready() -> None:
    """Condition and taint, where they are there; not before the agent serves; a failure is tried again."""
    world = World()
    tainted = node("n1", taints=[{"key": TAINT, "effect": "NoSchedule"}, {"key": "other", "effect": "NoSchedule"}])
    tainted["status"]["conditions"] = [{"type": "NetworkUnavailable", "status": "True"}]
    async with world.running():
        world.kubernetes.put(Kind.NODE, tainted)
        world.kubernetes.put(Kind.NODE, node("n2"))
        assert await world.nodes.until(lambda: len(world.nodes.objects) == 2, 1)
        for name in ("n2", "n3"):
            world.reports.put(name, report())
        world.reports.put("n1", report(serving=False))
        await world.conditions.step()
        assert world.kubernetes.told == []
        world.reports.put("n1", report())
        world.kubernetes.fail_next = "network_available"
        await world.conditions.step()
        assert world.kubernetes.told == []
        await world.conditions.step()
        assert world.kubernetes.told[:2] == [("available", "n1"), ("taint", "n1", TAINT)]
        assert await world.told("event", "Node", "n1", "IlanetReady")


async def test_a_problem_that_lasts_is_an_event_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for as long as it lasts; one that passes is none."""
    world = World()
    monkeypatch.setattr(reports_module, "LASTING", 0.05)
    async with world.running():
        world.kubernetes.put(Kind.NODE, node("n1"))
        assert await world.nodes.until(lambda: bool(world.nodes.objects), 1)
        world.reports.put("n1", report(passing="soon over", etcd="away"))
        await world.conditions.step()
        world.reports.put("n1", report(etcd="away"))
        await asyncio.sleep(0.06)
        for _ in range(3):
            await world.conditions.step()
        assert await world.told("event", "Node", "n1", "IlanetProblem", "etcd: away")
        assert len(world.kubernetes.told) == 1


def test_old_reports_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows what a silent node has."""
    reports = Reports()
    reports.put("n1", report())
    assert reports.fresh().keys() == {"n1"}
    monkeypatch.setattr(reports_module, "FRESH", -1.0)
    assert reports.fresh() == {}


async def test_a_node_has_an_identifier_of_its_own_and_no_other_node_s() -> None:
    """For its end of probes: Kubernetes shows no pod for it, and the node's certificate says who it is."""
    world = World()
    own = pb.Pod(owner="node/n1")
    for rules in (world.rules, TrustingRules()):
        grant = await rules.grant("n1", own)
        assert (str(grant.owner), grant.take_over, grant.wanted) == ("node/n1", True, None)
        with pytest.raises(Refused, match="node 'n2' may not have what is node 'n1''s own") as caught:
            await rules.grant("n2", own)
        assert caught.value.reason is Reason.NOT_YOURS
        with pytest.raises(ValueError, match="node 'N 1' is not a DNS name"):
            await rules.grant("n1", pb.Pod(owner="node/N 1"))


async def test_a_node_that_is_refused_has_an_event() -> None:
    """Once, with the reason; one that Kubernetes does not show has none."""
    world = World()
    async with world.running():
        world.kubernetes.put(Kind.NODE, node("n1"))
        assert await world.nodes.until(lambda: bool(world.nodes.objects), 1)
        for name in ("n1", "n1", "n2"):
            world.rules.refused(name, None, Refused(Reason.MALFORMED, "podCIDR fd00::/80 is no /64"))
        assert await world.told("event", "Node", "n1", "IlanetRefused", "is no /64")
        assert len(world.kubernetes.told) == 1


async def test_events_are_written_before_an_end() -> None:
    """Also while nothing else writes them."""
    kubernetes = FakeKubernetes()
    events = Events(kubernetes=kubernetes, reporter="c1")
    events.about_us("ilanet-system", "c1", reason="IlanetRefused", message="another domain")
    await events.flush()
    assert kubernetes.told == [("event", "Pod", "c1", "IlanetRefused", "another domain", "True")]


class Gate(TrustingRules):
    """Knows no pod, and says so once everyone of a crowd has asked."""

    def __init__(self, crowd: int) -> None:
        self._waiting = asyncio.Barrier(crowd)

    async def grant(self, node: str, pod: pb.Pod, *, take_over: bool = False) -> Grant:  # noqa: ARG002 - it knows no pod
        async with asyncio.timeout(5):
            await self._waiting.wait()
        raise Refused(Reason.NOT_NOW, f"Kubernetes does not show pod {pod.name} on {node}")


class Registry:
    """Registers whoever asks, and remembers the claims and whose pods it is said to have."""

    def __init__(self) -> None:
        self.claims: list[Claim] = []
        self.held: set[OwnerName] = set()

    async def register(
        self, request: Registration, claims: Sequence[Claim], *, held: Collection[OwnerName]
    ) -> Registered:
        self.claims += claims
        self.held |= set(held)
        there = Node(name=request.node, locator=Locator.parse("fd00:c0de::/64"), address=request.address, port=1)
        return Registered(there, Generation(1, 1))


async def test_a_node_whose_pods_are_all_gone_registers_at_once() -> None:
    """A pod that Kubernetes does not show is waited for: one after the other, a node that was away never registers."""
    service = Registry()
    server = serving(service, rules=Gate(100))
    held = [
        pb.Held(identifier=1 << 61 | number, pod=asked(f"gone-{number}"), container_id=f"c{number}")
        for number in range(1, 101)
    ]
    request = pb.RegisterRequest(node="n1", control_address="fd00:a::1", control_port=7444, held=held)
    reply = await server._register(request, NOBODY)
    assert reply.locator == "fd00:c0de::/64"
    assert service.claims == []
    assert len(service.held) == 100  # it has them, though it may have none
