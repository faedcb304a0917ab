# SPDX-License-Identifier: Apache-2.0
"""Pods that come and go on one host, as a kubelet makes them: tried again while the answer is 'later'."""

from __future__ import annotations

import contextlib
import ipaddress
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from agent.core.datapath import DatapathError
from agent.kernel.bpf_map import Map
from lab.cluster import Cluster
from lab.fabric import Host
from lab.faults.traffic import Tcp, ask, patient, tcp
from lab.namespace import CommandError, Namespace
from lab.runtime import CniError, Pod

PATIENCE = 90.0
"""Seconds until a pod that is refused again and again, or reaches nobody, counts as failed."""

RETRY = 0.1
"""Seconds between two tries of one call."""

TRY_AGAIN = 11

Address = Callable[[], str]
"""Of a pod that may be made anew meanwhile."""


@dataclass
class Tally:
    """What became of the pods since somebody last asked."""

    pods: int = 0
    retries: int = 0
    resets: int = 0
    """That a pod has seen and ended by."""

    tcp: Tcp = Tcp()
    """Of the pods that ended well."""

    failures: list[str] = field(default_factory=list)


class Abandoned(Exception):  # noqa: N818 - says what happened
    """The node has lost its power while a pod was at work."""


class Churn:
    """One pod after the other on a host: ADD, traffic to this host and to another, DEL."""

    def __init__(self, cluster: Cluster, host: Host, *, near: Address, far: tuple[Host, Address], pause: float) -> None:
        """Take the addresses of a pod here and of one on another host, and seconds between two pods."""
        self.codes = {TRY_AGAIN}
        """Codes after which the runtime tries again; a fault may add to them."""

        self._cluster = cluster
        self._host = host
        self._near = near
        self._far = far
        self._pause = pause
        self._number = 0
        self._tally = Tally()
        self._lock = threading.Lock()
        self._talk = threading.Lock()
        """Held while a connection is open: the power may go at any other moment, or its other end would send again."""

        self._go = threading.Event()
        self._idle = threading.Event()
        self._end = threading.Event()
        self._off = threading.Event()
        self._left: Pod | None = None
        self._idle.set()
        self._thread = threading.Thread(target=self._run, name=f"churn-{host.name}", daemon=True)
        self._thread.start()

    # --- what the driver asks ---

    def begin(self) -> None:
        """Make pods come and go."""
        self._idle.clear()
        self._go.set()

    def rest(self) -> None:
        """Begin no pod any more; return when the last one is gone."""
        self._go.clear()
        if not self._idle.wait(2 * PATIENCE + 60):
            with self._lock:
                self._tally.failures.append(f"the last pod of {self._host.name} does not end")

    def lose_power(self) -> None:
        """Leave everything as it is from now on, but for a connection: whatever fails is nobody's fault."""
        with self._talk:
            self._off.set()
        self._go.clear()

    def left(self) -> Pod | None:
        """Return the pod that was at work when the power went, if there was one."""
        self._idle.wait(2 * PATIENCE)
        pod, self._left = self._left, None
        self._off.clear()
        return pod

    def tally(self) -> Tally:
        """Say what became of the pods since this was last asked."""
        with self._lock:
            found, self._tally = self._tally, Tally()
        return found

    def close(self) -> None:
        """End for good; the pod at work is left to whoever removes the cluster."""
        self._end.set()
        self._off.set()
        self._go.set()
        self._thread.join(PATIENCE)

    # --- the life of a pod ---

    def _run(self) -> None:
        while not self._end.is_set():
            if not self._go.is_set():
                self._idle.set()
                self._go.wait()
                continue
            self._idle.clear()
            self._one()
            self._end.wait(self._pause)

    def _one(self) -> None:
        self._number += 1
        pod = self._make(f"churn{self._host.number}-{self._number}")
        try:
            self._again(pod.add, pod)
            self._ask(pod, self._near)
            self._until_mapped(pod)
            self._ask(pod, self._far[1])
            self._again(pod.delete)
            counters = tcp(pod.namespace)
            pod.namespace.close()
            with self._lock:
                self._tally.pods += 1
                self._tally.tcp += counters
        except Abandoned:
            self._left = pod
        except (CniError, CommandError, DatapathError, OSError) as error:
            if self._off.is_set():
                self._left = pod
                return
            with self._lock:
                self._tally.resets += isinstance(error, ConnectionResetError)
                self._tally.failures.append(f"pod {pod.name}: {type(error).__name__}: {error}")
            with contextlib.suppress(CniError, CommandError, OSError):
                pod.delete()
            pod.namespace.close()

    def _ask(self, pod: Pod, address: Address) -> None:
        with self._talk:
            if self._off.is_set():
                raise Abandoned
            ask(pod.namespace, address())

    def _make(self, name: str) -> Pod:
        cluster = self._cluster
        pod = Pod(
            namespace=Namespace.create(f"{cluster.name}-{name}"),
            name=name,
            uid=f"uid-{name}",
            container_id=f"{cluster.name}-{name}",
            socket=cluster.socket(self._host),
            queue=cluster.queue(self._host),
        )
        patient(pod.namespace)
        return pod

    def _again(self, call: Callable[[], None], failed: Pod | None = None) -> None:
        """Call until it succeeds; what has failed for another reason than 'later' is deleted before the next try."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                call()
                return
            except CniError as error:
                if self._off.is_set():
                    raise Abandoned from error
                if error.code not in self.codes or time.monotonic() > deadline:
                    raise
                if failed is not None and error.code != TRY_AGAIN:
                    self._again(failed.delete)
            with self._lock:
                self._tally.retries += 1
            time.sleep(RETRY)

    def _until_mapped(self, pod: Pod) -> None:
        """Wait until the other host's kernel knows the pod."""
        host = self._far[0]
        key = ipaddress.IPv6Address(pod.address).packed[8:]
        deadline = time.monotonic() + PATIENCE
        while not mapped(self._cluster.bpffs(host), key):
            if self._off.is_set():
                raise Abandoned
            if time.monotonic() > deadline:
                raise CommandError(f"{host.name} does not hear of {pod.address}")
            time.sleep(0.02)


def mapped(bpffs: Path, identifier: bytes) -> bool:
    """Tell whether the kernel's map of a host has a mapping; not while its bpffs is away."""
    try:
        with Map.pinned(bpffs / "ilanet/maps/mappings") as mappings:
            return mappings.get(identifier) is not None
    except DatapathError:
        return False
