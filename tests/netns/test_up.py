# SPDX-License-Identifier: Apache-2.0
"""A network that stays: `make up`, `make status`, `make shell` and `make down`, once and twice, beside a demo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from lab.cluster import Cluster
from lab.namespace import NETNS
from lab.standing import addresses, faults
from tests.netns.commands import ROOT, Command, run, traces

PODS = ["pod1a", "pod1b", "pod2a", "pod2b", "pod3a", "pod3b"]


@pytest.fixture(scope="module")
def name() -> Iterator[str]:
    """Yield the name of a network that is up, and take it down."""
    name = f"u{os.getpid()}"
    try:
        status, printed = run("up", name)
        assert status == 0, printed
        assert all(f"{pod} on host" in printed for pod in PODS)
        yield name
    finally:
        status, printed = run("down", name)
    assert status == 0
    assert "nothing is left" in printed
    assert traces(name) == set()


def identity(name: str) -> dict[str, object]:
    """Return what must stay when nothing changes: processes by their pids, pods by address and namespace."""
    cluster = Cluster(name=name)
    found: dict[str, object] = {process.name: process.pid for process in cluster.noted()}
    return found | addresses(cluster) | {path.name: path.stat().st_ino for path in NETNS.glob(f"{name}-*")}


def shell(name: str, pod: str, text: str = "") -> tuple[int, str]:
    """Run a command in a pod's shell."""
    words = [sys.executable, "-m", "lab", "shell", pod, "--name", name]
    done = subprocess.run(words, cwd=ROOT, input=text, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_second_up_changes_nothing(name: str) -> None:
    """What is up and well is said to be so, with its pods; every process, pod and address stays."""
    before = identity(name)
    assert all(before.values())
    assert set(PODS) <= before.keys()
    status, printed = run("up", name)
    assert status == 0, printed
    assert "up already and well; nothing was changed" in printed
    assert all(f"{pod}: {before[pod]}" in printed for pod in PODS)
    assert identity(name) == before


def test_status_asks_every_agent(name: str) -> None:
    """What each agent holds, and that nothing is wrong."""
    status, printed = run("status", name)
    assert status == 0, printed
    assert all(f"host{number}: {{" in printed for number in (1, 2, 3))
    assert printed.endswith("nothing is wrong\n")


def test_a_shell_runs_in_its_pod(name: str) -> None:
    """A command on its standard input sees the pod's address, and reaches another pod; its exit status comes back."""
    known = addresses(Cluster(name=name))
    status, printed = shell(name, "pod2a", f"ip -6 addr show dev eth0; ping -6 -c 1 -W 2 {known['pod3b']}; exit 7\n")
    assert status == 7, printed
    assert f"{known['pod2a']}/128" in printed
    assert " 0% packet loss" in printed


@pytest.mark.parametrize("pod", ["pod9x", "host1", ""])
def test_a_shell_for_no_pod_names_those_that_are(name: str, pod: str) -> None:
    """A pod that is not there, something that is no pod, and none at all."""
    status, printed = shell(name, pod, "echo entered\n")
    assert status == 2
    assert ", ".join(PODS) in printed
    assert "entered" not in printed


def test_a_demo_beside_it_touches_nothing(name: str) -> None:
    """A demo from begin to end under a name of its own: the network that is up stays as it was, and well."""
    before = identity(name)
    other = f"b{os.getpid()}"
    status, story = run("demo", other)
    assert status == 0, story
    assert identity(name) == before
    assert faults(Cluster(name=name), patience=0) == []
    assert traces(other) == set()


def test_the_demo_has_a_name_of_its_own() -> None:
    """No namespace of the demo's network begins as those of `make up` do, and the other way round."""
    sources = "import lab.__main__ as m; print(*sorted(m.NAMES.values()))"
    names = subprocess.run([sys.executable, "-c", sources], cwd=ROOT, capture_output=True, text=True, check=True)
    one, other = names.stdout.split()
    assert not f"{one}-".startswith(f"{other}-")
    assert not f"{other}-".startswith(f"{one}-")


def test_two_commands_do_not_bring_one_network_up() -> None:
    """While one command is at work on a network, another says so and changes nothing."""
    other = f"w{os.getpid()}"
    first = Command("up", other)
    first.read_until("agents")
    for command in ("up", "down", "demo"):
        status, printed = run(command, other)
        assert status == 1
        assert f"another command brings network {other!r} up or down" in printed
    status, printed = first.end()
    assert status == 0, printed
    assert faults(Cluster(name=other), patience=0) == []
    assert run("down", other)[0] == 0
    assert traces(other) == set()


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        ("kill controller2", "controller2 does not run"),
        ("kill agent-host3", "agent-host3 does not run"),
        ("remove pod2b", "-pod2b is missing"),
        ("cut host2", "pod1a gets no answer from pod2a"),
    ],
)
def test_an_up_that_finds_half_a_network_says_what_is_broken_and_mends_it(name: str, harm: str, named: str) -> None:
    """Something is dead, gone or cut off: status and up name it, up builds the network anew."""
    verb, _, what = harm.partition(" ")
    cluster = Cluster(name=name)
    old = cluster.noted()[-1].pid
    match verb:
        case "kill":
            next(process for process in cluster.noted() if process.name == what).signal(signal.SIGKILL)
        case "remove":
            subprocess.run(["ip", "netns", "del", f"{name}-{what}"], check=True)
        case _:
            cluster.fabric.unplug(next(host for host in cluster.recall() if host.name == what))
    status, printed = run("status", name)
    assert status == 1
    assert named in printed
    status, printed = run("up", name)
    assert status == 0, printed
    assert "not whole" in printed
    assert named in printed
    assert faults(Cluster(name=name), patience=0) == []
    assert cluster.noted()[-1].pid != old


def test_down_and_down_again() -> None:
    """What is down stays down, said so, and is no error; status says what to do."""
    name = f"v{os.getpid()}"
    assert run("up", name)[0] == 0
    assert traces(name) != set()
    status, printed = run("down", name)
    assert (status, "nothing is left" in printed) == (0, True), printed
    assert traces(name) == set()
    assert run("down", name) == (0, f"network {name!r} is not up\n")
    assert run("status", name) == (1, f"network {name!r} is not up; run make up\n")
    status, printed = shell(name, "pod1a", "echo entered\n")
    assert (status, "make up" in printed, "entered" in printed) == (2, True, False)


@pytest.mark.parametrize("step", ["etcd with", "3 agents", "six pods", "pod2a on"])
def test_an_interrupted_up_leaves_nothing_behind(step: str) -> None:
    """Ctrl-C while the network comes up: it is all there or not at all."""
    name = f"x{os.getpid()}"
    command = Command("up", name)
    command.read_until(step)
    command.interrupt()
    status, printed = command.end()
    assert status == 130, printed
    assert traces(name) == set()
