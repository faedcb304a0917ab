# SPDX-License-Identifier: Apache-2.0
"""This node's CNI network configuration: written once the agent can serve, kept right, removed on uninstall only.

While the file is missing the runtime reports the node as not ready, so that no pod is sent here too early; an
agent that stops leaves it, since pods end and start again as soon as the agent is back.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

from agent.core.conflist import render
from agent.core.datapath import Datapath
from agent.core.status import Status
from agent.pool import uninterrupted


class Conflist:
    """The file, and the plugins that it can name on this node."""

    def __init__(
        self,
        *,
        path: Path,
        chain: Sequence[str],
        plugins: Path,
        datapath: Datapath,
        status: Status,
        pool: Executor,
    ) -> None:
        """Take the plugins to follow ours, and the folder where the runtime looks for them."""
        self._path = path
        self._chain = tuple(chain)
        self._plugins = plugins
        self._datapath = datapath
        self._status = status
        self._pool = pool

    async def step(self) -> None:
        """Write the file if the agent can serve and it is not there as it should be; OSError if it cannot be."""
        if self._status.serving:
            await uninterrupted(self._pool, self._write)

    def _write(self) -> None:
        raw = render([name for name in self._chain if self._works(name)])
        with contextlib.suppress(FileNotFoundError):
            if self._path.read_bytes() == raw:
                return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f"{self._path.name}.tmp")
        with temporary.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)

    def _works(self, name: str) -> bool:
        """Tell whether a plugin works here; one that does not would fail every pod, so it is left out, and said so."""
        reason = ""
        if not os.access(self._plugins / name, os.X_OK):
            reason = f"left out of {self._path}: {self._plugins / name} is no executable"
        elif name == "bandwidth" and not self._datapath.limits:
            reason = f"left out of {self._path}: before kernel 6.6 our programs need the qdisc that it would add"
        if reason:
            self._status.problem(f"plugin {name}", reason)
        else:
            self._status.well(f"plugin {name}")
        return not reason


def remove(path: Path) -> None:
    """Remove the file; one that is not there is no error."""
    path.unlink(missing_ok=True)
    path.with_name(f"{path.name}.tmp").unlink(missing_ok=True)
