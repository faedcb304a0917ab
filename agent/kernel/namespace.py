# SPDX-License-Identifier: Apache-2.0
"""Work inside another network namespace; for agent/kernel."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable
from typing import TypeVar

from agent.core.network import NetworkError

_CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)

log = logging.getLogger("ilanet.namespace")

T = TypeVar("T")


def enter(descriptor: int) -> None:
    """Move the calling thread into a network namespace for good; NetworkError if that is none."""
    if _libc.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise NetworkError(f"descriptor {descriptor} is no network namespace to enter: {os.strerror(number)}")


def new_namespace() -> int:
    """Return a descriptor of a new network namespace, which lasts as long as something holds it; NetworkError."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.unshare(_CLONE_NEWNET):
            raise NetworkError(f"no new network namespace: {os.strerror(ctypes.get_errno())}")
        try:
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            _come_back(home)
    finally:
        os.close(home)


def in_namespace(descriptor: int, work: Callable[[], T]) -> T:
    """Return what `work` returns, or raise what it raises, run in a network namespace; the caller's thread goes there.

    It comes back whatever happens, or the process ends: a thread in the wrong place would do its next work there.
    Threads and sockets made by `work` belong to that namespace.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            enter(descriptor)
            return work()
        finally:
            _come_back(home)  # also where an interruption comes right after the way there
    finally:
        os.close(home)


def _come_back(home: int) -> None:
    try:
        enter(home)
    except NetworkError:
        log.critical("a thread cannot return to its network namespace: the process ends")
        os.abort()
