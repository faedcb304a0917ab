# SPDX-License-Identifier: Apache-2.0
"""Decides which locator a node has: the declared one, its own, or a free one of the pool; pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from controller.core.decision import Plan, Reason, Refused, View
from ila import mapping
from ila.address import Locator
from ila.domain import Domain
from ila.mapping import Generation, Node
from ila.store import Transaction

_LEAP = 1 << 32
"""An epoch so far above etcd's is no epoch: refused, or one node could use up all epochs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What a node says of itself."""

    node: str
    address: ipaddress.IPv6Address
    port: int
    declared: Locator | None
    highest: Generation


def check(request: Registration, *, domain: Domain) -> None:
    """Refuse what the domain does not allow."""
    if request.declared is not None and not domain.contains(request.declared):
        space = ", ".join(str(prefix) for prefix in domain.locator_space)
        raise Refused(Reason.MALFORMED, f"locator {request.declared} of node {request.node!r} is not in {space}")
    address = request.address
    inside = any(address in network for network in (domain.sir_prefix.network, *domain.locator_space))
    if inside or address.is_unspecified or address.is_multicast or address.is_loopback or address.is_link_local:
        raise Refused(Reason.MALFORMED, f"control address {str(address)!r} of node {request.node!r} is no node address")


def check_highest(request: Registration, view: View) -> None:
    """Refuse a generation that cannot be."""
    if request.highest.epoch > view.epoch + _LEAP:
        raise Refused(
            Reason.MALFORMED,
            f"generation {request.highest} of node {request.node!r} cannot be: etcd is at {view.generation}",
        )


def locator_of(view: View, request: Registration) -> Locator | None:
    """Return the locator that the node declares or already has; None if one must be chosen."""
    if request.declared is not None:
        return request.declared
    node = view.node(request.node)
    return None if node is None else node.locator


def left_locator(view: View, request: Registration) -> Locator | None:
    """Return the locator that the node would leave: register() asks whether mappings still point there."""
    node = view.node(request.node)
    return None if node is None or request.declared in (None, node.locator) else node.locator


def choose(pool: ipaddress.IPv6Network, taken: Iterable[Locator], *, skip: int) -> Locator | None:
    """Return the lowest free locator of the pool, after `skip` lower ones; None if there is none.

    With fewer free ones it is the last free one.
    """
    candidate = int(pool.network_address) >> 64
    end = candidate + (1 << (64 - pool.prefixlen))
    last = None
    for number in sorted({locator.value for locator in taken if candidate <= locator.value < end}):
        if skip < number - candidate:
            return Locator(candidate + skip)
        if candidate < number:
            skip -= number - candidate
            last = number - 1
        candidate = number + 1
    if skip < end - candidate:
        return Locator(candidate + skip)
    if candidate < end:
        last = end - 1
    return None if last is None else Locator(last)


def register(view: View, request: Registration, locator: Locator, *, left_in_use: bool) -> Plan | Node:
    """Give the node this locator; the node's record if it stands already.

    The view holds the node's record and the locator's `taken`.
    Refused if the locator is another node's, or the node would leave one that mappings still point at.
    """
    name, left, taken = mapping.node_key(request.node), left_locator(view, request), _taken(locator)
    other = view.text(taken)
    if other not in (None, request.node):
        raise Refused(Reason.TAKEN, f"locator {locator} of node {request.node!r} is node {other!r}'s")
    if left is not None and left_in_use:
        raise Refused(
            Reason.NOT_NOW,
            f"node {request.node!r} declares locator {locator}, but mappings still point at its locator {left}",
        )
    node = Node(name=request.node, locator=locator, address=request.address, port=request.port)
    if view.node(request.node) == node and other is not None:
        return node
    return Plan(
        Transaction(
            view.expected(name, taken),
            {name: mapping.encode_node(node), taken: request.node.encode()},
            frozenset(() if left is None else (_taken(left),)),
        ),
        f"registered node={request.node} locator={locator} address={request.address} port={request.port}"
        + (f" left={left}" if left is not None else ""),
    )


def _taken(locator: Locator) -> bytes:
    return mapping.taken_locator_key(locator)
