# SPDX-License-Identifier: Apache-2.0
"""Machines that cannot run it: each command says what is missing and how to get it, before it changes anything."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("exec setpriv --reuid=65534 --clear-groups", ["root", "sudo"]),
        ("mount -t tmpfs none /sys/kernel/btf; exec", ["BTF", "CONFIG_DEBUG_INFO_BTF"]),
        ("export PATH={fake}:$PATH; exec", ["kernel 6.1", "5.4.0", "linux-image"]),
    ],
)
def test_a_machine_that_cannot_run_it_is_told_what_is_missing(tmp_path: Path, harm: str, words: list[str]) -> None:
    """Without root, BTF or a kernel that is new enough: what is missing, how to get it, and nothing is changed."""
    tmp_path.chmod(0o755)
    fake = tmp_path / "uname"
    fake.write_text("#!/bin/sh\necho 5.4.0-generic\n")
    fake.chmod(0o755)
    # Where everybody may come to it and nothing can write to it: /root, where a clone may lie, is closed to others.
    seen = f"mount --bind {ROOT} /mnt && mount -o remount,bind,ro /mnt"
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", f"{seen} && {harm.format(fake=tmp_path)} bash /mnt/lab/prepare system"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "nothing was changed" in done.stderr
    for word in words:
        assert word in done.stderr
