# SPDX-License-Identifier: Apache-2.0
"""Events about pods and nodes: queued, written one after the other, and never twice within a while."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

from controller.core.kubernetes import Kubernetes, KubernetesError, NodeFacts
from controller.core.pods import PodFacts

log = logging.getLogger("controller.events")

_WAITING = 1000
"""Most Events that wait for the API server; more are dropped, the log has them."""

_AGAIN = 300.0
"""Seconds after which the same is written again."""

Said = tuple[str, str, str]


class Events:
    """Tells people through Kubernetes; run() writes."""

    def __init__(self, *, kubernetes: Kubernetes, reporter: str) -> None:
        """Take the name of this controller, which every Event names."""
        self._kubernetes = kubernetes
        self._reporter = reporter
        self._queue: asyncio.Queue[tuple[Mapping[str, str], str, str, bool]] = asyncio.Queue(_WAITING)
        self._said: dict[Said, float] = {}

    def about_pod(self, pod: PodFacts, *, reason: str, message: str) -> None:
        """Warn about a pod."""
        about = {"kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid}
        self._put(about, reason, message, warning=True)

    def about_node(self, node: NodeFacts, *, reason: str, message: str, warning: bool) -> None:
        """Tell something about a node; its kubelet's Events have its name as uid, and so have these."""
        about = {"kind": "Node", "name": node.name, "uid": node.name}
        self._put(about, reason, message, warning=warning)

    def about_us(self, namespace: str, pod: str, *, reason: str, message: str) -> None:
        """Warn about something that is no object's fault, at this controller's own pod."""
        self._put({"kind": "Pod", "namespace": namespace, "name": pod}, reason, message, warning=True)

    async def run(self) -> None:
        """Write for ever what was put in."""
        while True:
            await self._write(*await self._queue.get())

    async def flush(self) -> None:
        """Write what still waits, before an end."""
        while not self._queue.empty():
            await self._write(*self._queue.get_nowait())

    async def _write(self, about: Mapping[str, str], reason: str, message: str, warning: bool) -> None:  # noqa: FBT001
        try:
            await self._kubernetes.event(
                about, reason=reason, message=message, warning=warning, reporter=self._reporter
            )
        except KubernetesError as error:
            log.warning("no event %s about %s: %s", reason, about["name"], error)

    def _put(self, about: Mapping[str, str], reason: str, message: str, *, warning: bool) -> None:
        now = time.monotonic()
        self._said = {said: when for said, when in self._said.items() if now - when < _AGAIN}
        key = (f"{about['kind']}/{about.get('namespace', '')}/{about['name']}", reason, message)
        if key in self._said:
            return
        self._said[key] = now
        log.info("event %s about %s: %s", reason, key[0], message, extra=_fields(about))
        try:
            self._queue.put_nowait((about, reason, message, warning))
        except asyncio.QueueFull:
            log.warning("event %s about %s is not written: %s events wait already", reason, key[0], _WAITING)


def _fields(about: Mapping[str, str]) -> dict[str, str]:
    """Return what a log line about an object is about (ila/log.py)."""
    if about["kind"] == "Node":
        return {"node": about["name"]}
    return {"pod": f"{about['namespace']}/{about['name']}"}
