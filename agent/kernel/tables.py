# SPDX-License-Identifier: Apache-2.0
"""The datapath's maps by what they mean: their keys and values in bytes; for agent/kernel/datapath.py only."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Sequence

from agent.core.datapath import DatapathError, EndpointEntry, VerdictCount
from agent.kernel.bpf_map import Map
from agent.kernel.verdicts import VerdictNames

_BATCH = 16384
_MAPPING_SIZE = 32
_ENDPOINT = struct.Struct("=I6s6sI")
_FLAG = struct.Struct("=I")
_COUNT = struct.Struct("=QQ")

STRUCT_SIZES = {"mapping": _MAPPING_SIZE, "endpoint": _ENDPOINT.size, "state": _FLAG.size, "count": _COUNT.size}
"""What this module takes the structs of agent/bpf/abi.h to be."""


def _keys(identifiers: Sequence[int]) -> bytes:
    return struct.pack(f">{len(identifiers)}Q", *identifiers)


def _identifiers(keys: bytes) -> tuple[int, ...]:
    return struct.unpack(f">{len(keys) // 8}Q", keys)


class Tables:
    """That part of the Datapath port which reads and writes maps."""

    def __init__(self) -> None:
        self._maps: dict[str, Map] = {}
        self._names = VerdictNames()

    def read_mappings(self) -> dict[int, bytes]:
        """Return all mappings."""
        found: dict[int, bytes] = {}
        for keys, values in self._map("mappings").batches():
            starts = range(0, len(values), _MAPPING_SIZE)
            found.update(zip(_identifiers(keys), (values[at : at + _MAPPING_SIZE] for at in starts), strict=True))
        return found

    def write_mappings(self, identifiers: Sequence[int], values: Sequence[bytes]) -> None:
        """Write in batches; wrong input is refused before anything is written."""
        if len(identifiers) != len(values):
            raise DatapathError(f"{len(identifiers)} identifiers for {len(values)} mappings")
        for identifier, value in zip(identifiers, values, strict=True):
            if len(value) != _MAPPING_SIZE:
                raise DatapathError(f"mapping of {identifier:#x} has {len(value)} bytes, not {_MAPPING_SIZE}")
        for start in range(0, len(identifiers), _BATCH):
            batch = slice(start, start + _BATCH)
            self._map("mappings").put_all(_keys(identifiers[batch]), b"".join(values[batch]))

    def delete_mappings(self, identifiers: Sequence[int]) -> None:
        """Delete in batches."""
        for start in range(0, len(identifiers), _BATCH):
            self._map("mappings").delete_all(_keys(identifiers[start : start + _BATCH]))

    def read_endpoints(self) -> dict[int, EndpointEntry]:
        """Return all endpoints."""
        found = {}
        for keys, values in self._map("endpoints").batches():
            for number, entry in zip(_identifiers(keys), _ENDPOINT.iter_unpack(values), strict=True):
                index, pod_mac, host_mac, by_stack = entry
                found[number] = EndpointEntry(
                    interface_index=index, pod_mac=pod_mac, host_mac=host_mac, by_stack=bool(by_stack)
                )
        return found

    def write_endpoint(self, identifier: int, entry: EndpointEntry) -> None:
        """Write one endpoint."""
        for mac in (entry.pod_mac, entry.host_mac):
            if len(mac) != 6:
                raise DatapathError(f"MAC address {mac.hex()!r} of an endpoint has {len(mac)} bytes, not 6")
        value = _ENDPOINT.pack(entry.interface_index, entry.pod_mac, entry.host_mac, entry.by_stack)
        self._map("endpoints").put(_keys([identifier]), value)

    def delete_endpoint(self, identifier: int) -> None:
        """Delete one endpoint."""
        self._map("endpoints").delete(_keys([identifier]))

    def read_nodes(self) -> set[ipaddress.IPv6Address]:
        """Return all node addresses."""
        return {
            ipaddress.IPv6Address(keys[at : at + 16])
            for keys, _ in self._map("nodes").batches()
            for at in range(0, len(keys), 16)
        }

    def write_nodes(self, add: Iterable[ipaddress.IPv6Address], remove: Iterable[ipaddress.IPv6Address]) -> None:
        """Add, then remove."""
        for address in add:
            self._map("nodes").put(address.packed, _FLAG.pack(1))
        for address in remove:
            self._map("nodes").delete(address.packed)

    def set_complete(self, *, complete: bool) -> None:
        """Write the flag."""
        self._map("state").put(_FLAG.pack(0), _FLAG.pack(complete))

    def verdicts(self) -> list[VerdictCount]:
        """Sum every counter over the CPUs."""
        counts = self._map("verdicts")
        stride = counts.info.max_entries // len(self._names.hooks)
        found = []
        for hook, hook_number in self._names.hooks.items():
            for name, (number, drop) in self._names.verdicts.items():
                per_cpu = list(_COUNT.iter_unpack(counts.get(_FLAG.pack(hook_number * stride + number)) or b""))
                packets, size = (sum(column) for column in zip(*per_cpu, strict=True))
                found.append(VerdictCount(hook, name, drop, packets, size))
        return found

    def _map(self, name: str) -> Map:
        try:
            return self._maps[name]
        except KeyError:
            raise DatapathError("the datapath is not loaded") from None
