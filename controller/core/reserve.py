# SPDX-License-Identifier: Apache-2.0
"""Decides which identifiers a node is handed in advance, for pods that start while nobody can be asked; pure.

An identifier of a reserve is taken: nobody else gets it.  It leaves the reserve when a pod holds it
(assignment.assign) or when the node gives it back (assignment.release).  After a new epoch the old reserve is
void: etcd may have forgotten what became of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from controller.core.decision import Plan, Reason, Refused, View
from ila import mapping
from ila.address import Identifier
from ila.store import Transaction

LARGEST = 512
"""Identifiers of one reserve."""

BATCH = 40
"""Identifiers that one transaction reserves or drops: two writes each, and etcd takes 128."""


def check(node: str, count: int) -> None:
    """Refuse what no node needs."""
    if not 0 < count <= LARGEST:
        raise Refused(Reason.MALFORMED, f"node {node!r} asks for a reserve of {count}: it must be 1 to {LARGEST}")


def reserve_keys(node: str, present: Sequence[bytes], fresh: Sequence[Identifier]) -> tuple[bytes, ...]:
    """Return what reserve() reads, beside the foundation; `present` are the keys under the node's prefix."""
    identifiers = [Identifier(mapping.last_number(key)) for key in present]
    return (mapping.node_key(node), *present, *map(mapping.taken_identifier_key, (*identifiers, *fresh)))


def reserve(
    view: View, node: str, present: Sequence[bytes], count: int, fresh: Sequence[Identifier]
) -> tuple[list[Identifier], Plan | None]:
    """Return the node's reserve, and the plan of one step towards `count` that it takes; None if it has as many.

    Pods may use some meanwhile, which their node knows: what was reserved is not counted again.
    """
    if view.node(node) is None:
        raise Refused(Reason.NOT_NOW, f"node {node!r} is not registered")
    valid: list[bytes] = []
    void: list[bytes] = []
    for key in present:
        if (record := view.reading.records.get(key)) is None:
            continue
        (valid if mapping.decode_epoch(record.value) == view.epoch else void).append(key)
    identifiers = [Identifier(mapping.last_number(key)) for key in valid]
    if void:
        return identifiers, _drop(view, node, void[:BATCH])
    if len(identifiers) >= count:
        return identifiers, None
    free = [identifier for identifier in fresh if view.text(mapping.taken_identifier_key(identifier)) is None]
    added = free[: min(count - len(identifiers), BATCH)]
    return identifiers + added, _add(view, node, added)


def _drop(view: View, node: str, void: Sequence[bytes]) -> Plan:
    deletes = set(void)
    for key in void:
        taken = mapping.taken_identifier_key(Identifier(mapping.last_number(key)))
        if view.text(taken) == mapping.reserve_name(node):
            deletes.add(taken)
    what = f"dropped {len(void)} of the reserve of node={node}: of an earlier epoch"
    return Plan(Transaction(view.expected(*deletes), deletes=frozenset(deletes)), what)


def _add(view: View, node: str, free: Sequence[Identifier]) -> Plan:
    taken = {mapping.taken_identifier_key(identifier): mapping.reserve_name(node).encode() for identifier in free}
    puts = {mapping.reserve_key(node, identifier): mapping.encode_epoch(view.epoch) for identifier in free}
    expected = view.expected(mapping.node_key(node), *taken)
    return Plan(Transaction(expected, {**puts, **taken}), f"reserved {len(free)} identifiers for node={node}")
