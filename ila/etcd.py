# SPDX-License-Identifier: Apache-2.0
"""Reads and transactions in etcd: implements ila.store.Store; the one place that knows gRPC's and etcd's errors."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

import grpc
from etcd3aio import EtcdConnectionError, EtcdPermissionDeniedError, EtcdTransientError, EtcdUnauthenticatedError
from etcd3aio._protobuf import Compare, RangeResponse, RequestOp, TxnResponse
from etcd3aio.kv import KVService

from ila.channel import PeerChannel
from ila.mapping import range_end
from ila.store import (
    Reading,
    Record,
    StoreCompacted,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    Transaction,
)

log = logging.getLogger(__name__)

OPERATIONS = 128
"""Most operations that etcd takes in one transaction (--max-txn-ops)."""

_COMPACTED = ("required revision has been compacted",)
_PASSING = ("revision of auth store is old", "too many requests", "request timed out", "leader changed", "no leader")
"""Refusals that end by themselves (DESIGN.md, "Known traps")."""

T = TypeVar("T")
Call = Callable[[KVService], Awaitable[T]]


class EtcdStore:
    """Etcd behind a PeerChannel; every call has a deadline, and is repeated where that is safe."""

    def __init__(
        self,
        *,
        channel: PeerChannel,
        deadline: float = 2.0,
        backoff: Sequence[float] = (0.05, 0.2, 0.5),
        page_size: int = 50_000,
        page_deadline: float = 10.0,
    ) -> None:
        """Take durations in seconds.

        deadline: of each attempt; backoff: pauses before further attempts; page_size: records per range read, large
        because etcd walks the index to its end for each one (a million mappings: 4 s, and 24 s in pages of 5000);
        page_deadline: of each range read.
        """
        self._channel = channel
        self._deadline = deadline
        self._backoff = tuple(backoff)
        self._page_size = page_size
        self._page_deadline = page_deadline
        self._kv: tuple[grpc.aio.Channel, KVService] | None = None

    async def read(self, keys: Sequence[bytes]) -> Reading:
        """Return these records, linearizably."""
        revision = 0
        records: dict[bytes, Record] = {}
        for start in range(0, len(keys), OPERATIONS):
            operations = [KVService.txn_op_get(key) for key in keys[start : start + OPERATIONS]]
            answer = await self._transact([], operations)
            revision = answer.header.revision
            for response in answer.responses:
                for kv in response.response_range.kvs:
                    records[kv.key] = Record(kv.value, kv.mod_revision)
        return Reading(revision, records)

    async def read_keys(self, prefix: bytes) -> list[bytes]:
        """Return all keys that begin with `prefix`, in order."""
        return [kv.key async for page in self.pages(prefix, keys_only=True) for kv in page.kvs]

    async def has_value(self, prefix: bytes, value: bytes, *, but: bytes = b"") -> bool:
        """Tell whether any record under `prefix` has this value, one of the key `but` aside."""
        async with contextlib.aclosing(self.pages(prefix)) as pages:
            async for page in pages:
                if any(kv.value == value and kv.key != but for kv in page.kvs):
                    return True
        return False

    async def commit(self, transaction: Transaction) -> int | None:
        """Do the transaction and return its revision; None if an expected key had changed."""
        compares = [
            KVService.txn_compare_version(key, 0) if not revision else _at_revision(key, revision)
            for key, revision in transaction.expected.items()
        ]
        writes = [KVService.txn_op_put(key, value) for key, value in transaction.puts.items()]
        writes += [KVService.txn_op_delete(key) for key in transaction.deletes]
        answer = await self._transact(compares, writes)
        return int(answer.header.revision) if answer.succeeded else None

    async def pages(
        self, prefix: bytes, *, revision: int = 0, keys_only: bool = False
    ) -> AsyncGenerator[RangeResponse, None]:
        """Yield all records under `prefix`, in order, at one revision (0: that of the first page).

        StoreCompacted if etcd stops keeping that revision meanwhile.
        """
        start = prefix
        while True:
            page = await self._attempt(self._range(start, range_end(prefix), revision, keys_only))
            yield page
            if not page.more:
                return
            revision = revision or page.header.revision
            start = page.kvs[-1].key + b"\0"

    def _range(self, start: bytes, end: bytes, revision: int, keys_only: bool) -> Call[RangeResponse]:  # noqa: FBT001
        def call(kv: KVService) -> Awaitable[RangeResponse]:
            return kv.get(
                start, end, revision=revision, limit=self._page_size, keys_only=keys_only, timeout=self._page_deadline
            )

        return call

    async def _transact(self, compares: Sequence[Compare], operations: Sequence[RequestOp]) -> TxnResponse:
        return await self._attempt(lambda kv: kv.txn(compares, operations, timeout=self._deadline))

    async def _attempt(self, call: Call[T]) -> T:
        """Make a call, and again after each pause of the back-off while the world fails."""
        for pause in (*self._backoff, None):
            try:
                with errors():
                    return await call(self._service())
            except StoreUnavailable as error:
                if pause is None:
                    raise
                log.debug("etcd=%s call repeated after %s s: %s", self._channel.name, pause, error)
                await asyncio.sleep(pause)
        raise AssertionError

    def _service(self) -> KVService:
        channel = self._channel.get()
        if self._kv is None or self._kv[0] is not channel:
            self._kv = (channel, KVService(channel, max_attempts=1))
        return self._kv[1]


def _at_revision(key: bytes, revision: int) -> Compare:
    compare = KVService.txn_compare_create_revision(key, 0)
    compare.target = compare.MOD
    compare.mod_revision = revision
    return compare


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """Turn what gRPC, etcd3aio and the TLS files raise into StoreError."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise translated(error.code(), error.details() or "") from error
    except (EtcdConnectionError, EtcdTransientError, TimeoutError) as error:
        raise StoreUnavailable(f"etcd does not answer: {str(error) or 'deadline exceeded'}") from error
    except (EtcdPermissionDeniedError, EtcdUnauthenticatedError) as error:
        raise StoreRefused(f"etcd refuses: {error}") from error
    except OSError as error:
        raise StoreUnavailable(f"certificates for etcd cannot be read: {error}") from error


def translated(code: grpc.StatusCode, details: str) -> StoreError:
    """Return our error for a gRPC status of etcd."""
    message = f"etcd: {code.name}: {details}"
    if any(words in details for words in _COMPACTED):
        return StoreCompacted(message)
    if any(words in details for words in _PASSING):
        return StoreUnavailable(message)
    refused = (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNIMPLEMENTED,
    )
    return StoreRefused(message) if code in refused else StoreUnavailable(message)
