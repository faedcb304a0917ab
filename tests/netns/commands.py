# SPDX-License-Identifier: Apache-2.0
"""The lab's commands as processes of a terminal's foreground, and what they leave; for tests of this folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from lab.namespace import NETNS

ROOT = Path(__file__).parent.parent.parent
_PLACES = ("/run", "/tmp", "/var/lib", "/var/log", "/etc/cni", "/opt", "/sys/fs/bpf", "/sys/fs/cgroup")  # noqa: S108
_BUILT = {
    ".git",
    ".venv",
    "build",
    "__pycache__",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".import_linter_cache",
}
"""Not looked at in the tree: caches, and what other tests build."""


class Command:
    """One command of the lab in a process group of its own, as a shell starts it; all its descendants are marked."""

    def __init__(
        self, command: str, name: str, *, tree: Path = ROOT, environment: Mapping[str, str] | None = None
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lab", command, "--name", name],
            cwd=tree,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **(environment or {}), "LAB_TEST": name},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._lines: list[str] = []

    def read_until(self, words: str) -> None:
        """Return once it has printed a line with these words."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)
            if words in line:
                return
        raise AssertionError(f"{words!r} did not come: {''.join(self._lines)}")

    def interrupt(self) -> None:
        """Do as a terminal does at Ctrl-C: SIGINT for the whole foreground."""
        os.killpg(self._process.pid, signal.SIGINT)

    def kill(self) -> None:
        """End the command itself at once, and nothing that it has started."""
        self._process.kill()
        self._process.communicate()

    def end(self, timeout: float = 100) -> tuple[int, str]:
        """Wait for its end; return the exit status and all that it printed."""
        rest, _ = self._process.communicate(timeout=timeout)
        return self._process.returncode, "".join(self._lines) + rest


def run(command: str, name: str) -> tuple[int, str]:
    """Run a command to its end; return the exit status and what it printed."""
    return Command(command, name).end()


def traces(name: str) -> set[str]:
    """Return every process that a marked command started, every namespace, mount and path with that name in it."""
    found = {f"namespace {path.name}" for path in NETNS.glob(f"{name}-*")}
    found |= {f"mount {line}" for line in Path("/proc/mounts").read_text().splitlines() if f"/{name}" in line}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            marked = f"LAB_TEST={name}".encode() in (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended
        if marked:
            found.add(f"process {(process / 'cmdline').read_bytes()!r}")
    for place in _PLACES:
        found |= {
            str(Path(folder, entry))
            for folder, folders, files in os.walk(place)
            for entry in (*folders, *files)
            if entry == name or entry.startswith(f"{name}-") or entry.endswith(f"-{name}")
        }
    return found


def tree() -> dict[str, int]:
    """Return every path of the source tree that is no cache, with the time of its last change."""
    found: dict[str, int] = {}
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [each for each in folders if each not in _BUILT]
        found |= {path: os.lstat(path).st_mtime_ns for path in (os.path.join(folder, each) for each in files)}  # noqa: PTH118
    return found
