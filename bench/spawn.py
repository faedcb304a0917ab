# SPDX-License-Identifier: Apache-2.0
"""Runs the CNI executable as a runtime does, many at once, and says how long each took; for bench/add.py.

os.posix_spawn shares this process's memory with the child until the child's exec, so starting costs the same
however large Python is.  The time is from before that call until waitpid has returned the end of the process: what
a runtime waits.  Input and output are pipes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.runtime import CONFIG, EXECUTABLE


class CommandFailed(Exception):  # noqa: N818 - says what happened
    """The executable ended with an error; the message holds what it printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container of the bench, as CNI is told of it."""

    name: str
    netns: Path
    socket: Path
    """Of the agent."""

    executable: Path = EXECUTABLE
    config: Mapping[str, Any] = field(default_factory=lambda: CONFIG)

    def environment(self, command: str) -> dict[str, str]:
        """Return the executable's whole environment."""
        return {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": self.name,
            "CNI_NETNS": str(self.netns),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(self.executable.parent),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={self.name};K8S_POD_UID={self.name}",
            "ILANET_SOCKET": str(self.socket),
        }


@dataclass(frozen=True, slots=True)
class Done:
    """One call of the executable that succeeded."""

    seconds: float
    ended: float
    """time.perf_counter() at its end."""

    answer: dict[str, Any]


def run(command: str, containers: Sequence[Container]) -> list[Done]:
    """Start the executable for all containers at once, and return when all have ended; CommandFailed if one failed."""
    started: dict[int, tuple[int, float, int]] = {}
    for place, container in enumerate(containers):
        begin = time.perf_counter()
        pid, output = start(container, command)
        started[pid] = (place, begin, output)
    found: list[Done | None] = [None] * len(containers)
    failures = []
    while started:
        pid, status = os.wait()
        ended = time.perf_counter()
        if pid not in started:
            continue
        place, begin, output = started.pop(pid)
        with os.fdopen(output, "rb") as file:
            printed = file.read()
        if status:
            failures.append(f"{command} of {containers[place].name}: status {status}: {printed.decode()}")
        else:
            found[place] = Done(ended - begin, ended, json.loads(printed) if printed else {})
    if failures:
        raise CommandFailed("\n".join(failures))
    return [done for done in found if done is not None]


def start(container: Container, command: str) -> tuple[int, int]:
    """Start the executable; return its pid, and the descriptor of its output, which a pipe holds whole."""
    words, stdin = [str(container.executable)], json.dumps(container.config).encode()
    ours, theirs = os.pipe()
    output, written = os.pipe()
    os.write(theirs, stdin)
    os.close(theirs)
    actions = [(os.POSIX_SPAWN_DUP2, ours, 0), (os.POSIX_SPAWN_DUP2, written, 1)]
    try:
        pid = os.posix_spawn(words[0], words, container.environment(command), file_actions=actions)
    finally:
        os.close(ours)
        os.close(written)
    return pid, output
