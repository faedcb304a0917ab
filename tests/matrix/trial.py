# SPDX-License-Identifier: Apache-2.0
"""One row asked of one plugin in one cniVersion: pods, calls, and what must be true of the answers; for rows."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from tests.matrix.delegate import TYPE, Delegate
from tests.matrix.plugin import Daemon, Outcome, Place, Pod, Subject
from tests.matrix.row import Failed, NotAsked

_NUMBERS = itertools.count(1)
_PAUSE = 0.02


class Trial:
    """What a row works with; close() detaches and removes all of its pods."""

    def __init__(self, *, subject: Subject, version: str, supported: Sequence[str]) -> None:
        """Ask in `version`; `supported` is what the plugin's VERSION lists."""
        self.subject = subject
        self.version = version
        self.supported = tuple(supported)
        self._pods: list[Pod] = []
        self._results: dict[str, dict[str, Any]] = {}

    @property
    def place(self) -> Place:
        """The host."""
        return self.subject.place

    @property
    def daemon(self) -> Daemon:
        """The plugin's daemon; NotAsked if it has none."""
        if self.subject.daemon is None:
            raise NotAsked("the plugin has no daemon that could be away")
        return self.subject.daemon

    def close(self) -> None:
        """Detach whatever is attached, as a runtime would, and remove the namespaces."""
        for pod in self._pods:
            self.call("DEL", pod, config=self.previous(pod))
            if pod.netns != self.place.own:
                self.place.remove(pod.netns)

    # --- pods and calls ---

    def pod(self, *, name: str = "", own: bool = False) -> Pod:
        """Return a pod that is not attached; `name` is what CNI_ARGS say, `own` gives it the plugin's own namespace."""
        number = next(_NUMBERS)
        container = hashlib.sha256(f"{os.getpid()} {number}".encode()).hexdigest()
        pod = Pod(
            netns=self.place.own if own else self.place.make(),
            container_id=container,
            interface="matrix0" if own else "eth0",
            arguments=self.subject.arguments.format(name=name or f"pod-{number}"),
        )
        self._pods.append(pod)
        return pod

    def config(self, **members: object) -> dict[str, Any]:
        """Return the network configuration in this trial's version, with other members."""
        return {**self.subject.config, "cniVersion": self.version, **members}

    def call(
        self,
        command: str,
        pod: Pod | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        stdin: bytes | None = None,
        lacking: Collection[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Outcome:
        """Call the plugin; `environment` replaces variables, `lacking` names those that are not set."""
        words = {"CNI_PATH": self.subject.plugin.search_path, **(pod.environment if pod else {}), **(environment or {})}
        given = {name: value for name, value in words.items() if name not in lacking}
        text = json.dumps(self.config() if config is None else config).encode() if stdin is None else stdin
        return self.subject.plugin.call(command, given, text)

    def add(
        self, pod: Pod, *, config: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Attach a pod and return the result."""
        outcome = self.succeed("ADD", self.call("ADD", pod, config=config, environment=environment))
        try:
            result = outcome.tree()
        except ValueError as error:
            raise Failed(f"ADD printed no result: {error}; {outcome.words()}") from error
        self._results[pod.container_id] = result
        return result

    def previous(self, pod: Pod) -> dict[str, Any]:
        """Return the configuration with the pod's result, if there is one, as prevResult."""
        result = self._results.get(pod.container_id)
        return self.config() if result is None else self.config(prevResult=result)

    def delete(
        self,
        pod: Pod,
        what: str = "DEL",
        *,
        config: Mapping[str, Any] | None = None,
        lacking: Collection[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Detach a pod as a runtime does, but for what is given; it must succeed."""
        given = self.previous(pod) if config is None else config
        self.succeed(what, self.call("DEL", pod, config=given, lacking=lacking, environment=environment))

    def check(self, pod: Pod, what: str = "CHECK") -> Outcome:
        """See that CHECK finds the pod as it was made."""
        return self.succeed(what, self.call("CHECK", pod, config=self.previous(pod)))

    def collect(
        self, *pods: Pod, config: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None
    ) -> Outcome:
        """Collect garbage: all but the attachments of these pods, written as libcni writes them."""
        valid = [pod.attachment for pod in pods]
        lists = {"cni.dev/valid-attachments": valid, "cni.dev/attachments": valid}
        return self.call("GC", config={**(config or self.config()), **lists}, environment=environment)

    def delegate(self) -> Delegate:
        """Return a delegate that takes the place of the configuration's own; NotAsked if there is none."""
        if not isinstance(self.subject.config.get("ipam"), Mapping):
            raise NotAsked("the configuration names no delegate (ipam)")
        return Delegate(directory=self.subject.directory / "delegate", version=self.version)

    def delegating(self, delegate: Delegate) -> tuple[dict[str, Any], str]:
        """Return the configuration with that delegate, and the CNI_PATH where it is found."""
        return self.config(ipam={"type": TYPE}), f"{delegate.directory}:{self.subject.plugin.search_path}"

    # --- what must be true ---

    def succeed(self, what: str, outcome: Outcome) -> Outcome:
        """See that a call succeeded."""
        if outcome.exit_code:
            raise Failed(f"{what} failed: {outcome.words()}")
        return outcome

    def refuse(self, what: str, outcome: Outcome, *codes: int) -> dict[str, Any]:
        """See that a call failed, with one of these codes if there are any; return the error object."""
        if not outcome.exit_code:
            raise Failed(f"{what} succeeded")
        error = outcome.error()
        if not error:
            raise Failed(f"{what} gave no error object: {outcome.words()}")
        if codes and error["code"] not in codes:
            raise Failed(f"{what} gave {outcome.words()}, not code {' or '.join(map(str, codes))}")
        return error

    def attached(self, pod: Pod) -> bool:
        """Tell whether the pod's namespace has the pod's interface."""
        return pod.interface in self.place.links(pod.netns)

    def traces(self) -> frozenset[str]:
        """Return what the host has now and keeps: a file on its way to be renamed (*.tmp) soon has another name."""
        return frozenset(trace for trace in self._present() if not trace.endswith(".tmp"))

    def _present(self) -> frozenset[str]:
        return self.place.traces([pod.container_id for pod in self._pods])

    def gone(self, what: str, before: frozenset[str]) -> None:
        """See that the host comes back to what it had before: nothing left, nothing more taken."""

        def difference() -> str:
            now = self._present()
            left, taken = sorted(now - before), sorted(before - now)
            return "; ".join(
                f"{word} {', '.join(items)}" for word, items in (("left:", left), ("taken too:", taken)) if items
            )

        deadline = time.monotonic() + self.subject.patience
        while said := difference():
            if time.monotonic() > deadline:
                raise Failed(f"{what}: {said}")
            time.sleep(_PAUSE)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Stop the daemon for the block."""
        daemon = self.daemon
        daemon.stop()
        try:
            yield
        finally:
            daemon.start()

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """Freeze the daemon for the block."""
        daemon = self.daemon
        daemon.freeze()
        try:
            yield
        finally:
            daemon.thaw()
