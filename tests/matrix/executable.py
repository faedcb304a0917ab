# SPDX-License-Identifier: Apache-2.0
"""A plugin as an executable, called as libcni calls it: environment and standard input, nothing else."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from lab.namespace import Namespace
from tests.matrix.plugin import Outcome

_GLANCE = 0.1
"""Seconds between two looks at whether a silent plugin still runs."""


class Executable:
    """Runs a plugin in a host's namespace; implements Plugin."""

    is_process = True

    def __init__(
        self,
        *,
        path: Path,
        host: Namespace,
        environment: Mapping[str, str],
        search_path: str = "",
        patience: float = 60.0,
        closing: float = 3.0,
    ) -> None:
        """Take the executable's path and the environment that the runtime would have.

        patience: seconds that a call may take.  closing: seconds that standard output may stay open after the end.
        """
        self.search_path = search_path or str(path.parent)
        self._path = path
        self._host = host
        self._environment = {key: value for key, value in environment.items() if not key.startswith("CNI_")}
        self._patience = patience
        self._closing = closing

    def call(self, command: str, environment: Mapping[str, str], stdin: bytes) -> Outcome:
        """Run it once; one that does not end is killed."""
        words = {"CNI_COMMAND": command} if command else {}
        started = time.perf_counter()
        process = subprocess.Popen(
            [*self._host.prefix, str(self._path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**self._environment, **words, **environment},
            start_new_session=True,
        )
        with contextlib.closing(_Pipes(process)):
            return self._follow(process, stdin, started)

    def _follow(self, process: subprocess.Popen[bytes], stdin: bytes, started: float) -> Outcome:
        rest: bytes | None = stdin
        ended = None
        while True:
            try:
                stdout, stderr = process.communicate(rest, timeout=_GLANCE)
            except subprocess.TimeoutExpired as late:
                stdout, stderr = late.output or b"", late.stderr or b""
                rest = None
            else:
                seconds = time.perf_counter() - started
                return Outcome(exit_code=process.returncode, stdout=stdout, stderr=stderr, seconds=seconds)
            now = time.perf_counter()
            if process.poll() is not None and ended is None:
                ended = now
            too_late, held_open = ended is None and now > started + self._patience, False
            if ended is not None:
                held_open = now > ended + self._closing
            if too_late or held_open:
                return Outcome(
                    exit_code=process.returncode if held_open else -signal.SIGKILL,
                    stdout=stdout,
                    stderr=stderr,
                    seconds=now - started,
                    stdout_closed=not held_open,
                    timed_out=too_late,
                )


class _Pipes:
    """What is left of a call: close() ends the plugin's session and the pipes to it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
