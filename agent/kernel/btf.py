# SPDX-License-Identifier: Apache-2.0
"""Names, numbers and sizes out of an object's BTF (Documentation/bpf/btf.rst); for the modules of agent/kernel only."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from agent.core.datapath import DatapathError
from agent.kernel.libbpf import ask

_STRUCT, _ENUM, _DATASEC = 4, 6, 15


class _Type(ctypes.Structure):
    _fields_ = (("name", ctypes.c_uint32), ("info", ctypes.c_uint32), ("size", ctypes.c_uint32))


class _Enumerator(ctypes.Structure):
    _fields_ = (("name", ctypes.c_uint32), ("value", ctypes.c_int32))


class _Placed(ctypes.Structure):
    _fields_ = (("type", ctypes.c_uint32), ("offset", ctypes.c_uint32), ("size", ctypes.c_uint32))


@dataclass(frozen=True, slots=True)
class Variable:
    """Where a variable lies in its section."""

    offset: int
    size: int


class Btf:
    """Reads the BTF of an object that stays open meanwhile."""

    def __init__(self, address: int) -> None:
        self._btf = address

    def enumeration(self, name: str) -> dict[str, int]:
        """Return the values of an enum by their names."""
        kind, members = self._find(_ENUM, name)
        values = (_Enumerator * (kind.info & 0xFFFF)).from_address(members)
        return {self._name(value.name): value.value for value in values}

    def struct_size(self, name: str) -> int:
        """Return the bytes of a struct."""
        return int(self._find(_STRUCT, name)[0].size)

    def variables(self, section: str) -> dict[str, Variable]:
        """Return the variables of a data section by name."""
        kind, members = self._find(_DATASEC, section)
        placed = (_Placed * (kind.info & 0xFFFF)).from_address(members)
        return {self._name(self._type(one.type).name): Variable(one.offset, one.size) for one in placed}

    def _find(self, kind: int, name: str) -> tuple[_Type, int]:
        for number in range(1, ask("btf__type_cnt", self._btf)):
            candidate = self._type(number)
            if candidate.info >> 24 & 0x1F == kind and self._name(candidate.name) == name:
                return candidate, ctypes.addressof(candidate) + ctypes.sizeof(_Type)
        raise DatapathError(f"the object's BTF has no {name!r} of kind {kind}")

    def _type(self, number: int) -> _Type:
        return _Type.from_address(ask("btf__type_by_id", self._btf, number))

    def _name(self, offset: int) -> str:
        return str(ask("btf__name_by_offset", self._btf, offset).decode())
