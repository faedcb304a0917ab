# SPDX-License-Identifier: Apache-2.0
"""Decides who holds an identifier: assign, release, and claims that a lost etcd must learn again; pure.

owner in etcd          Assign                              Release
none                   new identifier                      nothing to do
held, same container   same answer, mapping repaired       uid: all removed; name: released, mapping removed
held, another one      refused, or taken over              nothing to do: the late release of an old holder
released               same identifier, new mapping        nothing to do

A node that took an identifier of its reserve names it: the owner gets that one, and the reserve loses it.
A pod may want a certain identifier: one that somebody of its namespace kept and has released.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from controller.core.decision import Plan, Reason, Refused, View
from ila import mapping
from ila.address import LUID, Identifier
from ila.mapping import Generation, Node, Owner, OwnerName, OwnerState
from ila.store import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who asks: a container on a node, for an owner."""

    owner: OwnerName
    node: str
    container: str

    def __str__(self) -> str:
        """Return the form that logs use."""
        return f"owner={self.owner} node={self.node} container={self.container}"


@dataclass(frozen=True, slots=True)
class Assigned:
    """An identifier and the generation of the mapping that points at the holder's node."""

    identifier: Identifier
    generation: Generation


@dataclass(frozen=True, slots=True)
class Claim:
    """What a node says it holds, from its own records."""

    holder: Holder
    identifier: Identifier
    generation: Generation
    """Of the assignment; (0, 0) if the node does not know."""


def random_identifier(below: Callable[[int], int]) -> Identifier:
    """Return an identifier that nobody is likely to have: LUID, no C-bit, low 16 bits not zero.

    `below(n)` returns a random number from 0 to n - 1 (secrets.randbelow).
    """
    return Identifier(LUID << 61 | below(1 << 44) << 16 | 1 + below(0xFFFF))


def holder_keys(holder: Holder) -> tuple[bytes, ...]:
    """Return what assign() and release() read, beside the foundation and the owner's mapping."""
    return (mapping.node_key(holder.node), mapping.owner_key(holder.owner))


def wanted_keys(view: View, wanted: Identifier) -> tuple[bytes, ...]:
    """Return what assign() reads of an identifier that a pod wants, once `view` has its `taken` record."""
    keeper = _keeper(view, wanted)
    records = (mapping.taken_identifier_key(wanted), mapping.mapping_key(wanted))
    return records if keeper is None else (*records, mapping.owner_key(keeper))


def assign(
    view: View,
    holder: Holder,
    *,
    take_over: bool,
    fresh: Identifier,
    reserved: Identifier | None = None,
    wanted: Identifier | None = None,
) -> Assigned | Plan:
    """Give the holder its identifier: `reserved`, which its pod uses already, or `fresh` if the owner has none yet.

    `wanted` is the one that it must be, if any.  Refused if the node is not registered, another container holds the
    identifier and `take_over` is false, or `reserved` is somebody else's, or `wanted` is not to be had.  One that
    nobody has is granted, also if etcd has forgotten the reserve.
    """
    node = view.node(holder.node)
    if node is None:
        raise Refused(Reason.NOT_NOW, f"node {holder.node!r} is not registered")
    owner = view.owner(holder.owner)
    if reserved is not None:
        taken = view.text(mapping.taken_identifier_key(reserved))
        if taken not in (None, holder.owner.text, mapping.reserve_name(holder.node)):
            raise Refused(Reason.TAKEN, f"identifier {reserved} is of {taken}, not of {holder.owner}")
    if wanted is not None and (owner is None or owner.identifier != wanted):
        return _take(view, holder, node, wanted, take_over=take_over)
    if owner is None:
        chosen = reserved or fresh
        where = "new" if reserved is None else "reserved"
        return _hold(view, holder, node, chosen, f"assigned identifier={chosen} {holder}: {where}")
    if owner.state is OwnerState.RELEASED:
        return _hold(view, holder, node, owner.identifier, f"assigned identifier={owner.identifier} {holder}: kept")
    if not _holds(owner, holder):
        if not take_over:
            raise Refused(
                Reason.NOT_NOW,
                f"identifier {owner.identifier} of {holder.owner} is held by container {owner.container!r} "
                f"on node {owner.node!r}, which has not released it",
            )
        chosen = reserved or owner.identifier
        what = f"assigned identifier={chosen} {holder}: from node={owner.node} container={owner.container}"
        return _hold(view, holder, node, chosen, what, instead=owner.identifier)
    if reserved not in (None, owner.identifier):
        what = f"assigned identifier={reserved} {holder}: instead of {owner.identifier}"
        return _hold(view, holder, node, reserved, what, instead=owner.identifier)
    if view.mapping(owner.identifier) != node.locator:
        what = f"assigned identifier={owner.identifier} {holder}: mapping repaired"
        return _hold(view, holder, node, owner.identifier, what)
    return Assigned(owner.identifier, view.generation_of(mapping.mapping_key(owner.identifier)))


def _keeper(view: View, identifier: Identifier) -> OwnerName | None:
    """Return who keeps an identifier by name; None if nobody does."""
    text = view.text(mapping.taken_identifier_key(identifier))
    if text is None or text.startswith(mapping.reserve_name("")):
        return None
    keeper = OwnerName.parse(text)
    return keeper if keeper.keeps_address else None


def _take(view: View, holder: Holder, node: Node, wanted: Identifier, *, take_over: bool) -> Plan:
    """Give the holder an identifier that another owner of its namespace has kept; that owner has none from then on."""
    keeper = _keeper(view, wanted)
    if keeper is None or keeper.namespace != holder.owner.namespace:
        raise Refused(
            Reason.NOT_YOURS,
            f"identifier {wanted}, which {holder.owner} asks for, is not kept in namespace {holder.owner.namespace!r}",
        )
    kept = view.owner(keeper)
    if kept is None or kept.state is not OwnerState.RELEASED:
        raise Refused(Reason.NOT_NOW, f"identifier {wanted}, which {holder.owner} asks for, is in use by {keeper}")
    owner = view.owner(holder.owner)
    if owner is not None and owner.state is OwnerState.HELD and not _holds(owner, holder) and not take_over:
        raise Refused(Reason.NOT_NOW, f"{holder.owner} is held by container {owner.container!r} on {owner.node!r}")
    what = f"assigned identifier={wanted} {holder}: from {keeper}"
    plan = _hold(view, holder, node, wanted, what, instead=None if owner is None else owner.identifier)
    key = mapping.owner_key(keeper)
    transaction = plan.transaction
    expected = {**transaction.expected, **view.expected(key)}
    return replace(plan, transaction=replace(transaction, expected=expected, deletes=transaction.deletes | {key}))


def release(view: View, holder: Holder, *, identifier: Identifier | None = None) -> Plan | None:
    """End what the holder holds, or give back `identifier` of its node's reserve; None if it has neither."""
    owner = view.owner(holder.owner)
    if owner is None or owner.state is OwnerState.RELEASED or not _holds(owner, holder):
        return None if identifier is None else give_back(view, holder.node, identifier, str(holder))
    key = mapping.owner_key(holder.owner)
    mapped = mapping.mapping_key(owner.identifier)
    what = f"released identifier={owner.identifier} {holder}"
    if not holder.owner.keeps_address:
        gone = frozenset((key, mapped, mapping.taken_identifier_key(owner.identifier)))
        return Plan(Transaction(view.expected(key), deletes=gone), f"{what}: removed")
    kept = Owner(
        identifier=owner.identifier,
        node=owner.node,
        container=owner.container,
        state=OwnerState.RELEASED,
        epoch=view.epoch,
    )
    transaction = Transaction(view.expected(key), {key: mapping.encode_owner(kept)}, frozenset((mapped,)))
    return Plan(transaction, f"{what}: kept for {holder.owner}")


def give_back(view: View, node: str, identifier: Identifier, why: str) -> Plan | None:
    """Take an identifier out of a node's reserve that no pod came to hold; None if it is not there."""
    reserve, taken = mapping.reserve_key(node, identifier), mapping.taken_identifier_key(identifier)
    if view.text(reserve) is None or view.text(taken) != mapping.reserve_name(node):
        return None
    gone = frozenset((reserve, taken))
    return Plan(Transaction(view.expected(*gone), deletes=gone), f"released identifier={identifier} {why}: unused")


def forget(view: View, name: OwnerName, judged: Owner) -> Plan | None:
    """Remove an owner's record, whatever its state, with its mapping; None if it is not the one that was judged."""
    owner = view.owner(name)
    if owner is None or owner != judged:
        return None
    key = mapping.owner_key(name)
    gone = frozenset((key, mapping.mapping_key(owner.identifier), mapping.taken_identifier_key(owner.identifier)))
    return Plan(Transaction(view.expected(key), deletes=gone), f"swept identifier={owner.identifier} owner={name}")


def identifier_keys(node: str, identifier: Identifier) -> tuple[bytes, ...]:
    """Return what is read of an identifier that the owner has or the node names, beside holder_keys()."""
    return (
        mapping.mapping_key(identifier),
        mapping.taken_identifier_key(identifier),
        mapping.reserve_key(node, identifier),
    )


def claim_keys(claim: Claim) -> tuple[bytes, ...]:
    """Return what restore() reads, beside the foundation."""
    return (*holder_keys(claim.holder), *identifier_keys(claim.holder.node, claim.identifier))


def restore(view: View, claim: Claim) -> Plan | None:
    """Write a claim back that etcd has lost; None if etcd has it.  Refused if it is another's by now.

    Within an epoch etcd loses nothing, so only a claim of an earlier epoch can be missing.  Against a record of
    another holder the newer one wins: after a restore from a snapshot the record is the older one.
    """
    holder, identifier = claim.holder, claim.identifier
    node = view.node(holder.node)
    if node is None:
        raise Refused(Reason.NOT_NOW, f"node {holder.node!r} is not registered")
    taken = view.text(mapping.taken_identifier_key(identifier))
    if taken not in (None, holder.owner.text, mapping.reserve_name(holder.node)):
        raise Refused(Reason.TAKEN, f"identifier {identifier} is of {taken} now, not of {holder.owner}")
    owner = view.owner(holder.owner)
    what = f"restored identifier={identifier} {holder} claim={claim.generation}"
    if owner is None:
        if claim.generation.epoch >= view.epoch:
            raise Refused(Reason.TAKEN, f"identifier {identifier} of {holder.owner} was released in epoch {view.epoch}")
        return _hold(view, holder, node, identifier, f"{what}: missing")
    if owner.state is OwnerState.HELD and owner.identifier == identifier and _holds(owner, holder):
        if taken == holder.owner.text and view.mapping(identifier) == node.locator:
            return None
        return _hold(view, holder, node, identifier, f"{what}: mapping repaired")
    written = Generation(owner.epoch, view.reading.revision_of(mapping.owner_key(holder.owner)))
    if claim.generation <= written:
        raise Refused(
            Reason.TAKEN,
            f"{holder.owner} has identifier {owner.identifier}, {owner.state.value} by container "
            f"{owner.container!r} on node {owner.node!r} at {written}, newer than the claim of {identifier} "
            f"at {claim.generation}",
        )
    return _hold(view, holder, node, identifier, f"{what}: record of {written} is older", instead=owner.identifier)


def _holds(owner: Owner, holder: Holder) -> bool:
    return (owner.node, owner.container) == (holder.node, holder.container)


def _hold(
    view: View,
    holder: Holder,
    node: Node,
    identifier: Identifier,
    what: str,
    *,
    instead: Identifier | None = None,
) -> Plan:
    """Return the plan that makes the holder hold, and points the mapping at its node.

    The identifier leaves the node's reserve; `instead` is the one that the owner has had.
    """
    key = mapping.owner_key(holder.owner)
    mapped, taken = mapping.mapping_key(identifier), mapping.taken_identifier_key(identifier)
    owner = Owner(
        identifier=identifier,
        node=holder.node,
        container=holder.container,
        state=OwnerState.HELD,
        epoch=view.epoch,
    )
    puts = {
        key: mapping.encode_owner(owner),
        taken: holder.owner.text.encode(),
        mapped: mapping.encode_mapping(node.locator),
    }
    expected = view.expected(mapping.node_key(holder.node), key, mapped, taken)
    deletes = set()
    reserve = mapping.reserve_key(holder.node, identifier)
    if view.text(reserve) is not None:
        deletes.add(reserve)
    if instead not in (None, identifier):
        deletes |= {mapping.mapping_key(instead), mapping.taken_identifier_key(instead)}
    return Plan(Transaction(expected, puts, frozenset(deletes)), what, identifier)
