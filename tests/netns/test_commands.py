# SPDX-License-Identifier: Apache-2.0
"""The demo as a newcomer meets it: its story, its failures and interruptions, and what it leaves behind: nothing."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from lab.cluster import Cluster
from lab.namespace import Namespace
from tests.netns.commands import ROOT, Command, run, traces, tree

STEPS = (
    *("underlay and", "etcd with", "controllers", "agents", "== Six pods", "ADD took", "== Addresses"),
    *(
        "== The mapping table",
        "== Ping",
        "pod2b -> pod3b",
        "== One packet",
        "== What the datapath",
        "taking everything",
    ),
)


def test_the_demo_tells_its_story() -> None:
    """It shows addresses, mappings, the packet in three places, counters and ADD times, and leaves nothing."""
    name, before = f"d{os.getpid()}", tree()
    status, story = run("demo", name)
    assert status == 0, story
    for words in ("ADD took", "/ilanet/v1/mappings/", "on the wire", "same length, same checksum", "to_wire/translated",
                  "untranslated: 0", "nothing is left"):  # fmt: skip
        assert words in story
    assert traces(name) == set()
    assert tree() == before


def check_interrupted(demo: Command, name: str, *, may_be_over: bool) -> None:
    """Interrupt a demo; whether it says so, and nothing is left of it."""
    demo.interrupt()
    status, story = demo.end()
    if status == -signal.SIGINT:
        assert "underlay and" not in story  # Python itself was not up yet
    elif not (may_be_over and status == 0):
        assert status == 130, story
        assert "interrupted" in story
    assert "LEFT BEHIND" not in story
    assert traces(name) == set()
    assert Cluster(name=name).leftovers() == []


@pytest.mark.parametrize("pause", [0.25, 0.5, 0.8, 1.2, 1.8, 2.5])
def test_a_demo_interrupted_at_any_moment_leaves_nothing_behind(pause: float) -> None:
    """Ctrl-C after so many seconds: no process, namespace, mount or file is left."""
    name = f"i{os.getpid()}"
    demo = Command("demo", name)
    time.sleep(pause)
    check_interrupted(demo, name, may_be_over=True)


@pytest.mark.parametrize(("step", "pause"), list(zip(STEPS, itertools.cycle((0.0, 0.05)), strict=False)))
def test_a_demo_interrupted_in_any_step_leaves_nothing_behind(step: str, pause: float) -> None:
    """Ctrl-C in each step, at its begin or a little later, also while it is cleaning up."""
    name = f"s{os.getpid()}"
    before = tree()
    demo = Command("demo", name)
    demo.read_until(step)
    time.sleep(pause)  # and nothing else: the demo goes on meanwhile
    check_interrupted(demo, name, may_be_over=step in STEPS[-5:])
    assert tree() == before


@pytest.mark.parametrize("words", ["underlay and", "etcd with", "controllers", "agents", "ADD took"])
@pytest.mark.parametrize("pause", [0.0, 0.1])
def test_a_demo_that_was_killed_is_cleaned_up_by_the_next_one(words: str, pause: float) -> None:
    """After kill -9 of the demo itself, soon after any of its steps, `make down` removes what it left."""
    name = f"k{os.getpid()}"
    demo = Command("demo", name)
    demo.read_until(words)
    time.sleep(pause)
    demo.kill()
    assert traces(name) != set()
    status, printed = run("down", name)
    assert status == 0, printed
    assert traces(name) == set()
    assert Cluster(name=name).leftovers() == []


def test_a_process_that_nobody_noted_ends_with_its_namespace() -> None:
    """A command that a killed run had started on a host, such as etcdctl, ends when the host is removed."""
    namespace = Namespace.create(f"n{os.getpid()}-host1")
    stray = namespace.start("sleep", "1000")
    while not namespace.pids():
        time.sleep(0.01)
    namespace.close()
    assert stray.wait(5) == -signal.SIGKILL
    assert not namespace.path.exists()


KILLING_ETCDCTL = """#!/bin/sh
case "$*" in */ilanet/v1/mappings/*) kill -9 "$(cut -d ' ' -f 1 /run/ilanet-lab/{name}/etcd/etcd0.pid)" ;; esac
exec {etcdctl} "$@"
"""


@pytest.mark.parametrize(
    ("place", "text", "step", "reason"),
    [
        (
            "bin/etcd",
            "#!/bin/sh\necho this etcd is broken >&2\nexit 3\n",
            "etcd with",
            "etcd0 ended with 3:\nthis etcd",
        ),
        ("build/ilanet.bpf.o", None, "3 agents", "ilanet.bpf.o"),
        ("build/ilanet", None, "Six pods", "ADD pod1a: [Errno 2] No such file"),
        ("build/ilanet", "#!/bin/sh\n", "Six pods", "ADD pod1a: the answer names no address"),
        ("build/ilanet", "#!/bin/sh\necho hello\n", "Six pods", "ADD pod1a: the answer is no JSON: b'hello"),
        ("build/ilanet", '#!/bin/sh\necho {"code":7}\nexit 1\n', "Six pods", "ADD pod1a"),
        ("bin/etcdctl", KILLING_ETCDCTL, "The mapping table", "context deadline exceeded"),
    ],
)
def test_a_demo_that_fails_says_in_which_step_and_why(
    tmp_path: Path, place: str, text: str | None, step: str, reason: str
) -> None:
    """One part is missing, broken or killed: the step, the reason, an error as exit status, and nothing is left."""
    name = f"f{os.getpid()}"
    for entry in ROOT.iterdir():
        if entry.name != "build":
            (tmp_path / entry.name).symlink_to(entry)
    shutil.copytree(ROOT / "build", tmp_path / "build", symlinks=True)
    (tmp_path / "bin").mkdir()
    broken = tmp_path / place
    broken.unlink(missing_ok=True)
    if text is not None:
        broken.write_text(text.replace("{name}", name).replace("{etcdctl}", shutil.which("etcdctl") or ""))
        broken.chmod(0o755)
    search = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    status, story = Command("demo", name, tree=tmp_path, environment=search).end()
    assert status == 1, story
    failure = story[story.index("FAILED at") :]
    assert failure.startswith(f"FAILED at '{step}")
    assert reason in failure
    assert "Traceback (most recent call last)" not in story.replace(failure, "")
    assert traces(name) == set()
