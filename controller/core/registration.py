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
    for network in (domain.sir_prefix.network, *domain.locator_space):
        if address in network:
            raise Refused(
                Reason.MALFORMED,
                f"address {address} of node {request.node!r} lies in {network} of the domain, as no node address may: "
                "give the node another one, or choose other prefixes in [domain] of controller.toml before any pod",
            )
    if address.is_unspecified or address.is_multicast or address.is_loopback or address.is_link_local:
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


def register(
    view: View, request: Registration, locator: Locator, *, left_in_use: bool, gone_in_use: bool | None = None
) -> Plan | Node:
    """Give the node this locator; the node's record if it stands already.

    The view holds the node's record, the locator's `taken`, and the record of the node that this names, if that is
    gone from the cluster: then `gone_in_use` tells whether mappings still point at the locator, else it is None.
    Refused if the locator is another node's, or mappings still point at what the node, or the gone one, would leave.
    """
    name, left, taken = mapping.node_key(request.node), left_locator(view, request), _taken(locator)
    other = view.text(taken)
    gone = set() if left is None else {_taken(left)}
    expected = view.expected(name, taken)
    if other not in (None, request.node):
        if gone_in_use is None:
            raise Refused(Reason.TAKEN, f"locator {locator} of node {request.node!r} is node {other!r}'s")
        if gone_in_use:
            raise Refused(
                Reason.NOT_NOW,
                f"node {request.node!r} waits: mappings still point at its locator {locator}, which was node "
                f"{other!r}'s, until that one's pods are swept",
            )
        if not other.startswith(mapping.quarantine_name("")):
            gone.add(mapping.node_key(other))
            expected |= view.expected(mapping.node_key(other))
    if left is not None and left_in_use:
        raise Refused(
            Reason.NOT_NOW,
            f"node {request.node!r} waits: mappings still point at its locator {left}, of pods that it has, and it "
            f"declares {locator}: drain it",
        )
    node = Node(name=request.node, locator=locator, address=request.address, port=request.port)
    if view.node(request.node) == node and other is not None:
        return node
    return Plan(
        Transaction(
            expected,
            {name: mapping.encode_node(node), taken: request.node.encode()},
            frozenset(gone),
        ),
        f"registered node={request.node} locator={locator} address={request.address} port={request.port}"
        + (f" left={left}" if left is not None else ""),
    )


def forget(view: View, name: str) -> Plan | None:
    """Remove the record of a node that is gone, and put its locator into quarantine; None if there is none."""
    node = view.node(name)
    if node is None:
        return None
    key, taken = mapping.node_key(name), _taken(node.locator)
    return Plan(
        Transaction(view.expected(key), {taken: mapping.quarantine_name(name).encode()}, frozenset((key,))),
        f"forgot node={name}: locator={node.locator} is in quarantine",
    )


def free(view: View, locator: Locator) -> Plan | None:
    """End a locator's quarantine; None if it is in none."""
    taken = _taken(locator)
    text = view.text(taken)
    if text is None or not text.startswith(mapping.quarantine_name("")):
        return None
    transaction = Transaction(view.expected(taken), deletes=frozenset((taken,)))
    return Plan(transaction, f"freed locator={locator}: {text} is over")


def _taken(locator: Locator) -> bytes:
    return mapping.taken_locator_key(locator)
