# SPDX-License-Identifier: Apache-2.0
"""Records on a disk that fails when it is to write down."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from agent.records import RecordDirectory


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Return what says whether an fsync of a folder, or of a file, fails."""
    fails = {"folder": False, "file": False}
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if fails["folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return fails


@pytest.mark.parametrize("where", ["folder", "file"])
def test_a_new_record_that_is_not_durable_is_not_there(tmp_path: Path, failing: dict[str, bool], where: str) -> None:
    """Who asked undoes what it was for: after a restart it must not be found."""
    records = RecordDirectory(path=tmp_path)
    failing[where] = True
    with pytest.raises(OSError, match="Input/output error"):
        records.save("a", b"1")
    assert list(tmp_path.iterdir()) == []
    failing[where] = False
    records.save("a", b"2")
    assert records.load() == {"a": b"2"}


def test_an_old_record_outlives_a_new_one_that_cannot_be_written(tmp_path: Path, failing: dict[str, bool]) -> None:
    """It stays whole."""
    records = RecordDirectory(path=tmp_path)
    records.save("a", b"1")
    failing["file"] = True
    with pytest.raises(OSError, match="Input/output error"):
        records.save("a", b"2")
    assert records.load() == {"a": b"1"}


def test_whether_a_record_could_be_written(tmp_path: Path, failing: dict[str, bool]) -> None:
    """The trial leaves nothing, however it ends."""
    records = RecordDirectory(path=tmp_path)
    records.check()
    failing["file"] = True
    with pytest.raises(OSError, match="Input/output error"):
        records.check()
    assert list(tmp_path.iterdir()) == []
