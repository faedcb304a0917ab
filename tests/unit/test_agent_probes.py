# SPDX-License-Identifier: Apache-2.0
"""Probes of the underlay: what is said, what outcomes mean, who is probed when, and the end that answers."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from agent.assembly import Assembly
from agent.core.datapath import DatapathError
from agent.core.endpoint import State
from agent.core.ipv4 import Ipv4Pool
from agent.core.network import NetworkError, host_name
from agent.core.probe_rounds import AT_ONCE, Rounds
from agent.core.probes import Finding, Kind, Message, Outcome, Peer, ProbeError, Say, judge, longest, summary
from agent.core.status import Status
from agent.endpoint_table import EndpointTable
from agent.probe_end import ProbeEnd
from agent.probes import Probes
from agent.publications import Publications
from agent.releases import Releases
from agent.reserve import Reserve
from ila.mapping import Generation, Node, probe_identifier
from tests.fakes import (
    DOMAIN,
    HERE,
    NODE_ADDRESS,
    REGISTRATION,
    THERE,
    FakeController,
    FakeDatapath,
    FakeRecords,
    FakeTimings,
    FakeWiring,
)

PEER = Peer(
    name="n2",
    address=ipaddress.IPv6Address("fd00:a::2"),
    port=7444,
    locator=THERE,
    end=DOMAIN.sir_prefix.address(probe_identifier("n2")),
)
ALL = Outcome(node=True, ready=True, located=True, arrived=True, returned=True, answered=True, whole=True, stream=True)
NOTHING = Outcome(node=False)
HEARD = replace(ALL, answered=False, whole=False, stream=False)


# --- messages ---


def test_a_message_reads_back() -> None:
    """Also with zeros after it, as long as one packet may be; what is no probe's is nobody's."""
    for say in Say:
        message = Message(say=say, token=(1 << 64) - 1, ready=True)
        assert Message.parse(message.pack()) == message
    long = Message(say=Say.ASK_END, token=7).pack(longest(1500))
    assert len(long) == 1500 - 40 - 8
    assert Message.parse(long) == Message(say=Say.ASK_END, token=7)
    short = Message(say=Say.ANSWER, token=7).pack()
    for wrong in (b"", short[:-1], b"x" + short[1:], short[:8] + b"\0" + short[9:], short[:8] + b"\x63" + short[9:]):
        assert Message.parse(wrong) is None


# --- what an outcome means ---


@pytest.mark.parametrize(
    ("outcome", "kind", "words"),
    [
        (ALL, Kind.WELL, ()),
        (replace(ALL, node=False, ready=False, located=False), Kind.WELL, ()),
        (replace(ALL, whole=False), Kind.MTU, ("1500 bytes", "Packet Too Big", "route fd00:10:244::/64")),
        (replace(ALL, stream=False), Kind.STATE, ("UDP passes to n2", "ct state invalid", "untracked")),
        (replace(ALL, stream=False, whole=False), Kind.STATE, ("ct state invalid",)),
        (HEARD, Kind.SOURCE, ("n2 sends here", "fd00:10:244::/64", "uRPF", "source/destination check")),
        (replace(HEARD, arrived=False), Kind.SOURCE, ("this node sends to n2", "port security")),
        (replace(HEARD, arrived=False, returned=False), Kind.SOURCE, ("this node sends to n2",)),
        (replace(HEARD, returned=False), Kind.LOCATOR, ("n2 hears this one", "locator of this node")),
        (
            Outcome(node=True, ready=True),
            Kind.LOCATOR,
            ("its locator fd00:c0de:0:2::/64", "route that to fd00:a::2"),
        ),
        (Outcome(node=True, ready=False), None, ()),
        (NOTHING, Kind.SILENT, ("node n2 does not answer at all", "UDP port 7444", "fd00:a::2")),
    ],
)
def test_what_an_outcome_means(outcome: Outcome, kind: Kind | None, words: Sequence[str]) -> None:
    """The sentence names the node, the object and what to do; an end that is not attached means nothing yet."""
    found = judge(PEER, outcome, sir_prefix=DOMAIN.sir_prefix, mtu=1500)
    assert (found.kind if found else None) is kind
    sentence = found.sentence if found else ""
    assert bool(sentence) is (kind not in (None, Kind.WELL))
    for word in words:
        assert word in sentence


def test_the_summary_is_short() -> None:
    """Each kind once, with the names of some; nodes that do not answer are no fault of the underlay."""
    source = {f"n{number}": Finding(Kind.SOURCE, f"dropped to n{number}") for number in range(1, 7)}
    others = {"m1": Finding(Kind.MTU, "long"), "m2": Finding(Kind.WELL), "m3": Finding(Kind.SILENT, "silent")}
    assert summary(source | others) == "long; dropped to n1 (likewise n2, n3, n4 and 2 more)"
    assert summary({"m2": others["m2"], "m3": others["m3"]}) == ""


# --- who is probed when ---


def rounds(period: float = 60) -> Rounds:
    return Rounds(period=period, sample=lambda names, count: list(names)[:count], uniform=lambda *_: 1.0)


WELL = Finding(Kind.WELL)
BAD = Finding(Kind.SOURCE, "dropped")


def test_nodes_are_probed_once_in_a_period() -> None:
    """A new one at once; one that did not do well sooner again; one that is gone is forgotten."""
    found = rounds()
    assert found.due(["a", "b"], 100) == ["a", "b"]
    found.note("a", WELL, 100)
    found.note("b", BAD, 100)
    assert found.due(["a", "b"], 105) == []
    assert found.due(["a", "b", "c"], 106) == ["c"]
    found.note("c", None, 106)
    assert found.due(["a", "b", "c"], 111) == ["b", "c"]
    found.note("b", WELL, 111)
    found.note("c", WELL, 111)
    assert found.due(["a", "b", "c"], 159) == []
    assert found.due(["a", "b", "c"], 161) == ["a", "b", "c"]
    assert found.due(["a"], 162) == []
    assert found.found() == {"a": WELL}


def test_one_failure_is_not_believed() -> None:
    """Two in a row are; one success ends it."""
    found = rounds()
    found.note("a", WELL, 0)
    found.note("a", BAD, 60)
    assert found.found() == {"a": WELL}
    found.note("a", BAD, 70)
    assert found.found() == {"a": BAD}
    assert found.counts() == {"well": 0, "silent": 0, "locator": 0, "source": 1, "state": 0, "mtu": 0}
    found.note("a", WELL, 80)
    found.note("b", BAD, 80)
    assert found.found() == {"a": WELL}


def test_many_nodes_make_no_burst() -> None:
    """New ones come in parts; in a period a sample of them is probed."""
    found = rounds()
    names = [f"n{number:04}" for number in range(1000)]
    seen: set[str] = set()
    for look in range(40):
        due = found.due(names, 100 + look)
        assert len(due) <= AT_ONCE
        seen.update(due)
        for name in due:
            found.note(name, WELL, 100 + look)
    assert seen == set(names)
    probed = sum(len(found.due(names, 200 + second)) for second in range(600))
    assert probed <= 10 * AT_ONCE


# --- the service ---


class FakeEnd:
    """An end that is attached when the test says so."""

    address: ipaddress.IPv6Address | None = ipaddress.IPv6Address("fd00:10:244::1")
    error = ""

    async def attach(self) -> ipaddress.IPv6Address | None:
        if self.error:
            raise ProbeError(self.error)
        return self.address


class FakeExchange:
    """Nodes of which comes back what the test says."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.asked: list[str] = []
        self.peers: Mapping[str, Peer] = {}
        self.ready = False
        self.error = ""

    async def open(self) -> None:
        if self.error:
            raise ProbeError(self.error)

    async def meet(self, peers: Mapping[str, Peer], *, ready: bool) -> None:
        self.peers, self.ready = peers, ready

    async def probe(self, peer: Peer, *, mtu: int) -> Outcome:
        assert mtu == 1500
        self.asked.append(peer.name)
        return self.outcomes.get(peer.name, ALL)


class Service:
    """The service of node n1, which knows n2 and n3; n3's end is not published."""

    def __init__(self) -> None:
        self.end, self.exchange, self.status = FakeEnd(), FakeExchange(), Status()
        self.status.registered(REGISTRATION)
        self.status.host_ready(mtu=1500)
        self.located = {probe_identifier(name).value: (THERE.value, Generation(1, 5)) for name in ("n2",)}
        nodes = {
            name: Node(name=name, locator=locator, address=ipaddress.IPv6Address(f"fd00:a::{name[1]}"), port=7444)
            for name, locator in (("n1", HERE), ("n2", THERE), ("n3", THERE))
        }
        self.probes = Probes(
            node="n1",
            end=self.end,
            exchange=self.exchange,
            rounds=rounds(),
            nodes=lambda: nodes,
            locate=self.located.get,
            status=self.status,
        )


async def test_only_what_is_published_is_probed_and_only_from_an_end() -> None:
    """All other nodes may ask; this one is told about itself by nobody."""
    service = Service()
    service.end.address = None
    await service.probes.step(0)
    assert (service.exchange.asked, service.exchange.ready) == ([], False)
    assert service.exchange.peers.keys() == {"n2", "n3"}
    assert service.exchange.peers["n2"] == PEER
    service.end.address = FakeEnd.address
    await service.probes.step(1)
    assert (service.exchange.asked, service.exchange.ready) == (["n2"], True)
    assert service.probes.describe() == {"n2": {"ok": True, "problem": ""}}


async def test_a_finding_is_a_problem_until_it_is_over() -> None:
    """After two failures; a node that does not answer is shown, and is no problem."""
    service = Service()
    service.exchange.outcomes["n2"] = HEARD
    await service.probes.step(0)
    assert (service.status.problems, service.probes.describe()) == ({}, {})
    await service.probes.step(10)
    assert "n2 sends here" in service.status.problems["underlay"]
    assert service.probes.describe() == {"n2": {"ok": False, "problem": service.status.problems["underlay"]}}
    service.exchange.outcomes["n2"] = NOTHING
    await service.probes.step(20)
    assert service.status.problems == {}
    assert "does not answer at all" in str(service.probes.describe()["n2"])
    service.exchange.outcomes["n2"] = ALL
    await service.probes.step(30)
    assert service.probes.describe() == {"n2": {"ok": True, "problem": ""}}


async def test_probes_that_cannot_be_sent_are_a_problem_of_this_node() -> None:
    """The port is taken, or there is no end: said as such, and tried again."""
    service = Service()
    service.exchange.error = "UDP port 7444 is taken"
    await service.probes.step(0)
    assert service.status.problems == {"probes": "UDP port 7444 is taken"}
    service.exchange.error, service.end.error = "", "no namespace"
    await service.probes.step(1)
    assert service.status.problems == {"probes": "no namespace"}
    service.end.error = ""
    await service.probes.step(2)
    assert service.status.problems == {}


# --- the end ---


class FakePlace:
    """A namespace that is the test's own standard input."""

    error: NetworkError | None = None

    @property
    def descriptor(self) -> int:
        if self.error is not None:
            raise self.error
        return 0


class Host:
    """The end of node n1 with everything around it faked; a publication is done by hand."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.pool = pool
        self.controller, self.datapath, self.wiring = FakeController(), FakeDatapath(), FakeWiring()
        self.records, self.place = FakeRecords(), FakePlace()
        self.located: dict[int, tuple[int, Generation]] = {}
        self.restart()

    def restart(self) -> None:
        """Begin anew, as after a kill: the kernel has taken the namespace and its links away."""
        self.wiring.pods.clear()
        self.status = Status()
        self.status.registered(REGISTRATION)
        self.status.host_ready(mtu=1500)
        self.table = EndpointTable(records=self.records, pool=self.pool)
        self.table.load()
        reserve = Reserve(
            controller=self.controller,
            records=FakeRecords(),
            table=self.table,
            status=self.status,
            size=8,
            pool=self.pool,
        )
        self.publications = Publications(controller=self.controller, table=self.table, status=self.status)
        self.releases = Releases(
            controller=self.controller,
            table=self.table,
            status=self.status,
            settled=self.publications.settled,
            forget=reserve.forget,
        )
        assembly = Assembly(
            address=NODE_ADDRESS,
            controller=self.controller,
            datapath=self.datapath,
            wiring=self.wiring,
            table=self.table,
            releases=self.releases,
            reserve=reserve,
            ipv4=Ipv4Pool(ipaddress.IPv4Network("169.254.172.0/22")),
            timings=FakeTimings(),
            pool=self.pool,
            wire_pool=self.pool,
        )
        self.end = ProbeEnd(
            node="n1",
            address=NODE_ADDRESS,
            place=self.place,  # type: ignore[arg-type]  # of sockets nobody asks here
            assembly=assembly,
            wiring=self.wiring,
            table=self.table,
            publications=self.publications,
            locate=self.located.get,
            status=self.status,
            pool=self.pool,
        )

    async def publish(self) -> None:
        """Have the controller hear of it, and the mapping come back."""
        assert await self.publications.step()
        self.located[OWN.value] = (HERE.value, Generation(1, self.controller.revision))

    @property
    def calls(self) -> list[str]:
        return self.controller.calls


OWN = probe_identifier("n1")
ADDRESS = DOMAIN.sir_prefix.address(OWN)
LINK = host_name("probe", "eth0")


@pytest.fixture
def host() -> Iterator[Host]:
    """Yield a host that serves, without an end yet."""
    with ThreadPoolExecutor(1) as pool:
        yield Host(pool)


async def test_the_end_is_attached_published_and_then_left_alone(host: Host) -> None:
    """It has the identifier that follows from the node's name; it is no pod, and no address until it is mapped."""
    assert await host.end.attach() is None
    assert (host.wiring.pods[LINK][0].address, host.wiring.pods[LINK][0].ipv4) == (ADDRESS, None)
    assert set(host.datapath.endpoints) == {OWN.value}
    await host.publish()
    assert await host.end.attach() == ADDRESS
    (endpoint,) = host.table.all()
    assert (endpoint.state, endpoint.identifier, endpoint.is_pod) == (State.WIRED, OWN, False)
    assert (endpoint.pod.owner, endpoint.pod.keeps, endpoint.network) == ("node/n1", False, "")
    assert host.calls == ["assign"]
    edits = host.table.edits
    assert await host.end.attach() == ADDRESS
    assert (host.calls, host.table.edits) == (["assign"], edits)


async def test_the_end_comes_back_as_it_was(host: Host) -> None:
    """After a restart, after somebody removed its link, and with the MTU of the underlay now."""
    await host.end.attach()
    await host.publish()
    host.restart()
    assert await host.end.attach() == ADDRESS
    assert LINK in host.wiring.pods
    host.wiring.pods.clear()
    assert await host.end.attach() == ADDRESS
    assert LINK in host.wiring.pods
    host.status.host_ready(mtu=1400)
    await host.end.attach()
    assert [endpoint.mtu for endpoint in host.table.all()] == [1400]


async def test_an_end_whose_mapping_is_lost_is_published_again(host: Host) -> None:
    """The node had been deleted for a while, or has another locator; not before all mappings are known."""
    await host.end.attach()
    await host.publish()
    for wrong in (None, (THERE.value, Generation(2, 1))):
        host.located.clear()
        if wrong is not None:
            host.located[OWN.value] = wrong
        host.status.mappings_complete = False
        assert await host.end.attach() is None
        assert host.table.unpublished() == []
        host.status.mappings_complete = True
        assert await host.end.attach() is None
        assert len(host.table.unpublished()) == 1
        await host.publish()
        assert await host.end.attach() == ADDRESS


async def test_what_fails_is_said_and_leaves_nothing(host: Host) -> None:
    """No namespace, no link, no way through the datapath: each is tried again and ends well."""
    host.place.error = NetworkError("no new network namespace: not permitted")
    with pytest.raises(ProbeError, match="not permitted"):
        await host.end.attach()
    host.place.error = None
    host.wiring.fail_next["wire"] = NetworkError("no link")
    with pytest.raises(ProbeError, match="could not be wired: no link"):
        await host.end.attach()
    assert not host.wiring.pods
    host.datapath.fail_next["write_endpoint"] = DatapathError("map full")
    with pytest.raises(ProbeError, match="map full"):
        await host.end.attach()
    assert not host.wiring.pods
    await host.end.attach()
    await host.publish()
    assert await host.end.attach() == ADDRESS


async def test_an_end_that_is_not_wanted_any_more_goes(host: Host) -> None:
    """Its identifier is given back; none is no error; what fails is said."""
    await host.end.remove()
    await host.end.attach()
    await host.publish()
    host.wiring.fail_next["unwire"] = NetworkError("busy")
    with pytest.raises(ProbeError, match="busy"):
        await host.end.remove()
    await host.end.remove()
    assert await host.releases.step()
    assert (host.table.all(), host.wiring.pods, host.datapath.endpoints) == ([], {}, {})
    assert host.calls[-1] == "release"


async def test_nothing_is_attached_before_the_host_serves(host: Host) -> None:
    """Programs and routes come first."""
    host.end._status = Status()
    assert await host.end.attach() is None
    assert not host.wiring.pods
