# SPDX-License-Identifier: Apache-2.0
"""A store in memory that compares and writes as etcd does, fails when told to, and can be looked into."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from ila.mapping import range_end
from ila.store import Reading, Record, Transaction


class FakeStore:
    """Implements ila.store.Store."""

    def __init__(self) -> None:
        self.revision = 1
        self.records: dict[bytes, Record] = {}
        self.fail_next: list[Exception] = []
        """Raised by the next calls, one each, before they do anything."""

        self.lose_next: list[Exception] = []
        """Raised by the next commits, one each, after they were done: the answer is lost."""

        self.before_commit: list[Callable[[], Awaitable[object]]] = []
        """Done before the next commits, one each: what a racing replica does."""

        self.commits = 0

    async def read(self, keys: Sequence[bytes]) -> Reading:
        self._fail()
        return Reading(self.revision, {key: self.records[key] for key in keys if key in self.records})

    async def read_keys(self, prefix: bytes) -> list[bytes]:
        self._fail()
        return sorted(key for key in self.records if prefix <= key < range_end(prefix))

    async def has_value(self, prefix: bytes, value: bytes, *, but: bytes = b"") -> bool:
        return any(self.records[key].value == value and key != but for key in await self.read_keys(prefix))

    async def commit(self, transaction: Transaction) -> int | None:
        self._fail()
        if self.before_commit:
            await self.before_commit.pop(0)()
        for key, revision in transaction.expected.items():
            if (self.records[key].revision if key in self.records else 0) != revision:
                return None
        self.revision += 1
        self.commits += 1
        for key, value in transaction.puts.items():
            self.records[key] = Record(value, self.revision)
        for key in transaction.deletes:
            self.records.pop(key, None)
        if self.lose_next:
            raise self.lose_next.pop(0)
        return self.revision

    def under(self, prefix: bytes) -> dict[str, str]:
        """Return all records below a prefix, as text."""
        return {
            key.removeprefix(prefix).decode(): record.value.decode()
            for key, record in sorted(self.records.items())
            if key.startswith(prefix)
        }

    def copy(self) -> FakeStore:
        """Return a snapshot."""
        other = FakeStore()
        other.revision, other.records = self.revision, dict(self.records)
        return other

    def restore(self, snapshot: FakeStore) -> None:
        """Go back to a snapshot; FakeStore() is an empty one."""
        self.revision, self.records = snapshot.revision, dict(snapshot.records)

    def _fail(self) -> None:
        if self.fail_next:
            raise self.fail_next.pop(0)
