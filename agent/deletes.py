# SPDX-License-Identifier: Apache-2.0
"""The queue of DELs that the CNI executable kept on disk while the agent was away (cni/shim/queue.c): replayed here."""

from __future__ import annotations

import json
import logging
from concurrent.futures import Executor
from pathlib import Path

from agent.core.network import NetworkError
from agent.core.request import BadRequest, parse
from agent.pool import uninterrupted
from cni import plugin
from cni.plugin import Network
from cni.spec import Code

log = logging.getLogger("ilanet.deletes")


class DeleteQueue:
    """A folder of requests, one file for each attachment, named `container:interface`."""

    def __init__(self, *, path: Path, pool: Executor) -> None:
        self._path = path
        self._pool = pool

    async def replay(self, network: Network) -> None:
        """Carry out whatever waits, oldest first; NetworkError names what still does.

        A file goes only after its DEL is done, and a DEL repeats safely: a kill between loses and breaks nothing.
        """
        files = await uninterrupted(self._pool, self._waiting)
        reasons = {file.name: await self._replay(file, network) for file in files}
        waiting = [f"{name}: {reason}" for name, reason in reasons.items() if reason]
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

    async def _replay(self, file: Path, network: Network) -> str:
        """Carry one DEL out and remove its file; return why it must wait, empty if it need not."""
        try:
            environment, stdin = parse(file.read_bytes())
        except FileNotFoundError:
            return ""
        except BadRequest as error:
            log.error("queued DEL %s is dropped: %s", file.name, error)  # noqa: TRY400 - the message is complete
            file.unlink(missing_ok=True)
            return ""
        reply = await plugin.run({**environment, "CNI_COMMAND": "DEL"}, stdin, None, network)
        if reply.exit_code:
            failure = json.loads(reply.stdout)
            if failure["code"] in (Code.TRY_AGAIN_LATER, Code.IO_FAILURE, Code.INTERNAL):
                return str(failure["msg"])
            log.error("queued DEL %s is dropped: %s", file.name, failure)
        else:
            log.info("queued DEL %s is done", file.name)
        file.unlink(missing_ok=True)
        return ""
