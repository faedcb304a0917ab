# SPDX-License-Identifier: Apache-2.0
"""The queue of DELs that the CNI executable kept on disk while the agent was away (cni/shim/queue.c): replayed here."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Executor
from pathlib import Path

from agent.core.network import NetworkError
from agent.pool import uninterrupted
from cni.plugin import DelRequest, Network
from cni.spec import CniError

log = logging.getLogger("ilanet.deletes")

AT_ONCE = 16
"""DELs under way at the same time: each may wait for a controller that is away."""


class DeleteQueue:
    """A folder of requests, one file for each attachment, named `container:interface`.

    The name says all that a DEL needs, so one whose configuration nobody can read is carried out too: its runtime
    was told that it succeeded.  What the file holds is for people.
    """

    def __init__(self, *, path: Path, pool: Executor) -> None:
        self._path = path
        self._pool = pool

    async def replay(self, network: Network) -> None:
        """Carry out whatever waits, begun oldest first; NetworkError names what still does.

        A file goes only after its DEL is done, and a DEL repeats safely: a kill between loses and breaks nothing.
        """
        files = await uninterrupted(self._pool, self._waiting)
        room = asyncio.Semaphore(AT_ONCE)
        reasons = await asyncio.gather(*(self._replay(file, network, room) for file in files))
        waiting = [f"{file.name}: {reason}" for file, reason in zip(files, reasons, strict=True) if reason]
        if waiting:
            raise NetworkError(f"queued DELs wait: {'; '.join(waiting)}")

    def forget(self, container_id: str, interface: str) -> None:
        """Drop what waits for an attachment that is being made anew."""
        (self._path / f"{container_id}:{interface}").unlink(missing_ok=True)

    def _waiting(self) -> list[Path]:
        """Return the files in the order in which they were queued."""
        self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = [(file.stat().st_mtime_ns, file) for file in self._path.iterdir() if not file.name.startswith(".")]
        return [file for _, file in sorted(found)]

    async def _replay(self, file: Path, network: Network, room: asyncio.Semaphore) -> str:
        """Carry one DEL out and remove its file; return why it must wait, empty if it need not."""
        container_id, separator, interface = file.name.partition(":")
        if not separator:
            log.error("%s is no queued DEL, and is dropped: its name is no container:interface", file)
            file.unlink(missing_ok=True)
            return ""
        async with room:
            if not file.exists():  # an ADD has dropped it
                return ""
            try:
                await network.delete(DelRequest(container_id=container_id, interface=interface))
            except CniError as error:
                return f"{error.message}: {error.details}" if error.details else error.message
            except OSError as error:
                return str(error)
        log.info("queued DEL %s is done", file.name)
        file.unlink(missing_ok=True)
        return ""
