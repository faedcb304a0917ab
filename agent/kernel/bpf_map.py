# SPDX-License-Identifier: Apache-2.0
"""Maps of the kernel, one entry or thousands a call, and the ring buffer; for the modules of agent/kernel only."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable, Iterator
from typing import Self

from agent.kernel.descriptor import Descriptor
from agent.kernel.libbpf import SAMPLE, BpfError, MapInfo, ask, call, make

_BATCH = 16384
_BUCKET_TRIES = 4


class Map(Descriptor):
    """A map; keys and values are bytes of the map's sizes."""

    @property
    def info(self) -> MapInfo:
        """Type, id, sizes and flags."""
        return self._info(MapInfo())

    @property
    def value_size(self) -> int:
        """Bytes of a value as user space reads and writes it; of a per-CPU map, of all CPUs' values."""
        return self._read_size

    def get(self, key: bytes) -> bytes | None:
        """Return the value, or None; of a per-CPU map, all CPUs' values on end (each rounded up to 8 bytes)."""
        value = ctypes.create_string_buffer(self._read_size)
        try:
            call("bpf_map_lookup_elem", self.number, key, value, what=f"look up in map {self.name}")
        except BpfError as error:
            if error.number == errno.ENOENT:
                return None
            raise
        return value.raw

    def put(self, key: bytes, value: bytes) -> None:
        """Insert or replace an entry."""
        call("bpf_map_update_elem", self.number, key, value, 0, what=f"write to map {self.name}")

    def delete(self, key: bytes) -> None:
        """Delete an entry; one that is not there is no error."""
        try:
            call("bpf_map_delete_elem", self.number, key, what=f"delete an entry of map {self.name}")
        except BpfError as error:
            if error.number != errno.ENOENT:
                raise

    def next_key(self, key: bytes | None) -> bytes | None:
        """Return the key after this one, the first after None, None after the last."""
        following = ctypes.create_string_buffer(self._key_size)
        try:
            call("bpf_map_get_next_key", self.number, key, following, what=f"walk map {self.name}")
        except BpfError as error:
            if error.number == errno.ENOENT:
                return None
            raise
        return following.raw

    def put_all(self, keys: bytes, values: bytes) -> None:
        """Insert or replace entries whose keys and values lie on end; BpfError says after how many it stopped."""
        total = len(keys) // self._key_size
        count = ctypes.c_uint32(total)
        try:
            call(
                *("bpf_map_update_batch", self.number, keys, values, ctypes.byref(count), None),
                what=f"write {total} entries to map {self.name}",
            )
        except BpfError as error:
            what = f"map {self.name} took {count.value} of {total} entries"
            raise BpfError(what, error.number, error.log) from error

    def delete_all(self, keys: bytes) -> None:
        """Delete entries whose keys lie on end; those that are not there are no error."""
        size = self._key_size
        while keys:
            count = ctypes.c_uint32(len(keys) // size)
            try:
                call(
                    *("bpf_map_delete_batch", self.number, keys, ctypes.byref(count), None),
                    what=f"delete {count.value} entries of map {self.name}",
                )
                return
            except BpfError as error:
                if error.number != errno.ENOENT:
                    raise
                # The kernel stops at the first absent key, number `count`: go on after it.
                keys = keys[(count.value + 1) * size :]

    def batches(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield all entries, keys on end and values on end; what stays during the walk comes exactly once."""
        place = ctypes.create_string_buffer(max(8, self._key_size))
        start = None
        capacity = _BATCH
        doubled = 0
        while True:
            keys = ctypes.create_string_buffer(capacity * self._key_size)
            values = ctypes.create_string_buffer(capacity * self._read_size)
            count = ctypes.c_uint32(capacity)
            last = False
            try:
                call(
                    *("bpf_map_lookup_batch", self.number, start, place, keys, values, ctypes.byref(count), None),
                    what=f"read map {self.name}",
                )
            except BpfError as error:
                if error.number == errno.ENOSPC and doubled < _BUCKET_TRIES:  # a bucket is larger than the batch
                    capacity, doubled = capacity * 2, doubled + 1
                    continue
                if error.number != errno.ENOENT:
                    raise
                last = True
            used = count.value
            yield keys.raw[: used * self._key_size], values.raw[: used * self._read_size]
            if last:
                return
            start = place

    def __init__(self, number: int, name: str) -> None:
        super().__init__(number, name)
        info = self.info
        self._key_size = int(info.key_size)
        self._read_size = int(info.value_size)
        self.per_cpu = info.type in {5, 6, 10}  # BPF_MAP_TYPE_PERCPU_HASH, _PERCPU_ARRAY, _LRU_PERCPU_HASH
        if self.per_cpu:
            cpus = call("libbpf_num_possible_cpus", what="count the CPUs")
            self._read_size = (self._read_size + 7) // 8 * 8 * cpus


class RingBuffer:
    """Records that programs send to user space, in order."""

    def __init__(self, source: Map, receive: Callable[[bytes], None]) -> None:
        self._error: BaseException | None = None
        self._receive = receive
        self._sample = SAMPLE(self._take)  # libbpf keeps only its address
        self._ring = make("ring_buffer__new", source.number, self._sample, None, None, what=f"open {source.name}")

    def _take(self, _context: int, address: int, size: int) -> int:
        try:
            self._receive(ctypes.string_at(address, size))
        except BaseException as error:  # noqa: BLE001 - no exception passes through C: consume() raises it
            self._error = error
            return -errno.ECANCELED
        return 0

    def fileno(self) -> int:
        """Return the descriptor that is readable when records wait."""
        return int(ask("ring_buffer__epoll_fd", self._ring))

    def consume(self) -> int:
        """Pass every waiting record to `receive` and return their number; what `receive` raises ends it."""
        try:
            return call("ring_buffer__consume", self._ring, what="read the ring buffer")
        except BpfError:
            if self._error is None:
                raise
            error, self._error = self._error, None
            raise error from None

    def close(self) -> None:
        """Free it; the map stays."""
        if self._ring:
            ask("ring_buffer__free", self._ring)
            self._ring = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
