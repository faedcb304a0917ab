# SPDX-License-Identifier: Apache-2.0
"""The plugin without executable and kernel: cni.plugin and the agent's endpoints in process, files as namespaces."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.assembly import Assembly
from agent.core.network import InterfaceExists, NotWired, PodLink, WiredPod
from agent.core.status import Status
from agent.endpoint_table import EndpointTable
from agent.endpoints import Endpoints
from agent.publications import Publications
from agent.releases import Releases
from agent.reserve import Reserve
from cni import plugin
from cni.plugin import Network, namespace_inode
from tests.fakes import (
    NODE_ADDRESS,
    REGISTRATION,
    FakeController,
    FakeDatapath,
    FakeRecords,
    FakeTimings,
    FakeWiring,
)
from tests.matrix.plugin import Link, Outcome

_SECONDS = 60.0
_PAUSE = 0.05


class FakeKernel(FakeWiring):
    """Pairs of links with one end in a namespace, which is known by inode."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: dict[int, dict[str, Link]] = {}
        self.routed: set[int] = set()
        """Namespaces that have their routes."""

        self._ends: dict[str, tuple[int, str]] = {}
        """Host link -> where its other end is."""

    def wire(self, pod: PodLink, netns_fd: int) -> WiredPod:
        end = (os.fstat(netns_fd).st_ino, pod.interface)
        if self._ends.get(pod.host_name) != end:
            if pod.interface in self.inside[end[0]]:
                raise InterfaceExists(f"interface {pod.interface!r} exists in the pod's namespace")
            self._ends[pod.host_name] = end
            link = Link(pod.pod_mac.hex(":"), pod.mtu, frozenset({f"{pod.address}/128"}))
            self.inside[end[0]][pod.interface] = link
            self.routed.add(end[0])
        return super().wire(pod, netns_fd)

    def check(self, pod: PodLink, netns_fd: int) -> WiredPod:
        wired = super().check(pod, netns_fd)
        inode, interface = os.fstat(netns_fd).st_ino, pod.interface
        link = self.inside[inode].get(interface)
        if self._ends.get(pod.host_name) != (inode, interface) or link is None or inode not in self.routed:
            raise NotWired(f"{interface} is not as it was made: {link}")
        if f"{pod.address}/128" not in link.addresses:
            raise NotWired(f"{interface} lacks {pod.address}")
        return wired

    def unwire(self, host_name: str) -> None:
        super().unwire(host_name)
        inode, interface = self._ends.pop(host_name, (0, ""))
        self.inside.get(inode, {}).pop(interface, None)

    def remove(self, inode: int, interface: str = "") -> None:
        """Remove an interface, or a namespace with all in it; the other ends of pairs go too."""
        for name, end in list(self._ends.items()):
            if end == (inode, interface or end[1]):
                self.unwire(name)
        if interface:
            self.inside[inode].pop(interface, None)
        else:
            del self.inside[inode]


class FakePlace:
    """Namespaces as empty files; implements tests.matrix.plugin.Place."""

    own = "/proc/self/ns/net"

    def __init__(self, *, directory: Path, kernel: FakeKernel, kept: Sequence[Mapping[Any, object]]) -> None:
        """Take what holds the namespaces, and whatever else the agent keeps of pods."""
        self._directory = directory
        self._kernel = kernel
        self._kept = kept
        self._numbers = itertools.count(1)

    def make(self) -> str:
        file = self._directory / f"pod{next(self._numbers)}"
        file.touch()
        self._kernel.inside[file.stat().st_ino] = {}
        return str(file)

    def remove(self, netns: str) -> None:
        file = Path(netns)
        if file.exists():
            self._kernel.remove(file.stat().st_ino)
            file.unlink()

    def links(self, netns: str) -> Mapping[str, Link]:
        return self._kernel.inside[Path(netns).stat().st_ino]

    def add_link(self, netns: str, name: str, address: str = "") -> None:
        addresses = frozenset({address} if address else ())
        self._inside(netns)[name] = Link("02:00:00:00:00:09", 1500, addresses)

    def remove_link(self, netns: str, name: str) -> None:
        self._kernel.remove(Path(netns).stat().st_ino, name)

    def remove_address(self, netns: str, name: str, address: str) -> None:
        link = self._inside(netns)[name]
        self._inside(netns)[name] = replace(link, addresses=link.addresses - {address})

    def remove_routes(self, netns: str) -> None:
        self._kernel.routed.discard(Path(netns).stat().st_ino)

    def traces(self, containers: Collection[str]) -> frozenset[str]:
        assert containers is not None
        return frozenset(str(key) for kept in (self._kernel.pods, *self._kept) for key in kept)

    def _inside(self, netns: str) -> dict[str, Link]:
        return self._kernel.inside[Path(netns).stat().st_ino]


class InProcess:
    """The Python logic alone, on an event loop of its own; implements tests.matrix.plugin.Plugin."""

    is_process = False
    search_path = "/opt/cni/bin"

    def __init__(self, *, network: Network, kernel: FakeKernel, releases: Releases) -> None:
        self._network = network
        self._kernel = kernel
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="plugin")
        self._thread.start()
        self._releasing = asyncio.run_coroutine_threadsafe(_background(releases), self._loop).result(_SECONDS)

    def close(self) -> None:
        """End the loop."""
        asyncio.run_coroutine_threadsafe(_cancelled(self._releasing), self._loop).result(_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def call(self, command: str, environment: Mapping[str, str], stdin: bytes) -> Outcome:
        """Open the namespace as the executable does, and ask the plugin."""
        words = {**environment, "CNI_COMMAND": command}
        descriptor = None
        with contextlib.suppress(OSError):
            descriptor = os.open(environment.get("CNI_NETNS", ""), os.O_RDONLY | os.O_CLOEXEC)
        try:
            run = plugin.run(words, stdin, descriptor, self._network, inode=self._inode)
            reply = asyncio.run_coroutine_threadsafe(run, self._loop).result(_SECONDS)
        finally:
            if descriptor is not None:
                os.close(descriptor)
        return Outcome(exit_code=reply.exit_code, stdout=reply.stdout)

    def _inode(self, descriptor: int) -> int:
        inode = os.fstat(descriptor).st_ino
        return inode if inode in self._kernel.inside else namespace_inode(descriptor)


async def _background(releases: Releases) -> asyncio.Task[None]:
    return asyncio.create_task(releases.run(_PAUSE))


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def in_process(directory: Path, pool: ThreadPoolExecutor) -> tuple[InProcess, FakePlace]:
    """Return a node's plugin that serves, and the place that it works in."""
    kernel, controller, datapath, records = FakeKernel(), FakeController(), FakeDatapath(), FakeRecords()
    status = Status()
    status.registered(REGISTRATION)
    status.host_ready(mtu=1500)
    table = EndpointTable(records=records, pool=pool)
    reserve = Reserve(controller=controller, records=FakeRecords(), table=table, status=status, size=0, pool=pool)
    publications = Publications(controller=controller, table=table, status=status)
    releases = Releases(
        controller=controller,
        table=table,
        status=status,
        settled=publications.settled,
        forget=reserve.forget,
    )
    assembly = Assembly(
        address=NODE_ADDRESS,
        controller=controller,
        datapath=datapath,
        wiring=kernel,
        table=table,
        releases=releases,
        reserve=reserve,
        ipv4=None,
        timings=FakeTimings(),
        pool=pool,
        wire_pool=pool,
    )
    network = Endpoints(
        address=NODE_ADDRESS,
        assembly=assembly,
        datapath=datapath,
        wiring=kernel,
        table=table,
        publications=publications,
        releases=releases,
        status=status,
        pool=pool,
        forget_queued=lambda *_: None,
    )
    kept = (controller.holders, datapath.endpoints, records.files)
    made = InProcess(network=network, kernel=kernel, releases=releases)
    return made, FakePlace(directory=directory, kernel=kernel, kept=kept)
