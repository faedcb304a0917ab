# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.conflist import Conflist
from agent.core.datapath import DatapathError, HostPath, NextHop
from agent.core.network import UNDERLAY_GATEWAY, Hop, NetworkError, Renumbered, RouteKind
from agent.core.nexthop import choose
from agent.core.ports import ControllerError
from agent.core.status import Status
from agent.endpoint_table import EndpointTable
from agent.loop import Loop
from agent.node import RENUMBERED, Node
from agent.reports import Reports
from ila.mapping import Generation
from ila.mapping import Node as NodeRecord
from tests.fakes import (
    HERE,
    NODE_ADDRESS,
    REGISTRATION,
    THERE,
    FakeController,
    FakeDatapath,
    FakeNetworking,
    FakeRecords,
    FakeReject,
)

GATEWAY = ipaddress.IPv6Address("fe80::99")
OTHER = NodeRecord(name="host2", locator=THERE, address=ipaddress.IPv6Address("fd00:a::2"), port=7444)


def hop(gateway: ipaddress.IPv6Address | None, *, ours: bool = False) -> Hop:
    return Hop(device=2, gateway=gateway, source=NODE_ADDRESS, ours=ours)


@dataclass
class Parts:
    """A node service and the fakes around it."""

    pool: ThreadPoolExecutor
    status: Status = field(default_factory=Status)
    controller: FakeController = field(default_factory=FakeController)
    datapath: FakeDatapath = field(default_factory=FakeDatapath)
    networking: FakeNetworking = field(default_factory=FakeNetworking)
    records: FakeRecords = field(default_factory=FakeRecords)
    nodes: dict[str, NodeRecord] = field(default_factory=dict)

    def node(self, next_hop: str = "auto") -> Node:
        async def no_pods() -> list[object]:
            return []

        return Node(
            address=NODE_ADDRESS,
            underlay=["eth0"],
            edge=[],
            host_path=HostPath.STACK,
            next_hop=next_hop,
            reject_mark=1 << 24,
            ipv4=False,
            controller=self.controller,
            datapath=self.datapath,
            networking=self.networking,
            reject=FakeReject(),
            records=self.records,
            status=self.status,
            nodes=lambda: self.nodes,
            highest=lambda: Generation(3, 77),
            held=list,
            pods=no_pods,  # type: ignore[arg-type]
            pool=self.pool,
        )


@pytest.fixture
def parts() -> Iterator[Parts]:
    """Yield fakes for one node."""
    with ThreadPoolExecutor(1) as pool:
        yield Parts(pool)


@pytest.mark.parametrize(
    ("setting", "nodes", "locators", "expected"),
    [
        ("auto", [hop(GATEWAY)], [hop(GATEWAY)], (NextHop.GATEWAY, GATEWAY)),
        ("auto", [], [hop(GATEWAY)], (NextHop.GATEWAY, GATEWAY)),
        ("auto", [hop(None)], [hop(GATEWAY)], (NextHop.NEIGHBOUR, None)),
        ("auto", [], [None], (NextHop.NEIGHBOUR, None)),
        ("auto", [hop(GATEWAY)], [hop(GATEWAY), hop(UNDERLAY_GATEWAY)], (NextHop.NEIGHBOUR, None)),
        ("auto", [hop(GATEWAY)], [hop(GATEWAY), hop(UNDERLAY_GATEWAY, ours=True)], (NextHop.GATEWAY, GATEWAY)),
        ("neighbour", [hop(GATEWAY)], [hop(GATEWAY)], (NextHop.NEIGHBOUR, None)),
        ("gateway", [hop(None)], [hop(GATEWAY)], (NextHop.GATEWAY, GATEWAY)),
    ],
)
def test_the_underlay_is_found_out(
    setting: str, nodes: list[Hop], locators: list[Hop | None], expected: tuple[NextHop, object]
) -> None:
    """A node on the link means a shared layer 2; one gateway for all locators means a routed one."""
    assert choose(setting=setting, nodes=nodes, locators=locators) == expected


def test_a_gateway_that_is_none_is_refused() -> None:
    """next_hop = 'gateway' where routes name several gateways is an error that names them."""
    with pytest.raises(ValueError, match="fe80::99"):
        choose(setting="gateway", nodes=[], locators=[hop(GATEWAY), hop(ipaddress.IPv6Address("fe80::98"))])


async def test_registration_is_remembered(parts: Parts) -> None:
    """A restarted agent takes up the last answer from disk, so that it needs no controller to serve."""
    await parts.node().register((0.0,))
    assert parts.controller.highest == Generation(3, 77)
    restarted = Parts(parts.pool, records=parts.records)
    restarted.node().load()
    assert restarted.status.registration == REGISTRATION


async def test_registration_is_tried_until_answered(parts: Parts) -> None:
    """A controller that is away is a problem of the status, and no more."""
    parts.controller.fail_next["register"] = ControllerError("down")
    await parts.node().register((0.0,))
    assert parts.status.registration == REGISTRATION
    assert not parts.status.problems


def test_a_node_record_that_does_not_parse_stops_the_agent(parts: Parts) -> None:
    """A broken record is an error that quotes it."""
    parts.records.files["node"] = b'{"locator": "fd00::/48"}'
    with pytest.raises(ValueError, match="fd00::/48"):
        parts.node().load()


async def test_step_sets_the_host_up(parts: Parts) -> None:
    """Programs first, then routes: no untranslated packet can leave in between."""
    parts.networking.hops = {"::/0": hop(GATEWAY)}
    parts.nodes = {"host1": NodeRecord(name="host1", locator=HERE, address=NODE_ADDRESS, port=1), "host2": OTHER}
    parts.status.registered(REGISTRATION)
    await parts.node().step()
    settings, state = parts.datapath.settings, parts.networking.state
    assert settings is not None
    assert state is not None
    assert settings.gateway == GATEWAY
    assert settings.closed_ports == REGISTRATION.closed_ports
    assert parts.datapath.roles == {2: "inside"}
    assert parts.datapath.nodes == {NODE_ADDRESS, OTHER.address}
    assert {route.gateway for route in state.routes if route.kind is RouteKind.UNICAST} == {GATEWAY}
    assert parts.status.serving


async def test_a_node_on_the_link_gets_its_locator_routed(parts: Parts) -> None:
    """On a shared layer 2 each node routes the others' locators by their node addresses."""
    parts.networking.hops = {"fd00:a::/64": hop(None)}
    parts.nodes = {"host2": OTHER}
    parts.status.registered(REGISTRATION)
    await parts.node().step()
    assert parts.datapath.settings is not None
    assert parts.datapath.settings.gateway is None
    assert parts.networking.state is not None
    assert (THERE.network, OTHER.address) in {(r.destination, r.gateway) for r in parts.networking.state.routes}


@pytest.mark.parametrize(
    ("error", "reason"),
    [(Renumbered("has fd00:b::1"), "has fd00:b::1"), (NetworkError("no device has it"), "")],
)
async def test_an_address_that_has_changed_is_said_after_a_while(
    parts: Parts, error: NetworkError, reason: str
) -> None:
    """A new start helps then; while a link is down there is no address at all, and none would help."""
    parts.networking.hops = {"::/0": hop(GATEWAY)}
    parts.status.registered(REGISTRATION)
    node = parts.node()
    for _ in range(2):
        parts.networking.fail_next["device_of"] = error
        with pytest.raises(NetworkError, match=str(error)):
            await node.step()
    assert node.renumbered(time.monotonic()) == ""
    assert node.renumbered(time.monotonic() + RENUMBERED) == reason
    await node.step()
    assert node.renumbered(time.monotonic() + RENUMBERED) == ""


async def test_a_step_that_fails_is_a_problem_and_is_tried_again(parts: Parts) -> None:
    """The loop names the step and the reason; the first holds the others back, until it is over; no other does."""
    ran: list[str] = []
    failures: list[Exception] = [OSError("no such device")]

    async def first() -> None:
        if failures:
            raise failures.pop()

    async def second() -> None:
        ran.append("second")

    async def stuck() -> None:
        if waiting:
            raise NetworkError(waiting.pop())

    waiting = ["queued DELs wait"]
    steps = [("host", first), ("deletes", stuck), ("endpoints", second)]
    loop = Loop(steps=steps, status=parts.status, resync=30, retry=1)
    assert not await loop.step()
    assert parts.status.problems == {"host": "no such device"}
    assert not ran
    assert not await loop.step()
    assert parts.status.problems == {"deletes": "queued DELs wait"}
    assert ran == ["second"]
    assert await loop.step()
    assert not parts.status.problems


async def test_a_kernel_that_refuses_the_programs_is_reported_and_left_alone(parts: Parts, tmp_path: Path) -> None:
    """The controller hears of it, no configuration brings pods here, and no route leads into nothing."""
    parts.networking.hops = {"::/0": hop(GATEWAY)}
    parts.status.registered(REGISTRATION)
    path = tmp_path / "net.d/10-ilanet.conflist"
    conflist = Conflist(
        path=path,
        replace=False,
        chain=(),
        sysctls={},
        plugins=tmp_path,
        executable=None,
        datapath=parts.datapath,
        status=parts.status,
        pool=parts.pool,
    )
    steps = [("host", parts.node().step), ("conflist", conflist.step)]
    loop = Loop(steps=steps, status=parts.status, resync=30, retry=1)
    table = EndpointTable(records=FakeRecords(), pool=parts.pool)
    reports = Reports(controller=parts.controller, status=parts.status, table=table)
    reason = "load: Operation not supported on Linux 5.10, built without BTF"
    parts.datapath.fail_next["load"] = DatapathError(reason)
    assert not await loop.step()
    await reports.step(0)
    assert not parts.status.serving
    assert [(report[1], report[2]) for report in parts.controller.reports] == [(False, {"host": reason})]
    assert parts.networking.state is None
    assert not path.parent.exists()
    assert await loop.step()
    await reports.step(1)
    assert parts.status.serving
    assert path.exists()
    assert parts.controller.reports[-1][1:3] == (True, {})
