# SPDX-License-Identifier: Apache-2.0
"""What the guest finds out, by name: it writes the rows, the tests on the host name and judge them."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from ila.address import ChecksumMode

TRAFFIC = (
    *("tcp", "udp", "ping", "fragments of ping", "fragments of udp"),
    *("hop-by-hop options", "destination options", "both options"),
)
DIRECTIONS = ("to linux", "from linux")
SUMS = (
    *("nothing crossed untranslated", "no checksum was wrong"),
    *("a wrong checksum is seen", "another mode does not pass"),
)

INTEROPERATION = [
    f"{mode.value}: {row}"
    for mode in ChecksumMode
    for row in (*(f"{kind} {direction}" for kind in TRAFFIC for direction in DIRECTIONS), *SUMS)
]
"""Our agent's host against Linux's, in each checksum mode."""

AGENT = (
    "programs are clsact filters",
    "edge programs are clsact filters",
    "a clock that jumps an hour ahead costs nothing",
    "a clock that is set back costs nothing",
    "a restart keeps programs and loses nothing",
    "a deleted pod leaves nothing",
    "uninstall leaves nothing",
)
"""The agent's life on a kernel without tcx, and while the clock jumps."""


class Rows:
    """Rows by name: empty text if all was well, else what was wrong; each is on disk as soon as it is known."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._started = time.monotonic()
        self.found: dict[str, str] = {}

    def check(self, name: str, work: Callable[[], object]) -> None:
        """Do the work of a row; what it raises is the row's text."""
        try:
            work()
        except Exception:  # noqa: BLE001 - the other rows are wanted too
            self.found[name] = traceback.format_exc()
        else:
            self.found[name] = ""
        self.say(f"{name}: {'failed' if self.found[name] else 'well'}")
        self._path.write_text(json.dumps(self.found))

    def say(self, text: str) -> None:
        """Print with the time, for whoever reads the guest's output."""
        print(f"[{time.monotonic() - self._started:5.1f} s] {text}", flush=True)
