# SPDX-License-Identifier: Apache-2.0
"""Records on disk: one file each, replaced by temp, fsync and rename; implements agent.core.ports.Records."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_TRIAL = 4096
"""Bytes: longer than the record of any pod."""


class RecordDirectory:
    """A folder of records; the key is the file's name without '.json'."""

    def __init__(self, *, path: Path) -> None:
        self._path = path

    def load(self) -> dict[str, bytes]:
        """Return every record by its key, and remove what a killed writer left half written."""
        self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
        for rest in self._path.glob("*.tmp"):
            rest.unlink()
        return {file.stem: file.read_bytes() for file in sorted(self._path.glob("*.json"))}

    def save(self, key: str, raw: bytes) -> None:
        """Write a record durably; it is there whole or not at all."""
        self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary, record = self._path / f"{key}.tmp", self._path / f"{key}.json"
        made = [temporary] if record.exists() else [temporary, record]
        try:
            _write(temporary, raw)
            temporary.replace(record)
            self._sync()
        except BaseException:
            for file in made:
                with contextlib.suppress(OSError):
                    file.unlink()
            raise

    def remove(self, key: str) -> None:
        """Remove a record durably; one that is not there is no error."""
        (self._path / f"{key}.json").unlink(missing_ok=True)
        self._sync()

    def check(self) -> None:
        """Return if a record could be written now; OSError if not.  Nothing is left of the trial."""
        self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
        trial = self._path / "trial.tmp"
        try:
            _write(trial, bytes(_TRIAL))
        finally:
            trial.unlink(missing_ok=True)

    def _sync(self) -> None:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write(path: Path, raw: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
