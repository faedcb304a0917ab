# SPDX-License-Identifier: Apache-2.0
"""Everything around a plugin that a stranger has: a throw-away host for it, its files, and the way to its daemon."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.namespace import Namespace
from tests.matrix.executable import Executable
from tests.matrix.machine import Machine, no_detection
from tests.matrix.plugin import Daemon, Subject


class RigError(Exception):
    """What the suite was given cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class CommandDaemon:
    """A daemon behind a command that takes one more word: stop, start, freeze or thaw; implements Daemon."""

    command: str

    def stop(self) -> None:
        self._do("stop")

    def start(self) -> None:
        self._do("start")

    def freeze(self) -> None:
        self._do("freeze")

    def thaw(self) -> None:
        self._do("thaw")

    def _do(self, word: str) -> None:
        _run([*shlex.split(self.command), word])


def read_config(file: Path) -> dict[str, Any]:
    """Return a plugin's configuration: a file with one, or the first of a configuration list."""
    try:
        tree = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise RigError(f"{file} cannot be read: {error}") from error
    if isinstance(tree, dict) and isinstance(tree.get("plugins"), list) and tree["plugins"]:
        tree = {**tree["plugins"][0], "name": tree.get("name"), "cniVersion": tree.get("cniVersion", "1.0.0")}
    if not isinstance(tree, dict) or not isinstance(tree.get("name"), str):
        raise RigError(f"{file} holds no network configuration with a name")
    return tree


@contextlib.contextmanager
def throw_away(
    *,
    plugin: Path,
    config: Mapping[str, Any],
    name: str = "",
    host: str = "",
    search_path: str = "",
    setup: str = "",
    environment: Mapping[str, str] | None = None,
    watched: Sequence[Path] = (),
    daemon: Daemon | None = None,
    grace: float = 0.5,
    patience: float = 10,
    described: Mapping[str, str] | None = None,
) -> Iterator[Subject]:
    """Yield a plugin on a host of its own, and remove that host with all in it.

    host: a namespace to use instead, which stays.  setup: a command to run inside before.
    environment: what the runtime's would be; the caller's own if None.  grace, patience: as in Subject.
    """
    if not os.access(plugin, os.X_OK):
        raise RigError(f"{plugin} is no executable")
    prefix = f"matrix{os.getpid()}"
    with contextlib.ExitStack() as undo:
        directory = Path(tempfile.mkdtemp(prefix="cni-matrix-"))
        undo.callback(shutil.rmtree, directory, ignore_errors=True)
        if host:
            place = Namespace(host)
            if not place.path.exists():
                raise RigError(f"there is no namespace {host}")
        else:
            place = Namespace.create(f"{prefix}-host")
            undo.callback(place.close)
            no_detection(place)
        if setup:
            _run([*place.prefix, *shlex.split(setup)])
        ours, addresses = _own_addresses(config, directory)
        yield Subject(
            name=name or plugin.name,
            plugin=Executable(path=plugin, host=place, environment=environment or os.environ, search_path=search_path),
            place=Machine(host=place, prefix=prefix, watched=[*watched, *addresses]),
            config=ours,
            directory=directory,
            daemon=daemon,
            grace=grace,
            patience=patience,
            described=described or {},
        )


def _own_addresses(config: Mapping[str, Any], directory: Path) -> tuple[dict[str, Any], list[Path]]:
    """Return the configuration with a folder of the run's own for host-local, and that folder."""
    ipam = config.get("ipam")
    if not isinstance(ipam, Mapping) or ipam.get("type") != "host-local":
        return dict(config), []
    folder = directory / "host-local"
    return {**config, "ipam": {**ipam, "dataDir": str(folder)}}, [folder]


def _run(command: Sequence[str]) -> None:
    try:
        subprocess.run(command, check=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        raise RigError(f"{shlex.join(command)} failed: {error}") from error
