# SPDX-License-Identifier: Apache-2.0
"""An object file: opened, given its constants, loaded into the kernel; for the modules of agent/kernel only."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from agent.core.datapath import DatapathError
from agent.kernel.btf import Btf
from agent.kernel.libbpf import ask, call, make

_CONSTANTS = ".rodata"

_OLDEST = (6, 1)
_KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")


def kernel_words(release: str = os.uname().release, btf: Path = _KERNEL_BTF) -> str:
    """Return this kernel's name for a message that it refuses programs, and what is known to be wrong with it."""
    words = f"Linux {release}"
    parts = re.match(r"(\d+)\.(\d+)", release)
    if parts is not None and (int(parts[1]), int(parts[2])) < _OLDEST:
        words += f", older than the {'.'.join(map(str, _OLDEST))} that ilanet needs"
    if not btf.exists():
        words += f", built without BTF (CONFIG_DEBUG_INFO_BTF): {btf} is not there"
    return words


class ObjectFile:
    """An open object file; a context manager, since programs and maps not pinned go when it is closed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._object = 0

    def __enter__(self) -> Self:
        """Open and parse the file; DatapathError if it is not there or no BPF object."""
        if not self._path.is_file():
            raise DatapathError(f"BPF object {self._path} is not there: build it with 'make build'")
        self._object = make("bpf_object__open_file", os.fsencode(self._path), None, what=f"open {self._path}")
        return self

    def __exit__(self, *_: object) -> None:
        """Close it; what is pinned or attached stays."""
        ask("bpf_object__close", self._object)
        self._object = 0

    @property
    def btf(self) -> Btf:
        """The object's BTF, valid while it is open."""
        return Btf(make("bpf_object__btf", self._object, what=f"read the BTF of {self._path}"))

    @property
    def constants(self) -> bytes:
        """The section of constants as it will be loaded."""
        address, size = self._initial_constants()
        return ctypes.string_at(address, size)

    def set_constants(self, values: Mapping[str, bytes]) -> None:
        """Set constants by variable name, each as the bytes it has in memory, padded with zeros at the end."""
        variables = self.btf.variables(_CONSTANTS)
        address, size = self._initial_constants()
        section = bytearray(ctypes.string_at(address, size))
        for name, raw in values.items():
            variable = variables.get(name)
            if variable is None:
                raise DatapathError(f"{self._path} has no constant {name!r}")
            if len(raw) > variable.size:
                raise DatapathError(f"constant {name!r} has {variable.size} bytes, got {len(raw)}")
            section[variable.offset : variable.offset + variable.size] = raw.ljust(variable.size, b"\0")
        call(
            *("bpf_map__set_initial_value", self._map(_CONSTANTS), bytes(section), size),
            what=f"set the constants of {self._path}",
        )

    def pin_maps(self, folder: Path) -> None:
        """Say that loading takes maps pinned in a folder of a bpffs, and pins those that are not there."""
        for name, address in self._maps():
            if not name.startswith("."):
                call("bpf_map__set_pin_path", address, os.fsencode(folder / name), what=f"pin map {name}")

    def load(self) -> None:
        """Verify and load; BpfError carries the verifier's log."""
        call("bpf_object__load", self._object, what=f"load {self._path} on {kernel_words()}")

    def programs(self) -> dict[str, int]:
        """Return the programs' descriptors by name, once loaded; they close with the object."""
        found = {}
        program = ask("bpf_object__next_program", self._object, None)
        while program:
            found[ask("bpf_program__name", program).decode()] = int(ask("bpf_program__fd", program))
            program = ask("bpf_object__next_program", self._object, program)
        return found

    def maps(self) -> dict[str, int]:
        """Return the maps' descriptors by name, once loaded; they close with the object."""
        return {name: int(ask("bpf_map__fd", address)) for name, address in self._maps() if name[0] != "."}

    def map_names(self) -> set[str]:
        """Return the names of the maps that user space shares."""
        return {name for name, _ in self._maps() if not name.startswith(".")}

    def map_forms(self) -> dict[str, tuple[int, ...]]:
        """Return type, key size, value size, number of entries and flags of the maps that user space shares."""
        parts = ("type", "key_size", "value_size", "max_entries", "map_flags")
        return {
            name: tuple(int(ask(f"bpf_map__{part}", address)) for part in parts)
            for name, address in self._maps()
            if not name.startswith(".")
        }

    def _maps(self) -> Iterator[tuple[str, int]]:
        address = ask("bpf_object__next_map", self._object, None)
        while address:
            name = ask("bpf_map__name", address).decode()
            # The kernel's name of the section's map has the object's name before it.
            yield (_CONSTANTS if name.endswith(_CONSTANTS) else name), address
            address = ask("bpf_object__next_map", self._object, address)

    def _map(self, name: str) -> int:
        for candidate, address in self._maps():
            if candidate == name:
                return address
        raise DatapathError(f"{self._path} has no map {name!r}")

    def _initial_constants(self) -> tuple[int, int]:
        size = ctypes.c_size_t()
        address = make(
            *("bpf_map__initial_value", self._map(_CONSTANTS), ctypes.byref(size)),
            what=f"read the constants of {self._path}",
        )
        return address, size.value
