# SPDX-License-Identifier: Apache-2.0
"""Records on disk: one file each, replaced by temp, fsync and rename; implements agent.core.ports.Records."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


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
        temporary = self._path / f"{key}.tmp"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path / f"{key}.json")
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        self._sync()

    def remove(self, key: str) -> None:
        """Remove a record durably; one that is not there is no error."""
        (self._path / f"{key}.json").unlink(missing_ok=True)
        self._sync()

    def _sync(self) -> None:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
