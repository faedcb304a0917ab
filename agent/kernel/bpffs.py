# SPDX-License-Identifier: Apache-2.0
"""Whether a folder can hold pins; for the modules of agent/kernel only."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from agent.core.datapath import DatapathError

_MAGIC = 0xCAFE4A11  # BPF_FS_MAGIC


def check_bpffs(folder: Path) -> None:
    """Raise DatapathError unless a folder, or where it will be made, lies in a bpffs."""
    place = folder if folder.exists() else folder.parent
    result = ctypes.create_string_buffer(256)  # struct statfs; f_type comes first
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.statfs(os.fsencode(place), result):
        reason = os.strerror(ctypes.get_errno())
        raise DatapathError(f"pin directory {folder}: {place}: {reason}")
    if ctypes.c_long.from_buffer(result).value & 0xFFFFFFFF != _MAGIC:
        raise DatapathError(
            f"pin directory {folder}: {place} is no bpffs; mount one on the host (not in the agent's container, whose"
            " mounts end with it): mount -t bpf bpf /sys/fs/bpf"
        )
