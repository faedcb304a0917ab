# SPDX-License-Identifier: Apache-2.0
"""libbpf.so.1 through ctypes: prototypes, structures and errors with its log; for the modules of agent/kernel only.

Works with libbpf 1.0 and newer: every structure that grows begins with its size.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any

from agent.core.datapath import DatapathError

_LOG_LIMIT = 64 * 1024
_WARNING = 0

_PRINT = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
SAMPLE = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)
"""What a ring buffer calls: context, address and size of a record."""


class BpfError(DatapathError):
    """The kernel or libbpf refused; `number` is the errno, `log` what libbpf and the verifier said."""

    def __init__(self, what: str, number: int, log: str = "") -> None:
        super().__init__(f"{what}: {os.strerror(number)}" + (f"\n{log}" if log else ""))
        self.number = number
        self.log = log


class Sized(ctypes.Structure):
    """A structure of libbpf whose first field is its size."""

    def __init__(self, **fields: Any) -> None:  # noqa: ANN401 - as ctypes takes them
        super().__init__(ctypes.sizeof(self), **fields)


class TestRun(Sized):
    """struct bpf_test_run_opts."""

    __test__ = False
    _fields_ = (
        ("sz", c_size_t),
        ("data_in", c_void_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_void_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    )


class TcHook(Sized):
    """struct bpf_tc_hook."""

    _fields_ = (("sz", c_size_t), ("ifindex", c_int), ("attach_point", c_int), ("parent", c_uint32))


class TcOptions(Sized):
    """struct bpf_tc_opts."""

    _fields_ = (
        ("sz", c_size_t),
        ("prog_fd", c_int),
        ("flags", c_uint32),
        ("prog_id", c_uint32),
        ("handle", c_uint32),
        ("priority", c_uint32),
    )


class ProgramInfo(ctypes.Structure):
    """The beginning of struct bpf_prog_info."""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("jited_prog_len", c_uint32),
        ("xlated_prog_len", c_uint32),
        ("jited_prog_insns", c_uint64),
        ("xlated_prog_insns", c_uint64),
        ("load_time", c_uint64),
        ("created_by_uid", c_uint32),
        ("nr_map_ids", c_uint32),
        ("map_ids", c_uint64),
        ("name", ctypes.c_char * 16),
    )


class MapInfo(ctypes.Structure):
    """The beginning of struct bpf_map_info."""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("key_size", c_uint32),
        ("value_size", c_uint32),
        ("max_entries", c_uint32),
        ("map_flags", c_uint32),
        ("name", ctypes.c_char * 16),
    )


class LinkInfo(ctypes.Structure):
    """struct bpf_link_info as a tcx link fills it."""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("prog_id", c_uint32),
        ("padding", c_uint32),
        ("ifindex", c_uint32),
        ("attach_type", c_uint32),
    )


_COUNT = POINTER(c_uint32)
_PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "bpf_link_create": (c_int, c_int, c_int, c_int, c_void_p),
    "bpf_link_detach": (c_int, c_int),
    "bpf_link_update": (c_int, c_int, c_int, c_void_p),
    "bpf_map__fd": (c_int, c_void_p),
    "bpf_map__initial_value": (c_void_p, c_void_p, POINTER(c_size_t)),
    "bpf_map__key_size": (c_uint32, c_void_p),
    "bpf_map__map_flags": (c_uint32, c_void_p),
    "bpf_map__max_entries": (c_uint32, c_void_p),
    "bpf_map__name": (c_char_p, c_void_p),
    "bpf_map__set_initial_value": (c_int, c_void_p, c_char_p, c_size_t),
    "bpf_map__set_pin_path": (c_int, c_void_p, c_char_p),
    "bpf_map__type": (c_uint32, c_void_p),
    "bpf_map__value_size": (c_uint32, c_void_p),
    "bpf_map_delete_batch": (c_int, c_int, c_char_p, _COUNT, c_void_p),
    "bpf_map_delete_elem": (c_int, c_int, c_char_p),
    "bpf_map_get_next_key": (c_int, c_int, c_void_p, c_void_p),
    "bpf_map_lookup_batch": (c_int, c_int, c_void_p, c_void_p, c_void_p, c_void_p, _COUNT, c_void_p),
    "bpf_map_lookup_elem": (c_int, c_int, c_char_p, c_void_p),
    "bpf_map_update_batch": (c_int, c_int, c_char_p, c_char_p, _COUNT, c_void_p),
    "bpf_map_update_elem": (c_int, c_int, c_char_p, c_char_p, c_uint64),
    "bpf_obj_get": (c_int, c_char_p),
    "bpf_obj_get_info_by_fd": (c_int, c_int, c_void_p, _COUNT),
    "bpf_obj_pin": (c_int, c_int, c_char_p),
    "bpf_object__btf": (c_void_p, c_void_p),
    "bpf_object__close": (None, c_void_p),
    "bpf_object__load": (c_int, c_void_p),
    "bpf_object__next_map": (c_void_p, c_void_p, c_void_p),
    "bpf_object__next_program": (c_void_p, c_void_p, c_void_p),
    "bpf_object__open_file": (c_void_p, c_char_p, c_void_p),
    "bpf_prog_get_fd_by_id": (c_int, c_uint32),
    "bpf_prog_test_run_opts": (c_int, c_int, POINTER(TestRun)),
    "bpf_program__fd": (c_int, c_void_p),
    "bpf_program__name": (c_char_p, c_void_p),
    "bpf_tc_attach": (c_int, POINTER(TcHook), POINTER(TcOptions)),
    "bpf_tc_detach": (c_int, POINTER(TcHook), POINTER(TcOptions)),
    "bpf_tc_hook_create": (c_int, POINTER(TcHook)),
    "bpf_tc_hook_destroy": (c_int, POINTER(TcHook)),
    "bpf_tc_query": (c_int, POINTER(TcHook), POINTER(TcOptions)),
    "btf__name_by_offset": (c_char_p, c_void_p, c_uint32),
    "btf__type_by_id": (c_void_p, c_void_p, c_uint32),
    "btf__type_cnt": (c_uint32, c_void_p),
    "libbpf_num_possible_cpus": (c_int,),
    "libbpf_set_print": (c_void_p, _PRINT),
    "ring_buffer__consume": (c_int, c_void_p),
    "ring_buffer__epoll_fd": (c_int, c_void_p),
    "ring_buffer__free": (None, c_void_p),
    "ring_buffer__new": (c_void_p, c_int, SAMPLE, c_void_p, c_void_p),
    "ring_buffer__poll": (c_int, c_void_p, c_int),
}


class _Log(threading.local):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def take(self) -> str:
        text = "".join(self.lines).strip()
        self.lines.clear()
        return text if len(text) <= _LOG_LIMIT else f"[...]\n{text[-_LOG_LIMIT:]}"


class _Library:
    """The loaded library; the print callback lives as long as it does."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libbpf.so.1", use_errno=True)
        except OSError as error:
            raise DatapathError(f"cannot load libbpf.so.1: {error}; on Debian: apt-get install libbpf1") from error
        self._libc = ctypes.CDLL(None)
        self._libc.vasprintf.argtypes = (POINTER(c_char_p), c_char_p, c_void_p)
        self._libc.free.argtypes = (c_char_p,)
        self.log = _Log()
        self.functions: dict[str, Any] = {}
        for name, (result, *arguments) in _PROTOTYPES.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
            self.functions[name] = function
        self._print = _PRINT(self._keep)
        self.functions["libbpf_set_print"](self._print)

    def _keep(self, level: int, template: bytes, arguments: int) -> int:
        text = c_char_p()
        if level == _WARNING and self._libc.vasprintf(ctypes.byref(text), template, arguments) >= 0:
            self.log.lines.append((text.value or b"").decode(errors="replace"))
            self._libc.free(text)
        return 0


_loaded: list[_Library] = []
_lock = threading.Lock()


def _library() -> _Library:
    with _lock:
        if not _loaded:
            _loaded.append(_Library())
        return _loaded[0]


def ask(function: str, *arguments: Any) -> Any:  # noqa: ANN401 - what the function returns
    """Return what a function of libbpf returns, where that is no error."""
    return _library().functions[function](*arguments)


def call(function: str, *arguments: Any, what: str) -> int:  # noqa: ANN401 - as the prototype says
    """Return the number that a function returns; BpfError naming `what` if it is negative."""
    library = _library()
    library.log.lines.clear()
    result = int(library.functions[function](*arguments))
    if result < 0:
        # Calls of libbpf return the negated errno, but -1 with errno where they pass a system call on.
        raise BpfError(what, ctypes.get_errno() or -result if result == -1 else -result, library.log.take())
    return result


def make(function: str, *arguments: Any, what: str) -> int:  # noqa: ANN401 - as the prototype says
    """Return the address that a function returns; BpfError naming `what` if it is none."""
    library = _library()
    library.log.lines.clear()
    result = library.functions[function](*arguments)
    if not result:
        raise BpfError(what, ctypes.get_errno() or errno.EINVAL, library.log.take())
    return int(result)
