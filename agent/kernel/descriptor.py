# SPDX-License-Identifier: Apache-2.0
"""Programs and links of the kernel by their descriptors; for the modules of agent/kernel only."""

from __future__ import annotations

import contextlib
import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from agent.kernel.libbpf import LinkInfo, ProgramInfo, TestRun, call

_Info = TypeVar("_Info", bound=ctypes.Structure)


class Descriptor:
    """A descriptor that this object owns and closes."""

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name

    @classmethod
    def pinned(cls, path: Path) -> Self:
        """Return what is pinned at a path."""
        return cls(call("bpf_obj_get", os.fsencode(path), what=f"open the pin {path}"), path.name)

    def pin(self, path: Path) -> None:
        """Pin at a path of a bpffs where nothing is."""
        call("bpf_obj_pin", self.number, os.fsencode(path), what=f"pin {self.name} at {path}")

    def close(self) -> None:
        """Close the descriptor; what is pinned or attached stays."""
        if self.number >= 0:
            os.close(self.number)
            self.number = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            self.close()

    def _info(self, info: _Info) -> _Info:
        size = ctypes.c_uint32(ctypes.sizeof(info))
        call(
            *("bpf_obj_get_info_by_fd", self.number, ctypes.byref(info), ctypes.byref(size)),
            what=f"read what {self.name} is",
        )
        return info


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a program made of a packet."""

    code: int
    """Signed return value."""

    frame: bytes
    context: bytes
    """struct __sk_buff afterwards."""


class Program(Descriptor):
    """A loaded program."""

    @classmethod
    def by_id(cls, number: int) -> Self:
        """Return the program of an id; BpfError (ENOENT) if it is gone."""
        return cls(call("bpf_prog_get_fd_by_id", number, what=f"open program {number}"), f"program {number}")

    @property
    def id(self) -> int:
        """The kernel's number of it."""
        return int(self._info(ProgramInfo()).id)

    @property
    def kernel_name(self) -> str:
        """The function's name, of which the kernel keeps 15 characters."""
        return bytes(self._info(ProgramInfo()).name).decode()

    def map_ids(self) -> set[int]:
        """Return the ids of the maps it uses."""
        ids = (ctypes.c_uint32 * 64)()
        info = self._info(ProgramInfo(nr_map_ids=len(ids), map_ids=ctypes.addressof(ids)))
        return set(ids[: info.nr_map_ids])

    def run(self, frame: bytes, *, context: bytes = b"", flags: int = 0) -> RunResult:
        """Run it on an Ethernet frame (BPF_PROG_TEST_RUN) with a struct __sk_buff; devices are this namespace's."""
        out = ctypes.create_string_buffer(len(frame) + 256)
        context_out = ctypes.create_string_buffer(max(len(context), 1))
        options: dict[str, Any] = {
            "data_in": ctypes.cast(ctypes.c_char_p(frame), ctypes.c_void_p),
            "data_size_in": len(frame),
            "data_out": ctypes.addressof(out),
            "data_size_out": len(out),
            "flags": flags,
        }
        if context:
            options["ctx_in"] = ctypes.cast(ctypes.c_char_p(context), ctypes.c_void_p)
            options["ctx_out"] = ctypes.addressof(context_out)
            options["ctx_size_in"] = options["ctx_size_out"] = len(context)
        run = TestRun(**options)
        call("bpf_prog_test_run_opts", self.number, ctypes.byref(run), what=f"run {self.name}")
        code = ctypes.c_int32(run.retval).value
        return RunResult(code, out.raw[: run.data_size_out], context_out.raw[: run.ctx_size_out])


class Link(Descriptor):
    """A tcx link: a program on one direction of one device."""

    @classmethod
    def create(cls, program: Program, index: int, attach_type: int) -> Self:
        """Attach a program; the link ends with its last descriptor unless it is pinned."""
        what = f"attach {program.name} to interface {index}"
        return cls(call("bpf_link_create", program.number, index, attach_type, None, what=what), what)

    def replace(self, program: Program) -> None:
        """Put another program in its place, without a moment between."""
        what = f"replace the program of {self.name} by {program.name}"
        call("bpf_link_update", self.number, program.number, None, what=what)

    def detach(self) -> None:
        """End the link though others hold it."""
        call("bpf_link_detach", self.number, what=f"detach {self.name}")

    @property
    def interface_index(self) -> int:
        """The device's index; 0 when the device is gone."""
        return int(self._info(LinkInfo()).ifindex)

    @property
    def program_id(self) -> int:
        """The id of the program in it."""
        return int(self._info(LinkInfo()).prog_id)
