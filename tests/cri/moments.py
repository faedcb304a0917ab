# SPDX-License-Identifier: Apache-2.0
"""When the runtime calls the CNI executable: tells begin and end of each call, so that a test can strike in between."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import struct
import time
from pathlib import Path
from typing import Self

_OPEN = 0x20
_CLOSE = 0x10  # IN_CLOSE_NOWRITE: the last process that ran the file has ended
_EVENT = struct.Struct("iIII")

_libc = ctypes.CDLL(None, use_errno=True)


class Calls:
    """Watches one executable (inotify(7)): starting it opens the file, its end closes it."""

    def __init__(self, executable: Path) -> None:
        self._descriptor = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if _libc.inotify_add_watch(self._descriptor, os.fsencode(executable), _OPEN | _CLOSE) < 0:
            raise OSError(ctypes.get_errno(), f"{executable} cannot be watched")
        self._events: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def forget(self) -> None:
        """Pass over all calls until now."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._descriptor, 4096):
                pass
        self._events.clear()

    def begin(self, patience: float = 60) -> float:
        """Wait for the begin of a call and return when that was."""
        return self._next(_OPEN, patience)

    def end(self, patience: float = 60) -> float:
        """Wait for the end of a call and return when that was."""
        return self._next(_CLOSE, patience)

    def _next(self, mask: int, patience: float) -> float:
        deadline = time.monotonic() + patience
        while True:
            while self._events:
                if self._events.pop(0) & mask:
                    return time.monotonic()
            ready, _, _ = select.select([self._descriptor], [], [], deadline - time.monotonic())
            if not ready:
                raise TimeoutError("the runtime has not called the executable")
            raw = os.read(self._descriptor, 4096)
            self._events += [mask for _, mask, _, _ in _EVENT.iter_unpack(raw)]
