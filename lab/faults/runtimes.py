# SPDX-License-Identifier: Apache-2.0
"""The kinds of fault that meet a container runtime: a real containerd on a host, harmed while pods start and end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from lab.containerd import Containerd
from lab.cri import CriError, PodSetting
from lab.faults.kind import kind
from lab.faults.kinds import frozen
from lab.faults.stage import Stage
from lab.kubelet import Kubelet

PODS = 4
"""Pods that start and end, one after the other, at the same time."""


@contextmanager
def _at_work(stage: Stage) -> Iterator[Kubelet]:
    """Start a containerd, and make pods come and go on it; in the end every pod is gone."""
    runtime = Containerd(stage.cluster, stage.any_host())
    enough = threading.Event()
    try:
        runtime.start_ready()
        kubelet = Kubelet(runtime)
        with ThreadPoolExecutor(PODS) as pool:
            lives = [pool.submit(_live, kubelet, kubelet.pod(f"cri{number}"), enough) for number in range(PODS)]
            stage.hold(stage.random.uniform(0.0, 0.6))
            try:
                yield kubelet
            finally:
                enough.set()
            for life in lives:
                life.result()
        kubelet.remove_all()
    finally:
        runtime.close()


def _live(kubelet: Kubelet, pod: PodSetting, enough: threading.Event) -> None:
    """Run and remove a pod again and again; CriError names it."""
    try:
        while not enough.is_set():
            kubelet.run(pod)
            kubelet.remove(pod)
    except CriError as error:
        raise CriError(f"pod {pod.name}: {error}", away=error.away) from error


@kind("containerd kill")
def containerd_kill(stage: Stage) -> Iterator[None]:
    """Kill containerd in the middle of what it does."""
    with _at_work(stage) as kubelet:
        kubelet.runtime.kill()
        yield
        kubelet.runtime.start_ready()


@kind("containerd freeze")
def containerd_freeze(stage: Stage) -> Iterator[None]:
    """Freeze containerd in the middle of what it does."""
    with _at_work(stage) as kubelet, frozen(kubelet.runtime):
        yield
