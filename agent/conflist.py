# SPDX-License-Identifier: Apache-2.0
"""What runtimes read of ours: the CNI executable, and the network configuration, there once the agent can serve.

While the configuration is missing the runtime reports the node as not ready, so that no pod is sent here too early;
an agent that stops leaves it, since pods end and start again as soon as the agent is back.
A node that has another network keeps it until its operator says otherwise.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

from agent.core.conflist import render
from agent.core.datapath import Datapath
from agent.core.status import Status
from agent.pool import uninterrupted

NAME = "ilanet"
"""Of the executable among the plugins, and of the plugin in the configuration."""

_CONFIGURATIONS = (".conf", ".conflist", ".json")
"""How files end that a runtime reads (libcni, ConfFiles)."""


class Conflist:
    """The file, and the plugins that it can name on this node."""

    def __init__(
        self,
        *,
        path: Path,
        replace: bool,
        chain: Sequence[str],
        sysctls: Mapping[str, str],
        plugins: Path,
        executable: Path | None,
        datapath: Datapath,
        status: Status,
        pool: Executor,
    ) -> None:
        """Take the plugins to follow ours, what tuning sets, the plugins' folder, and what to put there.

        replace: the file is written also where the runtime has another network so far.
        """
        self._path = path
        self._replace = replace
        self._chain = tuple(chain)
        self._sysctls = dict(sysctls)
        self._plugins = plugins
        self._executable = executable
        self._datapath = datapath
        self._status = status
        self._pool = pool

    async def step(self) -> None:
        """Write the file if the agent can serve and it is not there as it should be; OSError if it cannot be."""
        if self._status.serving:
            await uninterrupted(self._pool, self._write)

    def _write(self) -> None:
        if self._executable is not None:
            _put(self._plugins / NAME, self._executable.read_bytes(), mode=0o755)
        reason = self._not_used()
        if reason:
            self._status.problem("runtime", reason)
        else:
            self._status.well("runtime")
        if self._replace or not reason or self._path.exists():
            chain = [name for name in self._chain if self._works(name)]
            _put(self._path, render(chain, self._sysctls), mode=0o644)

    def _not_used(self) -> str:
        """Return why the runtime uses another network than ours, '' if it does not: it takes the first by its name.

        What others put there is theirs: it stays.
        """
        found = sorted(path for path in self._path.parent.glob("*") if path.suffix in _CONFIGURATIONS)
        others = [path for path in found if path != self._path]
        if others and self._path not in found and not self._replace:
            return (
                f"{others[0]} is the network of this node, which is left as it is, without {self._path.name}: "
                "remove it, or what writes it, and start its pods anew, or set replace_network = true"
            )
        if others and others[0] < self._path:
            return (
                f"{others[0]} comes before {self._path.name}, so the runtime gives pods that network and not ilanet's: "
                "remove it, or what writes it, to change over"
            )
        return ""

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


def remove(path: Path, plugins: Path, executable: Path | None) -> None:
    """Remove the file, and the executable if it was put there; what is not there is no error."""
    for made in [path, *([plugins / NAME] if executable is not None else [])]:
        made.unlink(missing_ok=True)
        _temporary(made).unlink(missing_ok=True)


def _put(path: Path, raw: bytes, *, mode: int) -> None:
    """Make a file have this content and mode, by temporary file and rename: a runtime may read or start it now."""
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == raw and path.stat().st_mode & 0o777 == mode:
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    with temporary.open("wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.tmp")
