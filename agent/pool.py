# SPDX-License-Identifier: Apache-2.0
"""Blocking calls of services in threads, never left running behind a caller that was cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


async def uninterrupted(pool: Executor, call: Callable[..., T], *arguments: object) -> T:
    """Return what `call` returns, run in the pool; a cancellation waits for its end, since a thread cannot be stopped.

    So undo never runs beside what it undoes, and a descriptor given to the call stays open for as long as it runs.
    """
    future = asyncio.get_running_loop().run_in_executor(pool, call, *arguments)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise
