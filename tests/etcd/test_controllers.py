# SPDX-License-Identifier: Apache-2.0
"""Controllers as processes: racing, killed, misconfigured, and asked by callers with wrong certificates."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import http.client
import json
import random
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ila import mapping
from ila.address import Identifier
from ila.certificates import CONTROLLER
from ila.settings import Peer
from lab.authority import Authority, Certificate
from lab.controller import NAME, ControllerProcess, ControllerSetting
from lab.etcd import Etcd
from proto import ilanet_pb2 as pb
from proto.ilanet_pb2_grpc import ControllerStub
from tests.etcd.tools import Connections

DEADLINE = 5


class Replicas:
    """Two controllers on one etcd, and how to call them as a node."""

    def __init__(self, etcd: Etcd, authority: Authority, directory: Path) -> None:
        self.etcd = etcd
        self.authority = authority
        self.ca = directory / "clients.pem"
        """The authority that nodes and controllers trust; etcd's has a file of its own."""

        self.ca.write_bytes(authority.ca.read_bytes())
        self.certificate = replace(authority.server("controller", names=[NAME]), ca=self.ca)
        settings = [ControllerSetting(etcd=etcd.client(CONTROLLER), certificate=self.certificate) for _ in range(2)]
        self.processes = [
            ControllerProcess(name=f"controller{number}", directory=directory, setting=setting)
            for number, setting in enumerate(settings)
        ]

    def peer(self, certificate: Certificate) -> Peer:
        """Return how to reach them with a client certificate."""
        return self._peer(certificate, self.processes)

    def one(self, number: int, name: str) -> Peer:
        """Return how node `name` reaches one of them and not the other."""
        return self._peer(
            self.authority.client(f"node-{name}", common_name=f"ilanet:node:{name}"), [self.processes[number]]
        )

    def _peer(self, certificate: Certificate, processes: Sequence[ControllerProcess]) -> Peer:
        return Peer(
            endpoints=tuple(process.setting.endpoint for process in processes),
            authority=NAME,
            ca=self.ca,
            certificate=certificate.certificate,
            key=certificate.key,
        )

    def node(self, name: str, *, lifetime: dt.timedelta = dt.timedelta(days=1)) -> Peer:
        """Return how node `name` reaches them."""
        made = self.authority.client(f"node-{name}", common_name=f"ilanet:node:{name}", lifetime=lifetime)
        return self.peer(made)

    def start(self) -> None:
        """Start both."""
        for process in self.processes:
            process.start_ready()

    def stop(self) -> None:
        """End both."""
        for process in self.processes:
            process.stop()


@pytest.fixture
def replicas(guarded_etcd: Etcd, authority: Authority, tmp_path: Path) -> Iterator[Replicas]:
    """Two controllers that serve, to be harmed."""
    made = Replicas(guarded_etcd, authority, tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def standing(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    """Two controllers that serve all tests which do them no harm."""
    directory = tmp_path_factory.mktemp("standing")
    with Etcd(directory=directory / "etcd", authority=authority, fast=True) as etcd:
        etcd.set_up_users()
        made = Replicas(etcd, authority, directory)
        try:
            made.start()
            yield made
        finally:
            made.stop()


async def registered(replicas: Replicas, connections: Connections, node: str) -> ControllerStub:
    """Return the controllers as a registered node calls them."""
    stub = ControllerStub(connections.channel(replicas.node(node)).get())
    await stub.Register(registration(node), timeout=DEADLINE)
    return stub


@pytest.fixture
async def n1(replicas: Replicas, connections: Connections) -> ControllerStub:
    """Return the controllers as the registered node n1 calls them."""
    return await registered(replicas, connections, "n1")


def registration(node: str, **changed: object) -> pb.RegisterRequest:
    """Return a request to register."""
    fields: dict[str, object] = {"node": node, "control_address": "2001:db8::1", "control_port": 7444}
    return pb.RegisterRequest(**(fields | changed))  # type: ignore[arg-type]


def request(name: str, *, node: str = "n1", container: str = "c1", take_over: bool = False) -> pb.AssignRequest:
    """Return a request for the pod ns/<name>, which keeps its address."""
    pod = pb.Pod(namespace="ns", name=name, keep_address=True)
    return pb.AssignRequest(node=node, pod=pod, container_id=container, take_over=take_over)


async def assign(stub: ControllerStub, asked_for: pb.AssignRequest) -> pb.AssignReply:
    """Assign, whatever happens to the controllers."""
    reply: pb.AssignReply = await asked(lambda: stub.Assign(asked_for, timeout=DEADLINE))
    return reply


async def refusal(call: grpc.aio.UnaryUnaryCall[object, object]) -> tuple[grpc.StatusCode, str]:
    """Return the status of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value.code(), refused.value.details() or ""


async def test_racing_controllers_killed_at_random(replicas: Replicas, connections: Connections) -> None:
    """200 Assigns at once, of 4 nodes, while controllers are killed: none twice, none lost, a retry gets the same."""
    nodes = [f"n{number}" for number in range(1, 5)]
    stubs = {node: await registered(replicas, connections, node) for node in nodes}
    pods = [request(f"p{number}", node=nodes[number % 4]) for number in range(200)]
    flying: set[str] = set()
    seen: list[int] = []

    async def pod(asked_for: pb.AssignRequest) -> pb.AssignReply:
        flying.add(asked_for.pod.name)
        try:
            return await assign(stubs[asked_for.node], asked_for)
        finally:
            flying.remove(asked_for.pod.name)

    calls = asyncio.gather(*(pod(asked_for) for asked_for in pods))
    harming = asyncio.create_task(
        harm(replicas, random.Random(7), first=0.01, killed=lambda: seen.append(len(flying)))  # noqa: S311 - repeatable
    )
    try:
        answers = await calls
        again = await asyncio.gather(*(assign(stubs[asked_for.node], asked_for) for asked_for in pods))
    finally:
        harming.cancel()
        await asyncio.gather(harming, return_exceptions=True)
    assert seen[0] > 100, "the first kill met too few calls"
    assert len({answer.identifier for answer in answers}) == 200
    assert again == answers
    store = connections.store(replicas.etcd.client(CONTROLLER))
    mapped = {mapping.last_number(key) for key in await store.read_keys(mapping.MAPPINGS)}
    assert mapped == {answer.identifier for answer in answers}
    assert len(await store.read_keys(mapping.OWNERS)) == 200
    assert len(await store.read_keys(mapping.TAKEN_IDENTIFIERS)) == 200


async def test_one_owner_asked_for_at_both_controllers_at_once(replicas: Replicas, connections: Connections) -> None:
    """200 Assigns at once, one at either controller for each of 100 pods: both give the same identifier."""
    await registered(replicas, connections, "n1")
    either = [ControllerStub(connections.channel(replicas.one(number, "n1")).get()) for number in (0, 1)]
    asked_for = [request(f"p{number}") for number in range(100)]
    answers = await asyncio.gather(*(assign(stub, each) for each in asked_for for stub in either))
    assert answers[::2] == answers[1::2]
    given = {answer.identifier for answer in answers}
    assert len(given) == 100
    store = connections.store(replicas.etcd.client(CONTROLLER))
    for kind in (mapping.MAPPINGS, mapping.TAKEN_IDENTIFIERS):
        assert {mapping.last_number(key) for key in await store.read_keys(kind)} == given


async def asked(call: Callable[[], Awaitable[Any]]) -> Any:
    """Call as an agent does: again until an answer comes."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise
                await asyncio.sleep(0.05)


async def harm(
    replicas: Replicas, chance: random.Random, *, first: float = 0.1, killed: Callable[[], None] = lambda: None
) -> None:
    """Kill and start controllers for ever, beginning after `first` seconds; `killed` hears of each kill."""
    await asyncio.sleep(first)
    while True:
        victim = chance.choice(replicas.processes)
        killed()
        victim.kill()
        await asyncio.sleep(chance.uniform(0.0, 0.3))
        victim.start()
        await asyncio.sleep(chance.uniform(0.1, 0.4))


async def test_racing_reserves_with_controllers_killed(
    replicas: Replicas, n1: ControllerStub, connections: Connections
) -> None:
    """Two nodes fill and use their reserves while controllers are killed: none twice, none lost."""
    stubs = {"n1": n1, "n2": await registered(replicas, connections, "n2")}

    async def fill(node: str) -> set[int]:
        demand = pb.ReserveRequest(node=node, count=60)
        return set((await asked(lambda: stubs[node].Reserve(demand, timeout=DEADLINE))).identifiers)

    async def use(node: str, identifier: int) -> None:
        pod = pb.Pod(uid=f"u-{identifier:x}")
        demand = pb.AssignRequest(node=node, pod=pod, container_id="c", reserved=identifier)
        reply = await asked(lambda: stubs[node].Assign(demand, timeout=DEADLINE))
        assert reply.identifier == identifier

    harming = asyncio.create_task(harm(replicas, random.Random(11)))  # noqa: S311 - repeatable
    used: set[int] = set()
    try:
        for _ in range(3):
            mine, theirs, again = await asyncio.gather(fill("n1"), fill("n2"), fill("n1"))
            assert len(mine) >= 60
            assert (mine | again).isdisjoint(theirs)
            assert used.isdisjoint(mine | again | theirs)
            chosen = {("n1", identifier) for identifier in list(mine)[:40]}
            chosen |= {("n2", identifier) for identifier in list(theirs)[:40]}
            await asyncio.gather(*(use(node, identifier) for node, identifier in chosen))
            used |= {identifier for _, identifier in chosen}
        left = await fill("n1") | await fill("n2")
    finally:
        harming.cancel()
        await asyncio.gather(harming, return_exceptions=True)
    store = connections.store(replicas.etcd.client(CONTROLLER))
    assert {mapping.last_number(key) for key in await store.read_keys(mapping.MAPPINGS)} == used
    assert {mapping.last_number(key) for key in await store.read_keys(mapping.RESERVES)} == left
    assert {mapping.last_number(key) for key in await store.read_keys(mapping.TAKEN_IDENTIFIERS)} == used | left


async def test_take_over_and_late_release(replicas: Replicas, n1: ControllerStub, connections: Connections) -> None:
    """A pod of the same name on another node takes the identifier over; the old one's late Release does no harm."""
    n2 = ControllerStub(connections.channel(replicas.node("n2")).get())
    there = await n2.Register(registration("n2", locator="fd00:c0de:7::/64"), timeout=DEADLINE)
    first = await n1.Assign(request("p"), timeout=DEADLINE)
    elsewhere = request("p", node="n2", container="c2")
    code, details = await refusal(n2.Assign(elsewhere, timeout=DEADLINE))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "held by container 'c1' on node 'n1'" in details
    elsewhere.take_over = True
    second = await n2.Assign(elsewhere, timeout=DEADLINE)
    assert (second.identifier, second.sir_address) == (first.identifier, first.sir_address)
    assert second.generation.revision > first.generation.revision
    late = pb.ReleaseRequest(node="n1", pod=request("p").pod, container_id="c1")
    for _ in range(2):
        await n1.Release(late, timeout=DEADLINE)
    key = mapping.mapping_key(Identifier(first.identifier))
    reading = await connections.store(replicas.etcd.client(CONTROLLER)).read([key])
    assert str(mapping.decode_mapping(key, reading.records[key].value)) == there.locator
    assert reading.revision_of(key) == second.generation.revision


@pytest.mark.parametrize(
    ("call", "asked", "code", "words"),
    [
        ("Register", registration("n1", locator="fd00:beef::/64"), "INVALID_ARGUMENT", "locator fd00:beef::/64"),
        ("Register", registration("n1", locator="fd00:c0de::/48"), "INVALID_ARGUMENT", "'fd00:c0de::/48' is no /64"),
        ("Register", registration("n1", control_address="10.0.0.1"), "INVALID_ARGUMENT", "10.0.0.1"),
        ("Register", registration("n1", control_port=70000), "INVALID_ARGUMENT", "70000"),
        ("Register", registration("n1", held=[pb.Held(identifier=7)]), "INVALID_ARGUMENT", "pod uid ''"),
        ("Register", registration("n/1"), "INVALID_ARGUMENT", "node 'n/1'"),
        ("Register", registration("n" * 300), "INVALID_ARGUMENT", "at most 253 characters"),
        ("Register", registration("n2"), "PERMISSION_DENIED", "'ilanet:node:n1' may not act for node 'n2'"),
        ("Register", registration("n1", highest=pb.Generation(epoch=1 << 62)), "INVALID_ARGUMENT", "cannot be"),
        ("Assign", request("p", node="n2"), "PERMISSION_DENIED", "'ilanet:node:n1' may not act for node 'n2'"),
        ("Assign", request("../p"), "INVALID_ARGUMENT", "pod name '../p'"),
        ("Assign", request("p", container="c/1"), "INVALID_ARGUMENT", "container id 'c/1'"),
        ("Assign", pb.AssignRequest(node="n1", container_id="c1"), "INVALID_ARGUMENT", "pod uid ''"),
        ("Release", pb.ReleaseRequest(node="n1", pod=pb.Pod(uid="u/1")), "INVALID_ARGUMENT", "pod uid 'u/1'"),
    ],
)
async def test_refusals(
    *, standing: Replicas, connections: Connections, call: str, asked: object, code: str, words: str
) -> None:
    """Every wrong request ends with the right status, the offending text, and nothing changed."""
    n1 = await registered(standing, connections, "n1")
    before = standing.etcd.revision()
    status, details = await refusal(getattr(n1, call)(asked, timeout=DEADLINE))
    assert status.name == code
    assert words in details
    assert standing.etcd.revision() == before


async def test_unknown_node_and_locator_of_another(standing: Replicas, connections: Connections) -> None:
    """A node that is not registered gets no identifier, and no node gets another's locator."""
    n1 = await registered(standing, connections, "n1")
    mine = (await n1.Register(registration("n1"), timeout=DEADLINE)).locator
    n3 = ControllerStub(connections.channel(standing.node("n3")).get())
    code, details = await refusal(n3.Assign(request("p", node="n3"), timeout=DEADLINE))
    assert (code, details) == (grpc.StatusCode.FAILED_PRECONDITION, "node 'n3' is not registered")
    code, details = await refusal(n3.Register(registration("n3", locator=mine), timeout=DEADLINE))
    assert code is grpc.StatusCode.ALREADY_EXISTS
    assert f"locator {mine} of node 'n3' is node 'n1''s" in details


@pytest.mark.parametrize("wrong", ["expired", "other authority", "plaintext", "no node"])
async def test_wrong_certificates(
    standing: Replicas, connections: Connections, authority: Authority, tmp_path: Path, wrong: str
) -> None:
    """Expired certificates, those of another authority and plaintext do not connect; a CN of no node may do nothing."""
    peer = standing.node("n1")
    expected = grpc.StatusCode.UNAVAILABLE
    if wrong == "expired":
        peer = standing.node("n9", lifetime=dt.timedelta(hours=-1))
    elif wrong == "other authority":
        other = Authority(tmp_path / "other")
        other.create()
        made = other.client("n1", common_name="ilanet:node:n1")
        peer = replace(peer, certificate=made.certificate, key=made.key)
    elif wrong == "plaintext":
        peer = Peer(endpoints=peer.endpoints, insecure=True)
    else:
        peer = standing.peer(authority.client("other", common_name="n1"))
        expected = grpc.StatusCode.PERMISSION_DENIED
    stub = ControllerStub(connections.channel(peer).get())
    code, _ = await refusal(stub.Register(registration("n1"), timeout=2))
    assert code is expected


async def test_certificates_replaced_while_running(replicas: Replicas, connections: Connections) -> None:
    """Server and client take up new certificates, and a new authority with them, without a restart."""
    channel = connections.channel(replicas.node("n1"))
    await ControllerStub(channel.get()).Register(registration("n1"), timeout=DEADLINE)
    other = Authority(replicas.ca.parent / "other")
    other.create()
    server, client = other.server("server", names=[NAME]), other.client("client", common_name="ilanet:node:n1")
    directory = replicas.certificate.key.parent
    for made, name in ((server, "controller"), (client, "node-n1")):
        made.key.replace(directory / f"{name}.key")
        made.certificate.replace(directory / f"{name}.pem")
    other.ca.replace(replicas.ca)
    await ControllerStub(channel.get()).Register(registration("n1"), timeout=DEADLINE)
    async with asyncio.timeout(DEADLINE):
        while not all("has changed" in process.tail() for process in replicas.processes):
            await ControllerStub(channel.get()).Register(registration("n1"), timeout=DEADLINE)  # any replica answers


async def test_etcd_away_and_back(replicas: Replicas, n1: ControllerStub) -> None:
    """While etcd does not answer, calls end as unavailable; once it is back they succeed."""
    before = await n1.Assign(request("p"), timeout=DEADLINE)
    replicas.etcd.kill()
    code, _ = await refusal(n1.Assign(request("p"), timeout=15))
    assert code is grpc.StatusCode.UNAVAILABLE
    replicas.etcd.start()
    assert await assign(n1, request("p")) == before


async def test_wiped_etcd_is_filled_again(replicas: Replicas, n1: ControllerStub) -> None:
    """After a wipe, Register in a newer epoch brings back the node's locator and its pods."""
    before = await n1.Assign(request("p"), timeout=DEADLINE)
    registered = await n1.Register(registration("n1"), timeout=DEADLINE)
    replicas.etcd.kill()
    replicas.etcd.wipe()
    replicas.etcd.start()
    replicas.etcd.set_up_users()
    held = pb.Held(identifier=before.identifier, pod=request("p").pod, container_id="c1", generation=before.generation)
    again = registration("n1", locator=registered.locator, highest=registered.generation, held=[held])
    async with asyncio.timeout(20):
        while True:
            try:
                reply = await n1.Register(again, timeout=DEADLINE)
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)
    assert reply.locator == registered.locator
    assert reply.generation.epoch > registered.generation.epoch
    after = await assign(n1, request("p"))
    assert after.identifier == before.identifier
    assert after.generation.epoch == reply.generation.epoch


def test_sigterm_and_wrong_settings(etcd: Etcd, tmp_path: Path) -> None:
    """SIGTERM ends a controller with 0; malformed settings, plaintext off loopback and another domain do not start."""
    setting = ControllerSetting(etcd=etcd.peer(), certificate=None)
    process = ControllerProcess(name="good", directory=tmp_path, setting=setting)
    process.start_ready()
    process.stop()
    assert "stopping: calls in flight" in process.tail()
    cases = {
        "malformed": (2, "key 'locator_pool': 'nonsense'", replace(setting, locator_pool="nonsense")),
        "plaintext": (2, "insecure = true is for loopback only", replace(setting, address="0.0.0.0")),
        "overlap": (2, "overlaps the SIR prefix", replace(setting, sir_prefix="fd00:c0de:5::/64")),
        "domain": (1, "sir_prefix is fd00:10:244::/64 in etcd", replace(setting, sir_prefix="fd00:10:9::/64")),
    }
    for name, (status, words, wrong) in cases.items():
        controller = ControllerProcess(name=name, directory=tmp_path, setting=wrong)
        controller.write_setting()
        done = subprocess.run(controller.command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == status, done.stderr
        assert words in done.stderr


def test_sigterm_while_waiting_for_etcd(tmp_path: Path) -> None:
    """A controller that waits for etcd says so, and ends when asked to."""
    nowhere = Peer(endpoints=("127.0.0.1:1",), insecure=True)
    process = ControllerProcess(
        name="waiting", directory=tmp_path, setting=ControllerSetting(etcd=nowhere, certificate=None)
    )
    process.write_setting()
    process.start()
    try:
        words = "etcd at 127.0.0.1:1 ([etcd] of controller.toml) is not ready: "
        while words not in process.tail():
            process.check()
        assert told(process, "/healthz") == (200, "ok\n")
        status, reason = told(process, "/readyz")
        assert status == 503
        assert reason.startswith(words)
        assert json.loads(told(process, "/status")[1])["reason"] == reason.strip()
        process.signal(signal.SIGTERM)
        assert process._wait(10)
        assert process._child is not None
        assert process._child.returncode == 0
    finally:
        process.stop()


def told(process: ControllerProcess, path: str) -> tuple[int, str]:
    """Return status and text of what a controller answers over HTTP."""
    connection = http.client.HTTPConnection(process.setting.address, process.setting.http_port, timeout=DEADLINE)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


async def test_metrics_tell_calls_and_how_they_ended(standing: Replicas, connections: Connections) -> None:
    """Prometheus reads how many calls of each kind were answered, refused and how long they took."""
    stub = await registered(standing, connections, "counted")
    await assign(stub, request("counted", node="counted"))
    code, _ = await refusal(stub.Assign(request("counted", node="another"), timeout=DEADLINE))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    counts: dict[tuple[str, str], float] = {}
    for process in standing.processes:
        assert told(process, "/readyz") == (200, "ok\n")
        families = {family.name: family for family in text_string_to_metric_families(told(process, "/metrics")[1])}
        assert families["ilanet_controller_serving"].samples[0].value == 1
        for sample in families["ilanet_controller_call_seconds"].samples:
            if sample.name.endswith("_count"):
                key = sample.labels["call"], sample.labels["outcome"]
                counts[key] = counts.get(key, 0) + sample.value
    assert counts["Register", "ok"] >= 1
    assert counts["Assign", "ok"] >= 1
    assert counts["Assign", "permission_denied"] >= 1
