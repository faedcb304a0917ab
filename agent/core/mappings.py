# SPDX-License-Identifier: Apache-2.0
"""The desired mapping table: what the kernel's map should hold and what still differs; pure, for agent/mappings.py.

A cluster has a million mappings, so this works on integers and packed bytes (agent/core/datapath.py,
pack_mapping), not on objects.  Stream handlers only edit the table; `pending` says what to write, `done` that
it was written.  A generation never goes back (invariant 1): older news is ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from agent.core.datapath import pack_mapping, unpack_mapping
from ila.address import C_BIT, ChecksumMode, adjusted, outward_difference
from ila.domain import Domain
from ila.mapping import Generation


class MappingTable:
    """Desired mappings by identifier, and the identifiers at which the kernel's map may differ."""

    def __init__(self, *, domain: Domain) -> None:
        self._sir_prefix = domain.sir_prefix.value
        self._mode = domain.checksum_mode
        self._flag = C_BIT if self._mode is ChecksumMode.NEUTRAL_MAP else 0
        self._values: dict[int, bytes] = {}
        self._dirty: set[int] = set()
        self._listed: set[int] | None = None
        self._highest = Generation(0, 0)
        self._differences: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._values)

    @property
    def highest(self) -> Generation:
        """The highest generation that any mapping here has had."""
        return self._highest

    def adopt(self, kernel: dict[int, bytes]) -> None:
        """Begin with what the kernel's map holds, after a restart of the agent."""
        self._values = kernel
        for raw in kernel.values():
            _, epoch, revision = unpack_mapping(raw)
            self._raise(Generation(epoch, revision))

    def begin(self) -> None:
        """Begin a snapshot: what no page lists until `end` is gone."""
        self._listed = set()

    def upsert(self, epoch: int, identifiers: Sequence[int], locators: Sequence[int], revisions: Sequence[int]) -> None:
        """Take mappings in: parallel lists of 64-bit identifiers, upper halves of locators and etcd mod revisions."""
        values, dirty = self._values, self._dirty
        for identifier, locator, revision in zip(identifiers, locators, revisions, strict=True):
            old = values.get(identifier)
            if old is not None and _newer(old, epoch, revision):
                continue
            new = pack_mapping(self._ila_address(identifier, locator), epoch, revision)
            if new != old:
                values[identifier] = new
                dirty.add(identifier)
        if self._listed is not None:
            self._listed.update(identifiers)
        if revisions:
            self._raise(Generation(epoch, max(revisions)))

    def delete(self, epoch: int, identifiers: Sequence[int], revisions: Sequence[int]) -> None:
        """Take deletions in, as parallel lists; one that is older than the mapping is ignored."""
        for identifier, revision in zip(identifiers, revisions, strict=True):
            old = self._values.get(identifier)
            if old is not None and not _newer(old, epoch, revision):
                del self._values[identifier]
                self._dirty.add(identifier)
            self._raise(Generation(epoch, revision))

    def end(self, generation: Generation) -> None:
        """End a snapshot made at `generation`: delete what it did not list.

        Mappings of an older epoch stay until `drop_before`: after etcd has lost its data, the snapshot lists
        only what nodes have filled in so far, and traffic to the rest must go on.
        """
        if self._listed is None:
            raise RuntimeError("end of a snapshot that was not begun")
        gone = [
            identifier
            for identifier in self._values.keys() - self._listed
            if unpack_mapping(self._values[identifier])[1] >= generation.epoch
        ]
        self._listed = None
        self.delete(generation.epoch, gone, [generation.revision] * len(gone))
        self._raise(generation)

    def drop_before(self, epoch: int) -> int:
        """Delete every mapping of an epoch before `epoch`; return how many."""
        old = [identifier for identifier, raw in self._values.items() if unpack_mapping(raw)[1] < epoch]
        for identifier in old:
            del self._values[identifier]
        self._dirty.update(old)
        return len(old)

    def locate(self, identifier: int) -> tuple[int, Generation] | None:
        """Return the upper half of the locator that an identifier is at, and the mapping's generation."""
        raw = self._values.get(identifier)
        if raw is None:
            return None
        ila_address, epoch, revision = unpack_mapping(raw)
        return int.from_bytes(ila_address[:8], "big"), Generation(epoch, revision)

    def pending(self, limit: int) -> tuple[list[int], list[bytes], list[int]]:
        """Return at most `limit` differences: identifiers to write, their values, identifiers to delete."""
        chosen = list(islice(self._dirty, limit))
        write = [identifier for identifier in chosen if identifier in self._values]
        delete = [identifier for identifier in chosen if identifier not in self._values]
        return write, [self._values[identifier] for identifier in write], delete

    def done(self, identifiers: Iterable[int]) -> None:
        """Note that the kernel's map now agrees at these identifiers."""
        self._dirty.difference_update(identifiers)

    def differ(self, kernel: dict[int, bytes]) -> int:
        """Note where the kernel's map, read back, differs from this table (drift); return at how many places."""
        wrong = {i for i in self._values.keys() | kernel.keys() if self._values.get(i) != kernel.get(i)}
        self._dirty |= wrong
        return len(wrong)

    def _raise(self, generation: Generation) -> None:
        self._highest = max(self._highest, generation)

    def _ila_address(self, identifier: int, locator: int) -> bytes:
        """Return to_ila()'s 16 bytes, with the difference kept per locator."""
        difference = self._differences.get(locator)
        if difference is None:
            difference = outward_difference(sir_prefix=self._sir_prefix, locator=locator, mode=self._mode)
            self._differences[locator] = difference
        return (locator << 64 | adjusted(identifier, difference) | self._flag).to_bytes(16, "big")


def _newer(raw: bytes, epoch: int, revision: int) -> bool:
    """Tell whether a packed mapping is of a later generation than (epoch, revision)."""
    _, old_epoch, old_revision = unpack_mapping(raw)
    return (old_epoch, old_revision) > (epoch, revision)
