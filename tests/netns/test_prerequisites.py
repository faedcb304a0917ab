# SPDX-License-Identifier: Apache-2.0
"""Machines that cannot run it: each command says what is missing and how to get it, before it changes anything."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.netns.commands import ROOT

WITNESS = """
set -eu
changes=$1
shift
mount -t tmpfs changes "$changes"
overlay() {
  mkdir -p "$changes/$3/upper" "$changes/$3/work"
  mount -t overlay overlay -o "lowerdir=$1,upperdir=$changes/$3/upper,workdir=$changes/$3/work" "$2"
}
overlay "$PWD" /mnt tree
for place in etc usr var; do overlay /$place /$place $place; done
made() { ls -d /run/netns/ilanet-* /run/netns/ilademo-* /run/ilanet-lab/ila* 2>/dev/null || :; }
before=$(made)
cd /mnt
status=0
sh -c "$1" || status=$?
[ "$(made)" = "$before" ] || made
find "$changes"/*/upper -mindepth 1 -path '*/upper/*' -printf 'changed: %p\\n'
exit "$status"
"""
"""Runs a command on a copy of the tree, of /etc, /usr and /var that takes every change, and lists the changes."""


def seen(tmp_path: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the copies, outside of any make; its output ends with what it changed."""
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", WITNESS, "witness", str(tmp_path), command],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if "MAKE" not in name and name != "MFLAGS"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("command", ["demo", "test", "up"])
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("exec setpriv --reuid=65534 --clear-groups", ["root", "sudo"]),
        ("mount -t tmpfs none /sys/kernel/btf; exec", ["BTF", "CONFIG_DEBUG_INFO_BTF"]),
        (
            "printf '#!/bin/sh\\necho 5.4.0-generic\\n' >/dev/shm/uname; chmod 755 /dev/shm/uname; PATH=/dev/shm:$PATH",
            ["kernel 6.1", "5.4.0", "linux-image-"],
        ),
    ],
    ids=["root", "btf", "kernel"],
)
def test_a_machine_that_cannot_run_it_is_told_what_is_missing(
    tmp_path: Path, harm: str, words: list[str], command: str
) -> None:
    """Without root, BTF or a kernel that is new enough: what is missing, how to get it, and nothing is changed."""
    done = seen(tmp_path, f"mount -t tmpfs none /dev/shm; {harm} make {command}")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "nothing was changed" in done.stderr
    for word in words:
        assert word in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("place", ["new", "Makefile", "/etc/hosts", "/usr/bin/new", "/var/lib/dpkg/status", "build/x"])
def test_the_witness_sees_changes(tmp_path: Path, place: str) -> None:
    """A file that is made or touched shows, so the test above can fail; the real one stays as it was."""
    before = (ROOT / place).stat() if (ROOT / place).exists() else None
    done = seen(tmp_path, f"touch {place}")
    assert done.returncode == 0, done.stderr
    assert f"upper/{place.removeprefix('/').partition('/')[2] if place[0] == '/' else place}\n" in done.stdout
    assert ((ROOT / place).stat() if (ROOT / place).exists() else None) == before
