# SPDX-License-Identifier: Apache-2.0
"""`python -m agent.bpffs DIRECTORY` mounts a bpffs there unless there is one; for a node's init container.

Pins must outlive the agent's container, so the mount must be the host's: the container needs the directory with
mount propagation in both directions (DESIGN.md, "Datapath").
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_MAGIC = 0xCAFE4A11
"""BPF_FS_MAGIC of linux/magic.h."""

_STATFS_SIZE = 120


def is_bpffs(directory: Path) -> bool:
    """Tell whether a bpffs is mounted there; OSError if there is no such directory."""
    libc = ctypes.CDLL(None, use_errno=True)
    result = ctypes.create_string_buffer(_STATFS_SIZE)
    if libc.statfs(os.fsencode(directory), result):
        raise OSError(ctypes.get_errno(), "statfs", str(directory))
    return int.from_bytes(result.raw[:8], sys.byteorder) == _MAGIC


def mount(directory: Path) -> bool:
    """Mount a bpffs unless there is one; return whether it had to be.  OSError names the directory."""
    if is_bpffs(directory):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", os.fsencode(directory), b"bpf", 0, b"mode=0700"):
        number = ctypes.get_errno()
        raise OSError(number, f"mount of a bpffs: {os.strerror(number)}", str(directory))
    return True


def main() -> int:
    """Run the command line; return the exit status."""
    if len(sys.argv) != 2:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    directory = Path(sys.argv[1])
    try:
        made = mount(directory)
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{directory}: {'a bpffs is mounted now' if made else 'a bpffs is there already'}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
