# SPDX-License-Identifier: Apache-2.0
"""Fills a map of the kernel to its last entry, and empties it again; for kinds.py only."""

from __future__ import annotations

import errno

from agent.kernel.bpf_map import Map
from agent.kernel.libbpf import BpfError
from ila.address import LUID

CHUNK = 1 << 16
"""Entries written in one call."""


class Flood:
    """Mappings that nobody has, as many as a map takes."""

    def __init__(self, mappings: Map) -> None:
        self._mappings = mappings
        self._count = 0

    def rise(self) -> bool:
        """Fill the map to its last entry."""
        size = CHUNK
        while size:
            try:
                self._mappings.put_all(self._keys(self._count, self._count + size), bytes(32 * size))
                self._count += size
            except BpfError as error:
                if error.number != errno.E2BIG:
                    raise
                size //= 2
        return True

    def fall(self) -> None:
        """Delete all of them, and those that a batch had begun with."""
        for start in range(0, self._count + CHUNK, CHUNK):
            self._mappings.delete_all(self._keys(start, start + CHUNK))

    @staticmethod
    def _keys(start: int, end: int) -> bytes:
        """Return identifiers whose low 16 bits are 0, which no pod ever has."""
        return b"".join((LUID << 61 | number << 16).to_bytes(8) for number in range(start, end))
