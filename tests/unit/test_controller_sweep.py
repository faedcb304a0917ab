# SPDX-License-Identifier: Apache-2.0
"""What is freed, when, and when too much is: against etcd's records in memory."""

from __future__ import annotations

import ipaddress
import time

import pytest
from prometheus_client import CollectorRegistry

from controller.clearing import Clearing
from controller.core.assignment import Holder
from controller.core.decision import Refused
from controller.core.kubernetes import Kind, NodeFacts, parse_node
from controller.core.pods import PodFacts, Pods, parse_pod
from controller.core.registration import Registration
from controller.core.sweep import SetFacts, braked, parse_set
from controller.events import Events
from controller.informer import Informer
from controller.reports import FRESH, Report, Reports
from controller.service import Service
from controller.standing import Standing
from controller.sweep import Patience, Sweep
from ila import mapping
from ila.address import Identifier, Locator
from ila.domain import Domain
from ila.mapping import Generation, OwnerName, probe_identifier
from tests.fake_store import FakeStore
from tests.fakes_kubernetes import FakeKubernetes, Tree, node, of_set, pod

DOMAIN = Domain.parse(sir_prefix="fd00:10:244::/64", locator_space=["fd00:c0de::/48"], checksum_mode="neutral-map")
PATIENCE = Patience(pod=300, keep=3600, locator=1000, share=0.1, pause=60)


def stateful_set(name: str, replicas: int, start: int = 0) -> Tree:
    return {
        "metadata": {"namespace": "ns", "name": name},
        "spec": {"replicas": replicas, "ordinals": {"start": start}},
    }


class World:
    """A controller's records, and a Kubernetes that it follows by hand."""

    def __init__(self) -> None:
        self.kubernetes = FakeKubernetes()
        self.store = FakeStore()
        self.service = Service(
            store=self.store, domain=DOMAIN, locator_pool=DOMAIN.locator_space[0], is_gone=self.is_gone
        )
        self.pods = Pods()
        self.followed: Informer[PodFacts] = Informer(
            kubernetes=self.kubernetes, kind=Kind.POD, parse=parse_pod, backoff=(0.0,)
        )
        self.nodes: Informer[NodeFacts] = Informer(
            kubernetes=self.kubernetes, kind=Kind.NODE, parse=parse_node, backoff=(0.0,)
        )
        self.sets: Informer[SetFacts] = Informer(
            kubernetes=self.kubernetes, kind=Kind.STATEFUL_SET, parse=parse_set, backoff=(0.0,)
        )
        for informer in (self.followed, self.nodes, self.sets):
            informer.complete = True
        self.pods.put(parse_pod(pod("c1", namespace="ilanet-system", node="n0")))
        self.nodes.objects["", "n0"] = parse_node(node("n0", "fd00:a::f"))
        self.reports = Reports()
        self.standing = Standing(registry=CollectorRegistry())
        self.events = Events(kubernetes=self.kubernetes, reporter="c1")
        self.registry = CollectorRegistry()
        self.sweep = Sweep(
            clearing=Clearing(store=self.store, domain=DOMAIN),
            pods=self.pods,
            followed=self.followed,
            nodes=self.nodes,
            sets=self.sets,
            reports=self.reports,
            events=self.events,
            standing=self.standing,
            patience=PATIENCE,
            registry=self.registry,
            us=("ilanet-system", "c1"),
        )

    def is_gone(self, name: str) -> bool:
        return ("", name) not in self.nodes.objects

    async def join(self, name: str, address: str = "fd00:a::1", declared: str = "") -> Locator:
        """Make a node and register it."""
        self.nodes.objects["", name] = parse_node(node(name, address))
        request = Registration(
            node=name,
            address=ipaddress.IPv6Address(address),
            port=7444,
            declared=Locator.parse(declared) if declared else None,
            highest=Generation(0, 0),
        )
        return (await self.service.register(request, [])).node.locator

    async def start(self, tree: Tree) -> Identifier:
        """Make a pod and give it its identifier."""
        facts = parse_pod(tree)
        self.pods.put(facts)
        holder = Holder(owner=facts.owner, node=facts.node, container=f"c-{facts.uid}")
        return (await self.service.assign(holder, take_over=True)).identifier

    async def probes(self, name: str) -> None:
        """Give a node its own end of probes."""
        holder = Holder(owner=OwnerName.of_node(name), node=name, container="probe")
        wanted = probe_identifier(name)
        assert (await self.service.assign(holder, take_over=True, reserved=wanted)).identifier == wanted

    def report(self, name: str, *owners: str, ago: float = 0) -> None:
        when = time.monotonic() - ago
        self.reports.put(name, Report(version="1", serving=True, owners=frozenset(owners), when=when))

    async def owners(self) -> set[str]:
        return {str(name) for name in await Clearing(store=self.store, domain=DOMAIN).owners()}


async def test_a_pod_that_is_gone_is_freed_after_its_grace() -> None:
    """Not sooner, and not while its node reports that it has it."""
    world = World()
    await world.join("n1")
    await world.start(pod("a"))
    await world.start(pod("b"))
    world.report("n1", "uid/uid-a")
    await world.sweep.step(0)
    world.pods.remove("ns", "a")
    await world.sweep.step(10)
    await world.sweep.step(309)
    assert await world.owners() == {"uid/uid-a", "uid/uid-b"}
    await world.sweep.step(311)
    assert await world.owners() == {"uid/uid-a", "uid/uid-b"}
    world.report("n1")
    await world.sweep.step(320)
    assert await world.owners() == {"uid/uid-b"}


async def test_a_node_that_says_nothing_may_have_it() -> None:
    """Until Kubernetes has no such node."""
    world = World()
    await world.join("n1")
    await world.start(pod("a"))
    world.pods.remove("ns", "a")
    for now in (0, 400, 800):
        await world.sweep.step(now)
    assert await world.owners() == {"uid/uid-a"}
    del world.nodes.objects["", "n1"]
    await world.sweep.step(900)
    assert await world.owners() == set()


async def test_a_node_s_word_counts_where_kubernetes_shows_no_such_node() -> None:
    """An agent that reports a pod has it; a machine that is off says nothing soon."""
    world = World()
    await world.join("n1")
    await world.start(pod("a"))
    world.pods.remove("ns", "a")
    del world.nodes.objects["", "n1"]
    for now in (0, 400):
        world.report("n1", "uid/uid-a")
        await world.sweep.step(now)
    assert await world.owners() == {"uid/uid-a"}
    world.report("n1", "uid/uid-a", ago=FRESH)
    await world.sweep.step(500)
    assert await world.owners() == set()


@pytest.mark.parametrize("lost", ["pods", "nodes"])
async def test_nothing_is_freed_by_who_does_not_see_itself(lost: str) -> None:
    """An empty list of a small cluster, of pods or of nodes, is no reason to free even one identifier."""
    world = World()
    await world.join("n1")
    await world.start(pod("a"))
    world.pods.remove("ns", "a")
    world.report("n1")
    us, here = world.pods.of_name("ilanet-system", "c1"), world.nodes.objects.copy()
    assert us is not None
    if lost == "pods":
        world.pods.remove("ilanet-system", "c1")
    else:
        world.nodes.objects.clear()
    for now in (0, 400, 800):
        await world.sweep.step(now)
    assert await world.owners() == {"uid/uid-a"}
    assert world.registry.get_sample_value("ilanet_sweep_braked") == 1
    assert "does not show this controller's own pod ilanet-system/c1" in world.standing.problems["sweep"]
    assert world.events._queue.get_nowait()[1] == "IlanetSweepBraked"
    world.pods.put(us)
    world.nodes.objects |= here
    for now in (900, 1300):
        world.report("n1")
        await world.sweep.step(now)
    assert await world.owners() == set()
    assert world.registry.get_sample_value("ilanet_sweep_braked") == 0
    assert "sweep" not in world.standing.problems


async def test_a_stateful_sets_address_waits_for_its_pod() -> None:
    """For ever while the set has that ordinal; after it was scaled below it or deleted, for the time to keep."""
    world = World()
    await world.join("n1")
    world.sets.objects["ns", "web"] = parse_set(stateful_set("web", 2, start=1))
    for number in (1, 2):
        await world.start(pod(f"web-{number}", ownerReferences=of_set("web")))
        world.pods.remove("ns", f"web-{number}")
    world.report("n1")
    await world.sweep.step(0)
    await world.sweep.step(10_000)
    assert await world.owners() == {"name/ns/web-1", "name/ns/web-2"}
    world.sets.objects["ns", "web"] = parse_set(stateful_set("web", 1, start=1))
    await world.sweep.step(10_100)
    world.report("n1")
    await world.sweep.step(13_600)
    assert await world.owners() == {"name/ns/web-1", "name/ns/web-2"}
    await world.sweep.step(13_701)
    assert await world.owners() == {"name/ns/web-1"}
    del world.sets.objects["ns", "web"]
    await world.sweep.step(20_000)
    await world.sweep.step(23_599)
    assert await world.owners() == {"name/ns/web-1"}
    await world.sweep.step(23_601)
    assert await world.owners() == set()


async def test_a_pod_that_comes_back_meanwhile_keeps_its_address() -> None:
    """One that has its identifier again before the sweep gets to it, and one that is there but did not ask yet."""
    world = World()
    await world.join("n1")
    trees = {name: pod(name, uid=f"second-{name}", ownerReferences=of_set("db")) for name in ("db-0", "db-1")}
    had = []
    for name in trees:
        had.append(await world.start(pod(name, ownerReferences=of_set("db"))))
        world.pods.remove("ns", name)
    await world.sweep.step(0)

    async def come_back() -> None:
        assert await world.start(trees["db-0"]) == had[0]
        world.pods.put(parse_pod(trees["db-1"]))

    world.store.before_commit.append(come_back)
    world.report("n1")
    await world.sweep.step(3601)
    assert world.store.before_commit == []
    assert await world.owners() == {"name/ns/db-0", "name/ns/db-1"}
    assert len(world.store.under(mapping.MAPPINGS)) == 2
    assert await world.start(trees["db-1"]) == had[1]


async def test_too_much_at_once_is_not_freed() -> None:
    """An API server that lost its records: nothing is freed, and metric, Event and /status say so."""
    world = World()
    await world.join("n1")
    for number in range(30):
        await world.start(pod(f"p{number}"))
    for number in range(25):
        world.pods.remove("ns", f"p{number}")
    world.report("n1")
    await world.sweep.step(0)
    await world.sweep.step(301)
    assert len(await world.owners()) == 30
    assert world.registry.get_sample_value("ilanet_sweep_braked") == 1
    assert "25 of 30 identifiers belong to nobody" in world.standing.problems["sweep"]
    world.events._queue.get_nowait()
    for number in range(10):
        world.pods.put(parse_pod(pod(f"p{number}")))
    await world.sweep.step(310)
    assert len(await world.owners()) == 15
    assert world.registry.get_sample_value("ilanet_sweep_braked") == 0
    assert "sweep" not in world.standing.problems
    assert world.registry.get_sample_value("ilanet_sweep_freed_total", {"kind": "identifier"}) == 15


async def test_nothing_is_freed_before_everything_is_known() -> None:
    """An empty list is not the same as none."""
    world = World()
    await world.join("n1")
    await world.start(pod("a"))
    world.pods.remove("ns", "a")
    world.report("n1")
    world.followed.complete = False
    for now in (0, 1000):
        await world.sweep.step(now)
    assert await world.owners() == {"uid/uid-a"}


async def test_a_gone_nodes_locator_is_quarantined() -> None:
    """Its record goes once no mapping points there; its locator is free after the quarantine."""
    world = World()
    first = await world.join("n1")
    await world.start(pod("a"))
    await world.service.reserve("n1", 4)
    del world.nodes.objects["", "n1"]
    await world.sweep.step(0)
    await world.sweep.step(301)
    assert await world.join("n2", "fd00:a::2") != first
    world.pods.remove("ns", "a")
    await world.sweep.step(400)
    await world.sweep.step(701)
    assert await world.owners() == set()
    clearing = Clearing(store=world.store, domain=DOMAIN)
    assert await clearing.nodes() == ["n2"]
    assert await clearing.quarantined() == [first]
    assert await world.join("n3", "fd00:a::3") not in (first, None)
    await world.sweep.step(1702)
    assert await clearing.quarantined() == []
    assert await world.join("n4", "fd00:a::4") == first
    assert [key for key in world.store.records if b"reserves" in key] == []


async def test_a_new_node_waits_for_a_pod_cidr_that_is_still_in_use() -> None:
    """The controller manager hands a gone node's podCIDR out at once: we do not."""
    world = World()
    await world.join("n1", declared="fd00:c0de:0:7::/64")
    await world.start(pod("a"))
    with pytest.raises(Refused, match="is node 'n1''s"):
        await world.join("n2", "fd00:a::2", declared="fd00:c0de:0:7::/64")
    del world.nodes.objects["", "n1"]
    with pytest.raises(Refused, match="node 'n2' waits: mappings still point at its locator fd00:c0de:0:7::/64"):
        await world.join("n2", "fd00:a::2", declared="fd00:c0de:0:7::/64")
    world.pods.remove("ns", "a")
    await world.sweep.step(0)
    await world.sweep.step(301)
    taken = await world.join("n2", "fd00:a::2", declared="fd00:c0de:0:7::/64")
    assert taken == Locator.parse("fd00:c0de:0:7::/64")
    assert await Clearing(store=world.store, domain=DOMAIN).nodes() == ["n2"]


@pytest.mark.parametrize("lost", [True, False])
async def test_a_node_that_was_reinstalled_gets_its_new_pod_cidr(lost: bool) -> None:  # noqa: FBT001 - of the table
    """What it has lost it lets go, kept addresses stay kept; a pod that it still has keeps it waiting."""
    world = World()
    for name, old in (("n1", 7), ("n2", 9)):
        await world.join(name, declared=f"fd00:c0de:0:{old}::/64")
        await world.probes(name)
    kept = await world.start(pod("db-0", ownerReferences=of_set("db")))
    await world.start(pod("a"))
    await world.start(pod("b", node="n2"))
    held = () if lost else (OwnerName.of_uid("uid-a"),)
    again = Registration(
        node="n1",
        address=ipaddress.IPv6Address("fd00:a::1"),
        port=7444,
        declared=Locator.parse("fd00:c0de:0:8::/64"),
        highest=Generation(0, 0),
    )
    if lost:
        assert (await world.service.register(again, (), held=held)).node.locator == again.declared
    else:
        with pytest.raises(Refused, match="'n1' waits: mappings still point at its locator fd00:c0de:0:7::/64"):
            await world.service.register(again, (), held=held)
    pods = {"uid/uid-b", "name/ns/db-0", "node/n1", "node/n2"}
    assert await world.owners() == (pods if lost else {*pods, "uid/uid-a"})
    assert len(world.store.under(mapping.MAPPINGS)) == (3 if lost else 4)
    assert await world.start(pod("db-0", uid="second", node="n2", ownerReferences=of_set("db"))) == kept


async def test_a_node_s_own_end_of_probes_stays_with_it() -> None:
    """Kubernetes shows no pod of it: it is swept with its node, for which it keeps neither record nor locator."""
    world = World()
    first = await world.join("n1")
    await world.probes("n1")
    world.report("n1")
    for now in (0, 10_000):
        await world.sweep.step(now)
    assert await world.owners() == {"node/n1"}
    del world.nodes.objects["", "n1"]
    await world.sweep.step(10_100)
    await world.sweep.step(10_401)
    assert await world.owners() == set()
    assert world.store.under(mapping.MAPPINGS) == {}
    assert await Clearing(store=world.store, domain=DOMAIN).quarantined() == [first]


async def test_a_node_s_own_end_of_probes_does_not_hold_a_locator() -> None:
    """Neither against the node itself, which is given another one, nor against the next node of its podCIDR."""
    world = World()
    old, new = "fd00:c0de:0:7::/64", "fd00:c0de:0:8::/64"
    await world.join("n1", declared=old)
    await world.probes("n1")
    assert await world.join("n1", declared=new) == Locator.parse(new)
    await world.probes("n1")
    assert set(world.store.under(mapping.MAPPINGS).values()) == {mapping.encode_mapping(Locator.parse(new)).decode()}
    del world.nodes.objects["", "n1"]
    assert await world.join("n2", "fd00:a::2", declared=new) == Locator.parse(new)


def holder(name: str, node_name: str = "n1") -> Holder:
    return Holder(owner=OwnerName.of_name("ns", name), node=node_name, container=f"c-{name}")


async def test_a_certain_address_is_had_within_its_namespace_only() -> None:
    """One that is kept and released; not one in use, of another namespace, of a uid, or of nobody."""
    world = World()
    await world.join("n1")
    kept = (await world.service.assign(holder("old"), take_over=False)).identifier
    with pytest.raises(Refused, match="is in use by name/ns/old"):
        await world.service.assign(holder("new"), take_over=True, wanted=kept)
    await world.service.release(holder("old"))
    theirs = Holder(owner=OwnerName.of_name("theirs", "new"), node="n1", container="c")
    with pytest.raises(Refused, match="is not kept in namespace 'theirs'"):
        await world.service.assign(theirs, take_over=True, wanted=kept)
    assert (await world.service.assign(holder("new"), take_over=True, wanted=kept)).identifier == kept
    assert (await world.service.assign(holder("new"), take_over=True, wanted=kept)).identifier == kept
    assert await world.owners() == {"name/ns/new"}
    ephemeral = await world.start(pod("a"))
    for wanted in (ephemeral, Identifier(kept.value ^ 0x10000)):
        with pytest.raises(Refused, match="is not kept in namespace 'ns'"):
            await world.service.assign(holder("third"), take_over=True, wanted=wanted)


@pytest.mark.parametrize(
    ("due", "total", "stops"), [(20, 20, False), (21, 100, True), (100, 1000, False), (101, 1000, True)]
)
def test_the_brake(due: int, total: int, stops: bool) -> None:  # noqa: FBT001 - of the table
    """So many always may, and a share of all."""
    assert bool(braked(due, total, share=0.1, least=20)) is stops
