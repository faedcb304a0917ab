# SPDX-License-Identifier: Apache-2.0
"""A node's pods as a kubelet keeps them: tries again until a pod runs, or is gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from lab.containerd import Containerd
from lab.cri import CriError, PodSetting, Sandbox

PATIENCE = 60.0
"""Seconds until a try must have worked; the real kubelet goes on for ever."""

_PAUSE = 0.1

_LISTENS = "until grep -q ':1F90 .* 0A ' /proc/net/tcp6; do sleep 0.02; done"
"""Returns once a socket of TCP port 8080 listens: a container that has started has not got so far yet."""

T = TypeVar("T")


class Kubelet:
    """Knows pods by their uid; every call repeats what fails, as the kubelet's next round would."""

    def __init__(self, runtime: Containerd) -> None:
        self.runtime = runtime
        self.refusals: list[str] = []
        """What went wrong on the way."""

    def pod(self, name: str, *, uid: str = "", annotations: Mapping[str, str] | None = None) -> PodSetting:
        """Return what is said of a pod called `name`."""
        cgroup = self.runtime.machine.cgroup
        return PodSetting(name=name, uid=uid or f"uid-{name}", cgroup=cgroup, annotations=dict(annotations or {}))

    def sandboxes(self, pod: PodSetting) -> list[Sandbox]:
        """Return the sandboxes of a pod, the newest first."""
        mine = [sandbox for sandbox in self.runtime.cri.sandboxes() if sandbox.uid == pod.uid]
        return sorted(mine, key=lambda sandbox: sandbox.attempt, reverse=True)

    def run(self, pod: PodSetting) -> str:
        """Return the one sandbox of a pod that is ready, after stopping and removing what is not."""
        return self._again(lambda: self._run(pod))

    def remove(self, *pods: PodSetting) -> None:
        """Stop and remove every sandbox of these pods."""
        for pod in pods:
            self._again(lambda: self._remove(self.sandboxes(pod)))  # noqa: B023 - runs before the next pod

    def remove_all(self) -> None:
        """Stop and remove every sandbox of the node."""
        self._again(lambda: self._remove(self.runtime.cri.sandboxes()))

    def serve(self, pod: PodSetting, sandbox: str) -> str:
        """Start the pod's container, which says its own name over HTTP; return its id once it listens."""
        command = ["sh", "-c", "hostname >/www/index.html; exec httpd -f -p 8080 -h /www"]
        container = self.runtime.cri.run_container(pod, sandbox, command)
        self.runtime.cri.execute(container, "sh", "-c", _LISTENS)
        return container

    def fetch(self, container: str, address: str) -> str:
        """Return what is served at an address, asked from inside a container; '' if nothing answers."""
        request = rf"printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 5 {address} 8080"
        head, _, body = self.runtime.cri.execute(container, "sh", "-c", request).output.partition("\r\n\r\n")
        return body.strip() if " 200 " in head else ""

    def _run(self, pod: PodSetting) -> str:
        sandboxes = self.sandboxes(pod)
        ready = [sandbox.id for sandbox in sandboxes if sandbox.ready]
        if not ready:
            for sandbox in sandboxes:
                self.runtime.cri.stop_sandbox(sandbox.id)
            attempt = max((sandbox.attempt + 1 for sandbox in sandboxes), default=0)
            ready = [self.runtime.cri.run_sandbox(pod, attempt)]
        self._remove([sandbox for sandbox in sandboxes if sandbox.id != ready[0]])
        return ready[0]

    def _remove(self, sandboxes: Sequence[Sandbox]) -> None:
        for sandbox in sandboxes:
            self.runtime.cri.stop_sandbox(sandbox.id)
            self.runtime.cri.remove_sandbox(sandbox.id)

    def _again(self, work: Callable[[], T]) -> T:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return work()
            except CriError as error:
                self.refusals.append(str(error))
                if time.monotonic() > deadline:
                    raise
            time.sleep(_PAUSE)
