# SPDX-License-Identifier: Apache-2.0
"""Work inside another network namespace, without the caller ever leaving its own; for agent/kernel."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import TypeVar

from agent.core.network import NetworkError

_CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


def enter(descriptor: int) -> None:
    """Move the calling thread into a network namespace for good; NetworkError if that is none."""
    if _libc.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise NetworkError(f"descriptor {descriptor} is no network namespace to enter: {os.strerror(number)}")


def in_namespace(descriptor: int, work: Callable[[], T]) -> T:
    """Return what `work` returns, or raise what it raises, run in a network namespace.

    A thread of its own enters and ends there: no thread of the caller can be left in the wrong place.
    Threads and sockets made by `work` belong to that namespace.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            enter(descriptor)
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
            failures.append(error)

    thread = threading.Thread(target=body, name="namespace")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]
