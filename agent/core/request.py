# SPDX-License-Identifier: Apache-2.0
"""A request of the CNI executable in bytes, as it comes over the socket; pure.  A queued DEL is one too.

b"ILA1", the lengths of the environment block and of standard input (32 bits each, network order), then both
(cni/shim/shim.h repeats it).
"""

from __future__ import annotations

import os
import struct

MAGIC = b"ILA1"
LARGEST_ENVIRONMENT = 128 << 10
LARGEST_INPUT = 1 << 20

_HEADER = struct.Struct("!4sII")
HEADER_SIZE = _HEADER.size


class BadRequest(Exception):  # noqa: N818 - says what it is
    """What arrived is not from our executable."""


def parse_header(raw: bytes) -> tuple[int, int]:
    """Return the lengths of environment block and standard input that HEADER_SIZE bytes announce."""
    magic, environment, stdin = _HEADER.unpack(raw)
    if magic != MAGIC:
        raise BadRequest(f"it begins with {magic!r}, not {MAGIC!r}")
    if environment > LARGEST_ENVIRONMENT or stdin > LARGEST_INPUT:
        raise BadRequest(f"it announces {environment} bytes of environment and {stdin} of input")
    return environment, stdin


def parse_environment(block: bytes) -> dict[str, str]:
    """Return the variables of an environment block: "CNI_X=...", each with its NUL."""
    found = {}
    for pair in filter(None, block.split(b"\0")):
        key, separator, value = pair.partition(b"=")
        if not separator or not key.startswith(b"CNI_"):
            raise BadRequest(f"its environment holds {pair[:80]!r}")
        found[os.fsdecode(key)] = os.fsdecode(value)
    return found
