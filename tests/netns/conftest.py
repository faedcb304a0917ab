# SPDX-License-Identifier: Apache-2.0
"""Clusters of real processes for the tests of this folder: each variant is brought up once, and always removed."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from agent.kernel.namespace import in_namespace
from lab.cluster import Cluster
from lab.fabric import Host, Shape
from lab.namespace import CommandError, Namespace
from lab.runtime import Pod

TRAFFIC = str(Path(__file__).parent.parent.parent / "build/traffic")

T = TypeVar("T")

_NUMBERS = itertools.count(1)


@dataclass
class Net:
    """A cluster with two pods on each of its first two hosts and one on the third."""

    cluster: Cluster
    shape: Shape
    host_path: str

    @property
    def hosts(self) -> list[Host]:
        return self.cluster.hosts

    def pod(self, name: str) -> Pod:
        return self.cluster.pods[name]

    @property
    def pairs(self) -> list[tuple[Pod, Pod]]:
        """Pods of one host, of neighbouring hosts in both directions, and across the third."""
        names = [("a1", "a2"), ("a1", "b1"), ("b2", "a2"), ("c1", "b1"), ("a2", "c1")]
        return [(self.pod(one), self.pod(other)) for one, other in names]

    @contextlib.contextmanager
    def counted(self, host: Host, hook: str, verdict: str, *, at_least: int = 1) -> Iterator[None]:
        """Assert that a verdict's counter rises by at least so many packets during the block."""
        before = self.cluster.verdicts(host)[hook, verdict]
        yield
        rise = self.cluster.verdicts(host)[hook, verdict] - before
        assert rise >= at_least, f"{host.name} {hook}/{verdict} rose by {rise}"


@contextlib.contextmanager
def built(shape: Shape, host_path: str, **settings: object) -> Iterator[Net]:
    """Bring a cluster with its five pods up, and remove it whatever happens."""
    cluster = Cluster(
        name=f"t{os.getpid()}-{next(_NUMBERS)}",
        shape=shape,
        agent_settings={"host_path": host_path, "epoch_grace": 5, **settings},
    )
    try:
        cluster.start()
        for name, number in (("a1", 0), ("a2", 0), ("b1", 1), ("b2", 1), ("c1", 2)):
            cluster.pod(name, cluster.hosts[number])
        yield Net(cluster, shape, host_path)
    finally:
        cluster.close()
        assert cluster.leftovers() == []


@pytest.fixture(scope="session", params=["routed-stack", "routed-bpf", "layer2-stack", "layer2-bpf"])
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    """Yield each shape of the underlay with each way through a host."""
    shape, _, host_path = request.param.partition("-")
    with built(Shape(shape), host_path) as found:
        yield found


@pytest.fixture(scope="session", params=["stack", "bpf"])
def routed(request: pytest.FixtureRequest) -> Iterator[Net]:
    """Yield a routed underlay, with each way through a host."""
    with built(Shape.ROUTED, request.param) as found:
        yield found


@pytest.fixture(scope="session", params=["routed", "layer2"])
def stack(request: pytest.FixtureRequest) -> Iterator[Net]:
    """Yield each shape of the underlay, with packets going through the host's stack."""
    with built(Shape(request.param), "stack") as found:
        yield found


def inside(namespace: Namespace, make: Callable[[], T]) -> T:
    """Return what `make` returns, run inside a namespace."""
    with namespace.path.open("rb") as file:
        return in_namespace(file.fileno(), make)


def listen(namespace: Namespace, address: str, port: int) -> socket.socket:
    listener = inside(namespace, lambda: socket.create_server((address, port), family=socket.AF_INET6))
    listener.settimeout(5)
    return listener


def connect(namespace: Namespace, address: str, port: int, timeout: float = 5) -> socket.socket:
    return inside(namespace, lambda: socket.create_connection((address, port), timeout=timeout))


def greet(
    client: Namespace, server: Namespace, address: str, port: int, *, listen_port: int = 0, bind: str = ""
) -> str:
    """Connect, exchange a line, and return the client's address as the server saw it."""
    with listen(server, bind or address, listen_port or port) as listener, connect(client, address, port) as client_end:
        server_end, peer = listener.accept()
        with server_end:
            client_end.sendall(b"hello")
            assert server_end.recv(100) == b"hello"
            server_end.sendall(b"world")
            assert client_end.recv(100) == b"world"
    return str(peer[0])


def send_frames(pod: Pod, *packets: bytes) -> None:
    """Send IPv6 packets from a pod's interface as they are, past its own stack."""
    send_on(pod.namespace, "eth0", bytes.fromhex(pod.result["interfaces"][0]["mac"].replace(":", "")), *packets)


def send_on(namespace: Namespace, device: str, mac: bytes, *packets: bytes) -> None:
    """Send IPv6 packets out of a device, to a MAC address on its link."""

    def make() -> socket.socket:
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        raw.bind((device, 0))
        return raw

    own = namespace.mac(device)
    with inside(namespace, make) as raw:
        for packet in packets:
            raw.send(mac + own + b"\x86\xdd" + packet)


def ping(source: Namespace, address: str, *words: str) -> str:
    """Ping three times and return what ping printed; CommandError unless every one is answered."""
    printed = source.run("ping", "-6", "-c", "3", "-i", "0.02", "-W", "2", *words, address)
    if " 0% packet loss" not in printed:
        raise CommandError(printed)
    return printed


@dataclass(frozen=True)
class Loss:
    """What a flow of numbered datagrams lost."""

    sent: int
    received: int
    lost: int
    repeated: int
    longest_gap_ms: float


class Flow:
    """Numbered datagrams from one pod to another until stop(), 2,000 a second."""

    def __init__(self, source: Pod, target: Pod, *, seconds: float, port: int = 9000, rate: int = 2000) -> None:
        self._counter = target.namespace.start(TRAFFIC, "count", target.address, str(port), stdout=subprocess.PIPE)
        time.sleep(0.1)
        self._sender = source.namespace.start(
            TRAFFIC, "datagrams", target.address, str(port), str(rate), str(seconds), stdout=subprocess.PIPE
        )

    def finish(self) -> Loss:
        """Wait for the sender's end; return what the receiver missed, also at the end of the flow."""
        sent, failed = map(int, self._sender.communicate(timeout=120)[0].split())
        time.sleep(0.2)
        self._counter.send_signal(signal.SIGTERM)
        received, _, repeated, gap = self._counter.communicate(timeout=10)[0].split()
        assert failed == 0
        return Loss(sent, int(received), sent - int(received), int(repeated), float(gap))
