# SPDX-License-Identifier: Apache-2.0
"""The ports of the mapping system: what controller and agent ask of etcd (ila/etcd.py, ila/stream.py)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ila.mapping import Generation, Node


class StoreError(Exception):
    """The store did not do what was asked; the subclass says whose fault it is."""


class StoreUnavailable(StoreError):  # noqa: N818 - the world failed: a state, not a fault of ours
    """The world failed: no answer in time.  A commit may or may not have happened; asking again is safe."""


class StoreRefused(StoreError):  # noqa: N818 - you asked wrongly: the store's word
    """You asked wrongly: no permission, no such user, or a request that etcd does not take."""


class StoreCompacted(StoreError):  # noqa: N818 - likewise
    """The revision asked for is no longer kept."""


class StoreWentBack(StoreError):  # noqa: N818 - likewise
    """The store is at an earlier generation than was seen before: wiped, or restored from a snapshot.

    Register, so that a controller raises the epoch; then follow again.
    """

    def __init__(self, *, seen: Generation, found: Generation) -> None:
        super().__init__(f"etcd went back: it is at generation {found}, and {seen} has been seen before")
        self.seen = seen
        self.found = found


@dataclass(frozen=True, slots=True)
class Record:
    """A value and the mod revision at which it was written."""

    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Reading:
    """Records as they stood together at one revision of the store; keys that are not there are missing."""

    revision: int
    records: Mapping[bytes, Record]

    def revision_of(self, key: bytes) -> int:
        """Return a key's mod revision, 0 if it is not there."""
        record = self.records.get(key)
        return record.revision if record else 0


@dataclass(frozen=True, slots=True)
class Transaction:
    """Writes that happen together, and only if every expected key is still at its mod revision (0: absent).

    At least one written key must be among the expected ones: then repeating a transaction whose answer was lost
    cannot do it twice.
    """

    expected: Mapping[bytes, int]
    puts: Mapping[bytes, bytes] = field(default_factory=dict)
    deletes: frozenset[bytes] = frozenset()

    def __post_init__(self) -> None:
        """Refuse, with ValueError, a transaction that is not safe to repeat."""
        if not self.expected.keys() & (self.puts.keys() | self.deletes):
            raise ValueError(f"transaction {self} writes no key that it expects")


class Store(Protocol):
    """Linearizable reads and compare-and-write; every call may raise StoreUnavailable or StoreRefused."""

    async def read(self, keys: Sequence[bytes]) -> Reading:
        """Return these records; more than 128 are read in parts, each at a revision of its own (the last counts)."""

    async def read_keys(self, prefix: bytes) -> list[bytes]:
        """Return all keys that begin with `prefix`, in order."""

    async def has_value(self, prefix: bytes, value: bytes, *, but: bytes = b"") -> bool:
        """Tell whether any record under `prefix` has this value, one of the key `but` aside; reads all of them."""

    async def commit(self, transaction: Transaction) -> int | None:
        """Do it and return its revision; None if an expected key had changed and nothing was done."""


@dataclass(frozen=True, slots=True)
class ResetBegin:
    """A snapshot begins: all nodes, and the epoch of the pages that follow.  An earlier unfinished one is void."""

    epoch: int
    nodes: Sequence[Node]


@dataclass(frozen=True, slots=True)
class ResetPage:
    """Mappings of a snapshot, as parallel lists; all pages stand at one revision."""

    identifiers: Sequence[int]
    locators: Sequence[int]
    """Upper halves, 64 bits."""

    revisions: Sequence[int]
    """Etcd mod revisions; with the snapshot's epoch they are the generations."""


@dataclass(frozen=True, slots=True)
class ResetEnd:
    """The snapshot is complete: what no page listed does not exist at this generation."""

    generation: Generation


@dataclass(frozen=True, slots=True)
class Update:
    """Changes since the last event, as parallel lists; an identifier or a node stands in at most one of them."""

    generation: Generation
    """Of the latest change; the epoch is that of the last snapshot."""

    identifiers: Sequence[int] = ()
    locators: Sequence[int] = ()
    revisions: Sequence[int] = ()
    deleted: Sequence[int] = ()
    deleted_revisions: Sequence[int] = ()
    nodes: Sequence[Node] = ()
    """New or changed."""

    deleted_nodes: Sequence[str] = ()


Event = ResetBegin | ResetPage | ResetEnd | Update


class MappingStream(Protocol):
    """Mappings and nodes: a snapshot, then every change, through all of etcd's troubles."""

    @property
    def trouble(self) -> str | None:
        """Why the stream does not deliver at present; None while it does."""

    def follow(self, highest: Generation) -> AsyncGenerator[Event]:
        """Yield events for ever; begins with a snapshot.

        Outages are waited out; compaction and a new epoch lead to a new snapshot.  `highest` is the highest
        generation the caller has seen anywhere.  StoreWentBack if the store is behind it or falls behind what was
        delivered; RecordError if a record does not parse.  Close the iterator (contextlib.aclosing) when done.
        """
