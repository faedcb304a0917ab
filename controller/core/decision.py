# SPDX-License-Identifier: Apache-2.0
"""What every decision is made of: the records it saw, the request, the plan or the refusal that comes out; pure.

A decision reads a View and returns an answer, or a Plan: one transaction that expects what was seen to be still
there.  The caller commits it and, if something had changed, reads and decides again.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field

from ila import mapping
from ila.address import Identifier, Locator
from ila.domain import Domain
from ila.mapping import Generation, Node, Owner, OwnerName
from ila.store import Reading, Transaction


class Reason(enum.Enum):
    """Why a request is refused; server.py turns it into a gRPC status."""

    MALFORMED = enum.auto()
    """A field does not parse, or lies outside what the domain allows."""

    NOT_YOURS = enum.auto()
    """The certificate is another node's."""

    TAKEN = enum.auto()
    """What was asked for is another's."""

    EXHAUSTED = enum.auto()
    """Nothing is left to give."""

    NOT_NOW = enum.auto()
    """The state does not allow it: something else must happen first."""

    MISCONFIGURED = enum.auto()
    """This controller is configured for another domain than the one in etcd."""


class Refused(Exception):  # noqa: N818 - it is our answer, not a fault
    """The request is refused; the message names the object and the reason.  Nothing was changed."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class View:
    """Records read together, decoded when asked for; RecordError if one does not parse."""

    reading: Reading

    @property
    def epoch(self) -> int:
        """The epoch; 0 if etcd is empty."""
        record = self.reading.records.get(mapping.EPOCH)
        return mapping.decode_epoch(record.value) if record else 0

    @property
    def generation(self) -> Generation:
        """Where etcd was when this was read."""
        return Generation(self.epoch, self.reading.revision)

    @property
    def domain(self) -> Domain | None:
        """The domain that etcd was filled for."""
        record = self.reading.records.get(mapping.DOMAIN)
        return mapping.decode_domain(record.value) if record else None

    def node(self, name: str) -> Node | None:
        """Return a node's record."""
        key = mapping.node_key(name)
        record = self.reading.records.get(key)
        return mapping.decode_node(key, record.value) if record else None

    def owner(self, name: OwnerName) -> Owner | None:
        """Return an owner's record."""
        key = mapping.owner_key(name)
        record = self.reading.records.get(key)
        return mapping.decode_owner(key, record.value) if record else None

    def mapping(self, identifier: Identifier) -> Locator | None:
        """Return where an identifier is."""
        key = mapping.mapping_key(identifier)
        record = self.reading.records.get(key)
        return mapping.decode_mapping(key, record.value) if record else None

    def text(self, key: bytes) -> str | None:
        """Return the text of a `taken` record."""
        record = self.reading.records.get(key)
        return record.value.decode() if record else None

    def generation_of(self, key: bytes) -> Generation:
        """Return the generation of a record that was written in this epoch."""
        return Generation(self.epoch, self.reading.revision_of(key))

    def expected(self, *keys: bytes) -> dict[bytes, int]:
        """Return the mod revisions that a plan relies on, the epoch's always among them."""
        return {key: self.reading.revision_of(key) for key in (mapping.EPOCH, *keys)}


@dataclass(frozen=True, slots=True)
class Plan:
    """One transaction that does what was decided."""

    transaction: Transaction
    what: str
    """For the log: the act, its objects and the reason."""

    identifier: Identifier | None = field(default=None)
    """Of an assignment: whose mapping the transaction writes."""


def foundation_keys() -> tuple[bytes, ...]:
    """Return what every decision reads."""
    return (mapping.EPOCH, mapping.DOMAIN)


def foundation(view: View, *, domain: Domain, seen: Generation) -> Plan | None:
    """Return what must be written before anything else: domain and epoch of an etcd that is empty or went back.

    `seen` is the highest generation anybody has seen before the view was read.  Refused if etcd was filled for
    another domain.
    """
    present = view.domain
    if present is not None:
        _check_same(present, domain)
    behind = not view.epoch or view.generation < seen
    if present is not None and not behind:
        return None
    puts = {}
    if present is None:
        puts[mapping.DOMAIN] = mapping.encode_domain(domain)
    if behind:
        puts[mapping.EPOCH] = mapping.encode_epoch(max(seen.epoch, view.epoch) + 1)
    return Plan(
        Transaction(view.expected(mapping.DOMAIN), puts),
        f"etcd filled: epoch={max(seen.epoch, view.epoch) + 1} found={view.generation} seen={seen}",
    )


def _check_same(present: Domain, configured: Domain) -> None:
    differences = [
        f"{name} is {theirs} in etcd, {ours} in this controller's configuration"
        for name, theirs, ours in (
            ("sir_prefix", str(present.sir_prefix), str(configured.sir_prefix)),
            ("locator_space", _listed(present.locator_space), _listed(configured.locator_space)),
            ("checksum_mode", present.checksum_mode.value, configured.checksum_mode.value),
        )
        if theirs != ours
    ]
    if differences:
        then = "set it as etcd has it: addresses of pods that run cannot change"
        raise Refused(Reason.MISCONFIGURED, f"another domain: {'; '.join(differences)}; {then}")


def _listed(networks: Iterable[object]) -> str:
    return ", ".join(sorted(str(network) for network in networks))
