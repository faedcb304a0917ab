# SPDX-License-Identifier: Apache-2.0
"""The lab's long-running processes: started in their own session with a log, known by pid and start time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

SOURCE = Path(__file__).parent.parent
"""Where `python -m agent` finds its packages."""


class ProcessError(Exception):
    """A process of the lab ended or did not start; the message holds the end of its log."""


class Process:
    """One process with a pid file, so that another run of the lab can end it; never one it did not start."""

    def __init__(self, *, name: str, command: Sequence[str], directory: Path) -> None:
        self.name = name
        self.command = tuple(command)
        self.log = directory / f"{name}.log"
        self._pid_file = directory / f"{name}.pid"
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; 0 if it does not run."""
        found = _identify(self._pid_file)
        return found if found is not None else 0

    def start(self) -> None:
        """Start the process in a session of its own; its output goes to the log."""
        with _uninterrupted(), self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=SOURCE
            )
            self._pid_file.write_text(f"{self._child.pid} {_start_time(self._child.pid)}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it runs."""
        if pid := self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """End the process at once, as a crash would."""
        self.signal(signal.SIGKILL)
        self._wait(5)

    def stop(self, patience: float = 5) -> None:
        """Ask the process to end; kill it when it has not after `patience` seconds."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        if not self._wait(patience):
            self.kill()
        self._pid_file.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise ProcessError if the process has ended."""
        if self._child is not None and self._child.poll() is not None:
            raise ProcessError(f"{self.name} ended with {self._child.returncode}:\n{self.tail()}")

    def tail(self, lines: int = 15) -> str:
        """Return the end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def _wait(self, patience: float) -> bool:
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if (self._child.poll() is not None) if self._child is not None else not self.pid:
                return True
            time.sleep(0.01)
        return False


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until the end of the block: no child may be started and not noted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    numbers = (int(signal.SIGINT), int(signal.SIGTERM))
    handlers = [signal.signal(number, lambda number, _: held.append(number)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)
        for number in held:
            signal.raise_signal(number)


def stop_all(processes: Iterable[Process]) -> None:
    """End processes, all at once."""
    chosen = list(processes)
    for process in chosen:
        process.signal(signal.SIGTERM)
    for process in chosen:
        process.stop()


def stop_noted(directory: Path) -> None:
    """End every process whose pid file lies in `directory`, such as those of an earlier run."""
    stop_all(Process(name=file.stem, command=(), directory=directory) for file in directory.glob("*.pid"))


def _start_time(pid: int) -> str:
    """Return when a process started, in clock ticks: with the pid it names one process for good (proc(5), stat)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def _identify(file: Path) -> int | None:
    """Return the pid in a pid file, if that very process still runs."""
    try:
        pid, started = file.read_text().split()
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return int(pid) if state[19] == started and state[0] != "Z" else None
