# SPDX-License-Identifier: Apache-2.0
"""When the runtime calls the CNI executable and when the agent comes to a record, so that a test can strike then."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

_OPEN = 0x20
_CLOSE = 0x10  # IN_CLOSE_NOWRITE: the last process that ran the file has ended
_CHANGE = 0x100 | 0x200 | 0x80  # IN_CREATE, IN_DELETE, IN_MOVED_TO
_EVENT = struct.Struct("iIII")

_libc = ctypes.CDLL(None, use_errno=True)


class Calls:
    """Watches one executable, whose start opens the file and whose end closes it, and a folder (inotify(7))."""

    def __init__(self, executable: Path, folder: Path) -> None:
        self._descriptor = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        for path, mask in ((executable, _OPEN | _CLOSE), (folder, _CHANGE)):
            if _libc.inotify_add_watch(self._descriptor, os.fsencode(path), mask) < 0:
                raise OSError(ctypes.get_errno(), f"{path} cannot be watched")
        self._events: list[int] = []
        self._running = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def forget(self) -> None:
        """Pass over all calls until now."""
        self._read()
        self._events.clear()

    def begin(self, patience: float = 60) -> float:
        """Wait for the begin of a call and return when that was."""
        return self._next(_OPEN, patience)

    def end(self, patience: float = 60) -> float:
        """Wait for the end of a call and return when that was."""
        return self._next(_CLOSE, patience)

    def change(self, patience: float = 60) -> float:
        """Wait until something in the folder has changed, or the call has ended, and return when that was."""
        return self._next(_CHANGE | _CLOSE, patience)

    def pending(self) -> bool:
        """Tell whether a call has begun and not ended until now."""
        self._read()
        return self._running

    def _next(self, mask: int, patience: float) -> float:
        deadline = time.monotonic() + patience
        while True:
            while self._events:
                if self._events.pop(0) & mask:
                    return time.monotonic()
            ready, _, _ = select.select([self._descriptor], [], [], deadline - time.monotonic())
            if not ready:
                raise TimeoutError("the runtime has not called the executable")
            self._read()

    def _read(self) -> None:
        """Take in what has happened until now."""
        with contextlib.suppress(BlockingIOError):
            while True:
                for event in masks(os.read(self._descriptor, 4096)):
                    self._events.append(event)
                    if event & (_OPEN | _CLOSE):
                        self._running = bool(event & _OPEN)


def masks(raw: bytes) -> Iterator[int]:
    """Yield the mask of every event; the name of a file in the folder follows its event."""
    while raw:
        _, mask, _, length = _EVENT.unpack_from(raw)
        yield mask
        raw = raw[_EVENT.size + length :]
