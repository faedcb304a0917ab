# SPDX-License-Identifier: Apache-2.0
"""The CNI executable as the tests here build and call it, and who may sit at the other end of its socket."""

import asyncio
import ipaddress
import json
import os
import socket
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.cni_server import CniServer, listen
from agent.core.request import HEADER_SIZE, parse_environment, parse_header
from cni.plugin import AddRequest, CheckRequest, DelRequest, GcRequest
from cni.result import Attachment

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "cni/shim").glob("*.c"))
CONFIG = b'{"cniVersion": "1.1.0", "name": "ilanet", "type": "ilanet"}'
ATTACHMENT = Attachment(
    address=ipaddress.IPv6Address("fd00:a::2000:0:0:1"),
    gateway=ipaddress.IPv6Address("fe80::1"),
    host_name="ila0123456789ab",
    host_mac="02:00:00:00:00:01",
    pod_mac="02:00:00:00:00:02",
    mtu=1500,
)
DEADLINE = 400
"""Milliseconds of the test builds."""

LARGEST_QUEUE = 5
"""DELs that the test builds keep."""


@dataclass(frozen=True)
class Answer:
    """What a runtime sees."""

    exit_code: int
    stdout: bytes
    stderr: str
    seconds: float

    @property
    def tree(self) -> dict[str, Any]:
        tree: dict[str, Any] = json.loads(self.stdout)
        return tree


@dataclass(frozen=True)
class Shim:
    """One build of the executable, and the socket it is told."""

    executable: Path
    socket: Path

    @property
    def queue(self) -> Path:
        """Where it keeps DELs."""
        return self.socket.parent / "deletes"

    def call(self, command: str = "ADD", stdin: bytes | None = CONFIG, **environment: str) -> Answer:
        words = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": "c0ffee",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni/bin",
            "ILANET_SOCKET": str(self.socket),
            "ILANET_QUEUE": str(self.queue),
            "PATH": "/bin",
            **environment,
        }
        started = time.perf_counter()
        process = subprocess.Popen(
            [self.executable], env=words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        if stdin is None:
            process.wait(20)
            stdin = b""
        out, err = process.communicate(stdin, timeout=20)
        return Answer(process.returncode, out, err.decode(), time.perf_counter() - started)

    async def ask(self, command: str = "ADD", stdin: bytes | None = CONFIG, **environment: str) -> Answer:
        return await asyncio.to_thread(lambda: self.call(command, stdin, **environment))


def build(target: Path, *flags: str) -> Path:
    subprocess.run(
        [*flags, "-std=c11", "-Wall", "-Wextra", "-Werror", *map(str, SOURCES), "-o", str(target)], check=True
    )
    return target


class FakeNetwork:
    """Attaches everything; holds ADD and CHECK until they may go on."""

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.netns: list[int] = []
        self.fail_next: Exception | None = None
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.done: list[str] = []

    async def add(self, request: AddRequest) -> Attachment:
        self.calls.append(request)
        self.netns.append(os.fstat(request.netns_fd).st_ino)
        await self._go_on()
        self.done.append("added")
        failure, self.fail_next = self.fail_next, None
        if failure is not None:
            raise failure
        return ATTACHMENT

    async def delete(self, request: DelRequest) -> None:
        self.calls.append(request)

    async def check(self, request: CheckRequest) -> Attachment:
        self.calls.append(request)
        await self._go_on()
        return ATTACHMENT

    async def gc(self, request: GcRequest) -> None:
        self.calls.append(request)

    async def status(self) -> None:
        self.calls.append("status")

    async def _go_on(self) -> None:
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.done.append("undone")
            raise


@asynccontextmanager
async def served(network: FakeNetwork, path: Path, **settings: Any) -> AsyncIterator[CniServer]:
    server = CniServer(network=network, path=path, **settings)
    ready = asyncio.Event()
    task = asyncio.create_task(server.serve(ready=ready))
    await ready.wait()
    try:
        yield server
    finally:
        task.cancel()
        await asyncio.wait([task])


def queued(raw: bytes) -> tuple[dict[str, str], bytes]:
    """Return environment and standard input of a request in the queue, which must be whole."""
    environment, stdin = parse_header(raw[:HEADER_SIZE])
    assert len(raw) == HEADER_SIZE + environment + stdin
    body = raw[HEADER_SIZE:]
    return parse_environment(body[:environment]), body[environment:]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, not walked


async def rogue(shim: Shim, serve: Callable[[socket.socket], None], command: str = "ADD", **environment: str) -> Answer:
    """Call the executable while somebody else answers one connection."""
    with closing(listen(shim.socket)) as listener:
        listener.setblocking(True)  # noqa: FBT003 - socket's own

        def accept() -> None:
            listener.settimeout(5)
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(5)
                serve(connection)

        task = asyncio.create_task(asyncio.to_thread(accept))
        answer = await shim.ask(command, CONFIG, **environment)
        await task
        return answer


def drain(connection: socket.socket) -> None:
    """Read the request to its end, which the executable does not mark: until it is quiet."""
    connection.settimeout(0.05)
    try:
        while connection.recv(1 << 16):
            pass
    except TimeoutError:
        connection.settimeout(5)


def framed(exit_status: int, output: bytes = b"", *, size: int | None = None) -> bytes:
    """Return an answer as the agent sends it; one of another size announces what does not come."""
    return struct.pack("!4sBI", b"ILA1", exit_status, len(output) if size is None else size) + output


GARBAGE = {
    "hung up": b"",
    "half a header": framed(0)[:6],
    "half an answer": framed(1, b'{"cni', size=100),
    "a huge answer": framed(1, b"{", size=(1 << 20) + 1),
    "a wrong exit status": framed(7, b"{}"),
    "no JSON": framed(1, b"hello"),
    "half of JSON": framed(1, b"{"),
    "another kind of JSON": framed(1, b"[{}]"),
    "a failure without a word": framed(1),
    "zeros": bytes(9),
    "another magic": b"ALI1" + framed(0)[4:],
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "binary": bytes(range(255, 0, -1)),
}
