# SPDX-License-Identifier: Apache-2.0
"""The commands as a newcomer meets them: the demo, its interruption, and machines that cannot run it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.cluster import Cluster
from lab.namespace import Namespace

ROOT = Path(__file__).parent.parent.parent


def demo(name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lab", "demo", "--name", name], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def test_the_demo_tells_its_story() -> None:
    """It ends well and shows addresses, mappings, the packet in three places, counters and ADD times."""
    process = demo(f"d{os.getpid()}")
    story, _ = process.communicate(timeout=100)
    assert process.returncode == 0, story
    for words in ("ADD took", "/ilanet/v1/mappings/", "on the wire", "same length, same checksum", "to_wire/translated",
                  "untranslated: 0", "nothing is left"):  # fmt: skip
        assert words in story
    assert Cluster(name=f"d{os.getpid()}").leftovers() == []


@pytest.mark.parametrize("pause", [0.25, 0.5, 0.8, 1.2, 1.8, 2.5])
def test_an_interrupted_demo_leaves_nothing_behind(pause: float) -> None:
    """Ctrl-C at any moment: no process, namespace, mount or file is left."""
    name = f"i{os.getpid()}"
    process = demo(name)
    time.sleep(pause)
    process.send_signal(signal.SIGINT)
    story, _ = process.communicate(timeout=60)
    assert process.returncode in (0, 130), story
    assert Cluster(name=name).leftovers() == []


@pytest.mark.parametrize("words", ["underlay and", "etcd with", "controllers", "agents", "ADD took"])
@pytest.mark.parametrize("pause", [0.0, 0.1])
def test_a_demo_that_was_killed_is_cleaned_up_by_the_next_one(words: str, pause: float) -> None:
    """After kill -9 of the demo itself, soon after any of its steps, `make down` removes what it left."""
    name = f"k{os.getpid()}"
    process = demo(name)
    assert process.stdout is not None
    assert any(words in line for line in process.stdout)
    time.sleep(pause)
    process.kill()
    process.communicate()
    cluster = Cluster(name=name)
    assert cluster.leftovers() != []
    subprocess.run([sys.executable, "-m", "lab", "down", "--name", name], cwd=ROOT, check=True, timeout=60)
    assert cluster.leftovers() == []


def test_a_process_that_nobody_noted_ends_with_its_namespace() -> None:
    """A command that a killed run had started on a host, such as etcdctl, ends when the host is removed."""
    namespace = Namespace.create(f"n{os.getpid()}-host1")
    stray = namespace.start("sleep", "1000")
    while not namespace.pids():
        time.sleep(0.01)
    namespace.close()
    assert stray.wait(5) == -signal.SIGKILL
    assert not namespace.path.exists()


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
