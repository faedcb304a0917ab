# SPDX-License-Identifier: Apache-2.0
"""kill -9 of containerd or of the agent in the middle of ADD and of DEL; then what the kubelet does, and no leak.

Each row of kills has to have met its call at least once: see struck().
"""

from __future__ import annotations

import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from lab.cri import CriError
from lab.process import Process
from tests.cri.conftest import Site
from tests.cri.moments import Calls

MOMENTS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.1, None)
"""When to strike: parts of the time that the executable usually takes, from its start; None: the agent has just come
to the pod's record, whenever that is."""

_SAMPLES = 5


@pytest.fixture
def calls(site: Site) -> Iterator[Calls]:
    """Yield the watch on the first host's executable."""
    executable = site.kubelets[0].runtime.bin_dir / "ilanet"
    with Calls(executable, site.cluster.state(site.hosts[0]) / "endpoints") as watched:
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


def agent(site: Site) -> list[Process]:
    return [site.cluster.agents[site.hosts[0].name]]


def containerd(site: Site) -> list[Process]:
    site.lost_shims = True
    return [site.kubelets[0].runtime]


def both(site: Site) -> list[Process]:
    return agent(site) + containerd(site)


def start(site: Site) -> None:
    """Start what was killed."""
    if not site.cluster.agents[site.hosts[0].name].pid:
        site.restart_agent()
    if not site.kubelets[0].runtime.pid:
        site.restart_containerd()


def struck(site: Site, calls: Calls, pause: float | None, victims: list[Process], work: Callable[[], object]) -> bool:
    """Do `work`, which may fail, kill `pause` seconds after it has called the executable; tell if that met the call.

    It has if the executable still ran when the signals were sent, and nobody has done what was asked: the runtime says
    so, or the executable has kept a DEL for the agent that is gone.
    """
    errors: list[CriError] = []

    def body() -> None:
        try:
            work()
        except CriError as error:
            errors.append(error)
            print(f"the runtime said: {error}")

    queue = site.cluster.queue(site.hosts[0])
    queued = set(queue.glob("*"))
    calls.forget()
    thread = threading.Thread(target=body)
    thread.start()
    calls.begin()
    if pause is None:
        calls.change()
    else:
        time.sleep(pause)
    for process in victims:
        process.signal(signal.SIGKILL)
    pending = calls.pending()
    for process in victims:
        process.kill()
    thread.join()
    return pending and bool(errors or set(queue.glob("*")) - queued)


def met_some(met: list[bool]) -> None:
    """Assert that of a row of kills one at least was in the middle of its call."""
    print("met the call at", [moment for moment, true in zip(MOMENTS, met, strict=True) if true])
    assert any(met)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("victims", [agent, containerd, both])
def test_killed_in_the_middle_of_an_add(site: Site, calls: Calls, victims: Callable[[Site], list[Process]]) -> None:
    """At nine moments of an ADD: the kubelet's next sandbox of the pod works, its end leaves nothing."""
    kubelet, there = site.kubelets
    add, _ = durations(site, calls)
    other = there.pod("other")
    client = there.serve(other, there.run(other))
    met = []
    for number, moment in enumerate(MOMENTS):
        pod = kubelet.pod(f"added{number}")
        pause = None if moment is None else add * moment
        met.append(struck(site, calls, pause, victims(site), partial(kubelet.runtime.cri.run_sandbox, pod)))
        start(site)
        sandbox = kubelet.run(pod)
        site.ledger.settled(pods=2)
        kubelet.serve(pod, sandbox)
        assert there.fetch(client, kubelet.runtime.cri.address(sandbox)) == pod.name
        kubelet.remove(pod)
        site.ledger.settled(pods=1)
    there.remove(other)
    site.ledger.settled(pods=0)
    met_some(met)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("victims", [agent, containerd, both])
def test_killed_in_the_middle_of_a_del(site: Site, calls: Calls, victims: Callable[[Site], list[Process]]) -> None:
    """At nine moments of a DEL: the kubelet's next try ends the pod, nothing is left, and its name can run again."""
    kubelet = site.kubelets[0]
    _, delete = durations(site, calls)
    met = []
    for number, moment in enumerate(MOMENTS):
        pod = kubelet.pod(f"deleted{number}")
        sandbox = kubelet.run(pod)
        pause = None if moment is None else delete * moment
        met.append(struck(site, calls, pause, victims(site), partial(kubelet.runtime.cri.stop_sandbox, sandbox)))
        start(site)
        kubelet.remove(pod)
        site.ledger.settled(pods=0)
        kubelet.run(pod)
        kubelet.remove(pod)
        site.ledger.settled(pods=0)
    met_some(met)
