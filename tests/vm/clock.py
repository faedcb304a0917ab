# SPDX-License-Identifier: Apache-2.0
"""The guest's clock, set ahead and right again; the only place in the tree that sets one, and it refuses elsewhere."""

from __future__ import annotations

import time
from pathlib import Path

from lab.vm import SHARE

HOUR = 3600.0


class NotTheGuestError(Exception):
    """This machine was not booted by lab/vm.py: its clock is left alone."""


def require_guest(command_line: str, mounts: str) -> None:
    """Raise NotTheGuestError unless /proc/cmdline and /proc/mounts are a guest's.

    virtme-ng wrote its kernel's command line, and the root and the folder that the guest shares come from QEMU.
    """
    types = {place: (source, kind) for source, place, kind, *_ in map(str.split, mounts.splitlines())}
    _, root = types.get("/", ("", ""))
    if " virtme.exec=" not in command_line or root != "9p" or types.get(SHARE) != ("share", "9p"):
        raise NotTheGuestError("no guest of lab/vm.py: the clock of this machine is left alone")


class GuestClock:
    """The guest's time of day against its monotonic clock, which no jump touches."""

    def __init__(self) -> None:
        """Take the present time as right."""
        self._require()
        self._right = time.time() - time.monotonic()

    def set_ahead(self, seconds: float) -> None:
        """Set the clock so far ahead of the right time; 0 sets it right."""
        self._require()
        wanted = self._right + time.monotonic() + seconds
        time.clock_settime(time.CLOCK_REALTIME, wanted)
        assert 0 <= time.time() - wanted < HOUR / 60

    @staticmethod
    def _require() -> None:
        require_guest(*(Path(file).read_text() for file in ("/proc/cmdline", "/proc/mounts")))
