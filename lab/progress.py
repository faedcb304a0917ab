# SPDX-License-Identifier: Apache-2.0
"""What the lab's commands say while they work, each line with the seconds since they began."""

from __future__ import annotations

import time

_STARTED = time.monotonic()


def progress(text: str) -> None:
    """Print a line at once."""
    print(f"[{time.monotonic() - _STARTED:5.1f} s] {text}", flush=True)
