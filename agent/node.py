# SPDX-License-Identifier: Apache-2.0
"""This node: registers with the controller, remembers the answer, and keeps the host's network and programs right."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Protocol, TypeVar

from agent.core import nexthop
from agent.core.datapath import Datapath, DatapathSettings, HostPath
from agent.core.endpoint import Endpoint
from agent.core.network import Device, Hop, HostNetworking, NetworkError, PodRoute, Renumbered, host_state
from agent.core.ports import Controller, ControllerError, Records, Refused, Registration
from agent.core.status import Status
from agent.pool import uninterrupted
from ila.address import Locator, SirPrefix
from ila.domain import Domain
from ila.mapping import Generation, decode_node, encode_node, node_key
from ila.mapping import Node as NodeRecord

log = logging.getLogger("ilanet.node")

T = TypeVar("T")

RECORD = "node"
"""Key of the record that holds the controller's last answer, so that a restart needs no controller."""

NODES = "nodes"
"""Key of the record that holds the other nodes as last heard, so that a restart takes no route away."""


RENUMBERED = 10.0
"""Seconds that the node address may be away while others are here: a host that changes its addresses has ended."""


class RejectRule(Protocol):
    """The rules that answer packets to identifiers which nothing maps, and keep pods from ports of ilanet here."""

    def ensure(
        self, *, sir_prefix: SirPrefix, closed_ports: Collection[int], nodes: Collection[ipaddress.IPv6Address]
    ) -> bool:
        """Put the rules in place if they are not; return whether they had to be."""


class Node:
    """Registration and host set-up of one node."""

    def __init__(
        self,
        *,
        address: ipaddress.IPv6Address,
        underlay: Sequence[str],
        edge: Sequence[str],
        host_path: HostPath,
        next_hop: str,
        reject_mark: int,
        ipv4: bool,
        controller: Controller,
        datapath: Datapath,
        networking: HostNetworking,
        reject: RejectRule,
        records: Records,
        status: Status,
        nodes: Callable[[], Mapping[str, NodeRecord]],
        highest: Callable[[], Generation],
        held: Callable[[], Iterable[Endpoint]],
        pods: Callable[[], Awaitable[Sequence[PodRoute]]],
        pool: Executor,
    ) -> None:
        self._address = address
        self._underlay = tuple(underlay)
        self._edge = tuple(edge)
        self._host_path = host_path
        self._next_hop = next_hop
        self._reject_mark = reject_mark
        self._ipv4 = ipv4
        self._controller = controller
        self._datapath = datapath
        self._networking = networking
        self._reject = reject
        self._records = records
        self._status = status
        self._nodes = nodes
        self._highest = highest
        self._held = held
        self._pods = pods
        self._pool = pool
        self._remembered: dict[str, NodeRecord] = {}
        self._renumbered: tuple[float, str] | None = None

    # --- registration ---

    def load(self) -> None:
        """Take up the controller's last answer and the nodes last heard of; ValueError if they do not parse."""
        records = self._records.load()
        self._remembered = decode_nodes(records.get(NODES, b"{}"))
        raw = records.get(RECORD)
        if raw is None:
            return
        try:
            fields = json.loads(raw)
            registration = Registration(
                locator=Locator.parse(fields["locator"]),
                domain=Domain.parse(**fields["domain"]),
                closed_ports=tuple(map(int, fields["closed_ports"])),
                ask_first=tuple(fields.get("ask_first", ())),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"node record {raw[:300]!r} does not parse: {error}") from error
        self._status.registered(registration)

    async def register(self, backoff: Sequence[float]) -> None:
        """Register, again and again until the controller answers; returns with the answer noted and on disk."""
        attempt = 0
        while True:
            try:
                registration = await self._controller.register(highest=self._highest(), held=self._held())
                break
            except (ControllerError, Refused) as error:
                self._status.problem("controller", f"registration: {error}")
            await asyncio.sleep(backoff[min(attempt, len(backoff) - 1)])
            attempt += 1
        self._status.well("controller")
        if registration != self._status.registration:
            await self._in_pool(self._records.save, RECORD, _to_json(registration))
            log.info("registered: locator %s, SIR prefix %s", registration.locator, registration.domain.sir_prefix)
        self._status.registered(registration)

    # --- the host ---

    async def step(self) -> None:
        """Bring programs, routes, neighbours, sysctls and the reject rule to what they must be."""
        registration = self._status.registration
        if registration is None:
            return
        own = self._own_device()
        names = self._underlay or (own,)
        devices = [self._networking.device(name) for name in names]
        nodes = await self._known_nodes()
        others = {name: node for name, node in nodes.items() if node.locator != registration.locator}
        node_hops = {name: self._networking.lookup(node.address) for name, node in others.items()}
        next_hop, gateway = nexthop.choose(
            setting=self._next_hop,
            nodes=node_hops.values(),
            locators=self._locator_hops(registration, others),
        )
        self._datapath.load(
            DatapathSettings(
                domain=registration.domain,
                locator=registration.locator,
                host_path=self._host_path,
                gateway=gateway,
                underlay_index=devices[0].index,
                closed_ports=registration.closed_ports,
                reject_mark=self._reject_mark,
            )
        )
        self._attach(devices, await self._in_pool(self._datapath.attached))
        self._write_nodes(nodes)
        self._reject.ensure(
            sir_prefix=registration.domain.sir_prefix,
            closed_ports=registration.closed_ports,
            nodes={node.address for node in nodes.values()},
        )
        state = host_state(
            sir_prefix=registration.domain.sir_prefix,
            node_address=self._address,
            underlay=devices,
            next_hop=next_hop,
            gateway=gateway,
            own_locator=registration.locator,
            locators={node.locator: node.address for name, node in others.items() if _on_link(node_hops[name])},
            pods=await self._pods(),
            ipv4=self._ipv4,
            complete=bool(nodes),
        )
        for change in await self._in_pool(self._networking.reconcile, state):
            log.info("host: %s", change)
        self._status.host_ready(mtu=min(device.mtu for device in devices))

    def renumbered(self, now: float) -> str:
        """Return why only a start with another address helps, '' if none is needed; `now` is of a monotonic clock.

        In a pod the address is from the environment, which a container has anew whenever it starts.
        """
        since, reason = self._renumbered or (now, "")
        return reason if now - since >= RENUMBERED else ""

    def _own_device(self) -> str:
        """Return the name of the device that has the node address."""
        try:
            name = self._networking.device_of(self._address)
        except NetworkError as error:
            changed = isinstance(error, Renumbered)
            self._renumbered = (self._renumbered or (time.monotonic(), str(error))) if changed else None
            raise
        self._renumbered = None
        return name

    def _locator_hops(self, registration: Registration, others: Mapping[str, NodeRecord]) -> list[Hop | None]:
        """Look up where packets to other locators go; the locator space itself stands in for nodes unknown."""
        addresses = [_inside(node.locator.network) for node in others.values()]
        if not addresses:
            addresses = [_inside(space) for space in registration.domain.locator_space]
        return [self._networking.lookup(address) for address in addresses]

    def _attach(self, devices: Sequence[Device], attached: Mapping[int, str]) -> None:
        wanted = {device.index: False for device in devices}
        wanted |= {self._networking.device(name).index: True for name in self._edge}
        for index, edge in wanted.items():
            if attached.get(index) != ("edge" if edge else "inside"):
                self._datapath.attach_underlay(index, edge=edge)
        for index, role in attached.items():
            if role != "pod" and index not in wanted:
                self._datapath.detach(index)

    def _write_nodes(self, nodes: Mapping[str, NodeRecord]) -> None:
        wanted = {node.address for node in nodes.values()} | {self._address}
        have = self._datapath.read_nodes()
        self._datapath.write_nodes(wanted - have, have - wanted)

    async def _known_nodes(self) -> Mapping[str, NodeRecord]:
        """Return the nodes as etcd has them; until it has been heard, as they were before the restart."""
        nodes = dict(self._nodes())
        if nodes and nodes != self._remembered:
            await self._in_pool(self._records.save, NODES, encode_nodes(nodes))
            self._remembered = nodes
        return self._remembered

    async def _in_pool(self, call: Callable[..., T], *arguments: object) -> T:
        return await uninterrupted(self._pool, call, *arguments)


def _on_link(hop: Hop | None) -> bool:
    return hop is not None and hop.gateway is None


def _inside(network: ipaddress.IPv6Network) -> ipaddress.IPv6Address:
    """Return an address under a prefix that no mapping ever has."""
    return network.network_address + 1


def encode_nodes(nodes: Mapping[str, NodeRecord]) -> bytes:
    """Return the record of the nodes last heard of: their values as etcd has them, by name."""
    return json.dumps({name: json.loads(encode_node(node)) for name, node in nodes.items()}, indent=1).encode()


def decode_nodes(raw: bytes) -> dict[str, NodeRecord]:
    """Return the nodes of a record; ValueError if it does not parse."""
    tree = json.loads(raw)
    return {name: decode_node(node_key(name), json.dumps(value).encode()) for name, value in tree.items()}


def _to_json(registration: Registration) -> bytes:
    domain = registration.domain
    return json.dumps(
        {
            "locator": str(registration.locator),
            "domain": {
                "sir_prefix": str(domain.sir_prefix),
                "locator_space": [str(space) for space in domain.locator_space],
                "checksum_mode": domain.checksum_mode.value,
            },
            "closed_ports": list(registration.closed_ports),
            "ask_first": list(registration.ask_first),
        },
        indent=1,
    ).encode()
