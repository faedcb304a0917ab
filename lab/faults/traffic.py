# SPDX-License-Identifier: Apache-2.0
"""Traffic that shows a loss by its own numbers: numbered datagrams, and a bulk TCP stream of numbered blocks."""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agent.kernel.namespace import in_namespace
from lab.namespace import Namespace
from lab.process import SOURCE
from lab.runtime import Pod

TRAFFIC = str(SOURCE / "build/traffic")
ECHO_PORT = 7000
STREAM_PORT = 7001
BLOCK = struct.Struct("!Q65528x")
BLOCKS_PER_SECOND = 250
"""Of the stream, where nothing holds it up: 16 MB/s."""

LONGEST = 600
"""Seconds that numbered datagrams flow at most, if nobody ends them."""

T = TypeVar("T")


class TrafficError(Exception):
    """Traffic could not be sent at all; a loss is no error but a number."""


@dataclass(frozen=True, slots=True)
class Count:
    """Datagrams of one flow."""

    sent: int
    """Also those that the sender's own kernel refused."""

    received: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Tcp:
    """Counters of a namespace's TCP."""

    retransmitted: int = 0
    """Segments."""

    spurious: int = 0
    """Segments that the peer says it had twice (D-SACK): sent again, yet not lost."""

    resets: int = 0
    """Connections reset, by either side."""

    def __add__(self, other: Tcp) -> Tcp:
        return Tcp(self.retransmitted + other.retransmitted, self.spurious + other.spurious, self.resets + other.resets)

    def __sub__(self, other: Tcp) -> Tcp:
        return Tcp(self.retransmitted - other.retransmitted, self.spurious - other.spurious, self.resets - other.resets)


def inside(namespace: Namespace, make: Callable[[], T]) -> T:
    """Return what `make` returns, run inside a namespace."""
    with namespace.path.open("rb") as file:
        return in_namespace(file.fileno(), make)


def tcp(namespace: Namespace) -> Tcp:
    """Read a namespace's counters."""

    def read() -> dict[str, int]:
        found: dict[str, int] = {}
        for file in ("snmp", "netstat"):
            lines = Path("/proc/thread-self/net", file).read_text().splitlines()
            for names, values in zip(lines[::2], lines[1::2], strict=True):
                kind, *words = names.split()
                found |= {kind + word: int(value) for word, value in zip(words, values.split()[1:], strict=True)}
        return found

    counters = inside(namespace, read)
    return Tcp(
        retransmitted=counters["Tcp:RetransSegs"],
        spurious=counters["TcpExt:TCPDSACKRecvSegs"],
        resets=counters["Tcp:EstabResets"] + counters["Tcp:OutRsts"],
    )


def patient(namespace: Namespace) -> None:
    """Keep a namespace's TCP from sending again what a busy processor has only delayed.

    No tail loss probes, and no timeout below a second (a setting of kernel 6.11); what is lost under way in a stream
    is sent again at once all the same.
    """
    settings = ("net.ipv4.tcp_early_retrans=0", "net.ipv4.tcp_rto_min_us=1000000")
    namespace.run("sysctl", "--ignore", "-q", "-w", *settings)


class Datagrams:
    """Numbered datagrams from one pod to another until finish()."""

    def __init__(self, source: Pod, target: Pod, *, port: int, rate: int) -> None:
        self._counter = target.namespace.start(TRAFFIC, "count", target.address, str(port), stdout=subprocess.PIPE)
        _until_bound(target.namespace, port, "udp6")
        words = ("datagrams", target.address, str(port), str(rate), str(LONGEST))
        self._started = time.monotonic()
        self._sender = source.namespace.start(TRAFFIC, *words, stdout=subprocess.PIPE)

    def finish(self) -> Count:
        """End the flow; return what was sent and what arrived, also at its end."""
        sent = _ended(self._sender)
        seconds = time.monotonic() - self._started
        time.sleep(0.2)
        return Count(sent, _ended(self._counter), seconds)

    def close(self) -> None:
        """End both processes, whatever they do."""
        for process in (self._sender, self._counter):
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _ended(process: subprocess.Popen[bytes]) -> int:
    """End one side of a flow and return its number; TrafficError if it has none to tell."""
    process.send_signal(signal.SIGTERM)
    printed = process.communicate(timeout=60)[0].split()
    if not printed:
        raise TrafficError(f"{process.args!r} ended with {process.returncode} and said nothing")
    return int(printed[0])


def _until_bound(namespace: Namespace, port: int, table: str) -> None:
    """Wait until somebody receives on a port: `table` is udp6 or tcp6."""
    deadline = time.monotonic() + 30
    while f":{port:04X} " not in inside(namespace, lambda: Path("/proc/thread-self/net", table).read_text()):
        if time.monotonic() > deadline:
            raise TrafficError(f"nobody receives on port {port} of {namespace.name}")
        time.sleep(0.01)


def serve(pod: Pod) -> subprocess.Popen[bytes]:
    """Start a server for ask() in a pod, and return it once it answers; no connection has been refused before."""
    process = pod.namespace.start(TRAFFIC, "serve", pod.address, str(ECHO_PORT))
    try:
        _until_bound(pod.namespace, ECHO_PORT, "tcp6")
        ask(pod.namespace, pod.address)
    except (OSError, TrafficError):
        process.kill()
        process.wait()
        raise
    return process


def ask(namespace: Namespace, address: str, patience: float = 30) -> None:
    """Connect, have one byte echoed, and close in good order; OSError says what failed."""
    with inside(namespace, lambda: socket.create_connection((address, ECHO_PORT), timeout=patience)) as client:
        client.sendall(b"x")
        if client.recv(1) != b"x":
            raise ConnectionError(f"{address} answered nothing")
        client.shutdown(socket.SHUT_WR)
        if client.recv(1):
            raise ConnectionError(f"{address} answered too much")


class Stream:
    """One TCP connection that lives through everything: numbered blocks of 64 kB, in bulk but at a steady pace."""

    def __init__(self, source: Pod, target: Pod) -> None:
        self.sent = 0
        self.received = 0
        self.failures: list[str] = []
        self.seconds = 0.0
        """From its beginning to its end."""

        self._ended = threading.Event()
        address = (target.address, STREAM_PORT)
        with inside(target.namespace, lambda: socket.create_server(address, family=socket.AF_INET6)) as listener:
            self._source = inside(source.namespace, lambda: socket.create_connection(address, timeout=30))
            self._target, _ = listener.accept()
        # Linux's own default, as build/traffic does: BBR, a machine's choice, would leave processors idle.
        self._source.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
        self._started = time.monotonic()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def finish(self) -> int:
        """End the stream and return how many blocks did not arrive."""
        self._ended.set()
        for thread in self._threads:
            thread.join(60)
        self.seconds = self.seconds or time.monotonic() - self._started
        self._source.close()
        self._target.close()
        return self.sent - self.received

    def _send(self) -> None:
        self._source.settimeout(120)
        with contextlib.suppress(OSError):
            try:
                while not self._ended.wait(1 / BLOCKS_PER_SECOND):
                    self._source.sendall(BLOCK.pack(self.sent))
                    self.sent += 1
            except OSError as error:
                self.failures.append(f"stream's sender: {error}")
            self._source.shutdown(socket.SHUT_WR)

    def _receive(self) -> None:
        self._target.settimeout(120)
        try:
            with self._target.makefile("rb", BLOCK.size) as file:
                while block := file.read(BLOCK.size):
                    if block != BLOCK.pack(self.received):
                        raise ConnectionError(f"block {self.received} is damaged")
                    self.received += 1
        except OSError as error:
            self.failures.append(f"stream's receiver: {error}")
