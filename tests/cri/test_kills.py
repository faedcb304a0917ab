# SPDX-License-Identifier: Apache-2.0
"""kill -9 of containerd or of the agent in the middle of ADD and of DEL; then what the kubelet does, and no leak."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from lab.cri import CriError
from tests.cri.conftest import Site
from tests.cri.moments import Calls

MOMENTS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.1)
"""When to strike: parts of the time that the executable usually takes, from its start."""

_SAMPLES = 5

T = TypeVar("T")


@pytest.fixture
def calls(site: Site) -> Iterator[Calls]:
    """Yield the watch on the first host's executable."""
    with Calls(site.kubelets[0].runtime.bin_dir / "ilanet") as watched:
        yield watched


def durations(site: Site, calls: Calls) -> tuple[float, float]:
    """Return the usual seconds of an ADD and of a DEL."""
    kubelet = site.kubelets[0]
    adds: list[float] = []
    deletes: list[float] = []
    for number in range(_SAMPLES):
        pod = kubelet.pod(f"sample{number}")
        for work, seconds in ((kubelet.run, adds), (kubelet.remove, deletes)):
            calls.forget()
            thread = threading.Thread(target=work, args=(pod,))
            thread.start()
            begin = calls.begin()
            seconds.append(calls.end() - begin)
            thread.join()
    return statistics.median(adds), statistics.median(deletes)


def kill_containerd(site: Site) -> None:
    site.lost_shims = True
    site.kubelets[0].runtime.kill()


def kill_agent(site: Site) -> None:
    site.cluster.agents[site.hosts[0].name].kill()


def kill_both(site: Site) -> None:
    kill_agent(site)
    kill_containerd(site)


def start(site: Site) -> None:
    """Start what was killed."""
    if not site.cluster.agents[site.hosts[0].name].pid:
        site.restart_agent()
    if not site.kubelets[0].runtime.pid:
        site.restart_containerd()


def struck(calls: Calls, pause: float, kill: Callable[[], None], work: Callable[[T], object], subject: T) -> None:
    """Do `work`, which may fail, and kill `pause` seconds after it has called the executable."""

    def body() -> None:
        try:
            work(subject)
        except CriError as error:
            print(f"the runtime said: {error}")

    calls.forget()
    thread = threading.Thread(target=body)
    thread.start()
    calls.begin()
    time.sleep(pause)
    kill()
    thread.join()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kill", [kill_agent, kill_containerd, kill_both])
def test_killed_in_the_middle_of_an_add(site: Site, calls: Calls, kill: Callable[[Site], None]) -> None:
    """At eight moments of an ADD: the kubelet's next sandbox of the pod works, its end leaves nothing."""
    kubelet, there = site.kubelets
    add, _ = durations(site, calls)
    other = there.pod("other")
    client = there.serve(other, there.run(other))
    for number, moment in enumerate(MOMENTS):
        pod = kubelet.pod(f"added{number}")
        struck(calls, add * moment, lambda: kill(site), kubelet.runtime.cri.run_sandbox, pod)
        start(site)
        sandbox = kubelet.run(pod)
        site.ledger.settled(pods=2)
        kubelet.serve(pod, sandbox)
        assert there.fetch(client, kubelet.runtime.cri.address(sandbox)) == pod.name
        kubelet.remove(pod)
        site.ledger.settled(pods=1)
    there.remove(other)
    site.ledger.settled(pods=0)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kill", [kill_agent, kill_containerd, kill_both])
def test_killed_in_the_middle_of_a_del(site: Site, calls: Calls, kill: Callable[[Site], None]) -> None:
    """At eight moments of a DEL: the kubelet's next try ends the pod, nothing is left, and its name can run again."""
    kubelet = site.kubelets[0]
    _, delete = durations(site, calls)
    for number, moment in enumerate(MOMENTS):
        pod = kubelet.pod(f"deleted{number}")
        sandbox = kubelet.run(pod)
        struck(calls, delete * moment, lambda: kill(site), kubelet.runtime.cri.stop_sandbox, sandbox)
        start(site)
        kubelet.remove(pod)
        site.ledger.settled(pods=0)
        kubelet.run(pod)
        kubelet.remove(pod)
        site.ledger.settled(pods=0)
