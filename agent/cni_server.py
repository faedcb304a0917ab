# SPDX-License-Identifier: Apache-2.0
"""Serves the CNI executable on a unix socket: reads its request, runs the plugin, writes its answer.

The first bytes of a request (agent/core/request.py) carry the open descriptor of CNI_NETNS, if it could be
opened.  The answer is b"ILA1", one byte exit status, the length of standard output (32 bits), and it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

from agent.core.request import HEADER_SIZE, MAGIC, BadRequest, parse_environment, parse_header
from cni import plugin
from cni.plugin import Network, Reply
from cni.result import failure
from cni.spec import TryAgain

_LOG = logging.getLogger(__name__)

_ANSWER = struct.Struct("!4sBI")
_CREDENTIALS = struct.Struct("=iII")
_BACKLOG = 256
_CHUNK = 1 << 16
_LONGEST_PATH = 107
_ROOT = 0
_ACCEPT_PAUSE = 0.2

COMMAND_SECONDS: Mapping[str, float] = {"ADD": 80.0, "DEL": 15.0, "CHECK": 8.0, "GC": 50.0}
"""How long the plugin may take: less than the executable waits (cni/shim/main.c), so that ADD undoes itself first."""


class CniServer:
    """The unix socket of one host's agent; serve() runs until cancelled, and lets begun commands end."""

    def __init__(
        self,
        *,
        network: Network,
        path: Path,
        read_seconds: float = 10.0,
        command_seconds: Mapping[str, float] = COMMAND_SECONDS,
    ) -> None:
        """Serve `network` on a socket at `path`, open to root only."""
        self._network = network
        self._path = path
        self._read_seconds = read_seconds
        self._command_seconds = command_seconds
        self._connections: set[asyncio.Task[None]] = set()

    async def serve(self, *, ready: asyncio.Event | None = None) -> None:
        """Listen and answer until cancelled; `ready` is set once the socket is there."""
        loop = asyncio.get_running_loop()
        listener = listen(self._path)
        inode = self._path.stat().st_ino
        try:
            if ready is not None:
                ready.set()
            while True:
                try:
                    connection, _ = await loop.sock_accept(listener)
                except OSError as error:
                    _LOG.error("the CNI socket accepts no connection: %s", error)
                    await asyncio.sleep(_ACCEPT_PAUSE)
                    continue
                task = asyncio.create_task(self._connection(connection), name="cni connection")
                self._connections.add(task)
                task.add_done_callback(self._connections.discard)
        finally:
            with contextlib.suppress(OSError):
                if self._path.stat().st_ino == inode:
                    self._path.unlink()
            listener.close()
            if self._connections:
                await asyncio.wait(set(self._connections))

    async def _connection(self, connection: socket.socket) -> None:
        descriptors: list[int] = []
        with connection:
            try:
                _check_peer(connection)
                async with asyncio.timeout(self._read_seconds):
                    environment, stdin = await _read_request(connection, descriptors)
                reply = await self._run(environment, stdin, descriptors[0] if descriptors else None)
                async with asyncio.timeout(self._read_seconds):
                    raw = _ANSWER.pack(MAGIC, reply.exit_code, len(reply.stdout)) + reply.stdout
                    await asyncio.get_running_loop().sock_sendall(connection, raw)
            except TimeoutError:
                _LOG.warning("a connection of the CNI executable made no progress for %s s", self._read_seconds)
            except (BadRequest, OSError) as error:
                _LOG.warning("a connection of the CNI executable ended: %s", error)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    async def _run(self, environment: Mapping[str, str], stdin: bytes, netns_fd: int | None) -> Reply:
        command = environment.get("CNI_COMMAND", "")
        seconds = self._command_seconds.get(command)
        try:
            async with asyncio.timeout(seconds):
                return await plugin.run(environment, stdin, netns_fd, self._network)
        except TimeoutError:
            late = TryAgain(f"{command} took longer than {seconds} s and was undone")
            return Reply(1, failure(late, plugin.answer_version(stdin)))


def listen(path: Path) -> socket.socket:
    """Return a listening socket at `path`, for root only, put in the place of an older one in one step."""
    if len(os.fsencode(path)) > _LONGEST_PATH - len(".new"):
        raise ValueError(f"socket path {str(path)!r} is longer than {_LONGEST_PATH - len('.new')} bytes")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        listener.bind(str(temporary))
        temporary.chmod(0o600)
        listener.listen(_BACKLOG)
        temporary.replace(path)
    except BaseException:
        listener.close()
        temporary.unlink(missing_ok=True)
        raise
    return listener


def _check_peer(connection: socket.socket) -> None:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(raw)
    if user != _ROOT:
        raise BadRequest(f"process {process} of user {user} is not root")


async def _read_request(connection: socket.socket, descriptors: list[int]) -> tuple[dict[str, str], bytes]:
    """Return environment and standard input; open descriptors that came along are appended at once."""
    environment, stdin = parse_header(await _read(connection, HEADER_SIZE, descriptors))
    block = await _read(connection, environment, descriptors)
    return parse_environment(block), await _read(connection, stdin, descriptors)


async def _read(connection: socket.socket, size: int, descriptors: list[int]) -> bytes:
    raw = bytearray()
    while len(raw) < size:
        try:
            part, came, _, _ = socket.recv_fds(connection, min(size - len(raw), _CHUNK), 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            await _readable(connection)
            continue
        descriptors.extend(came)
        if len(descriptors) > 1:
            raise BadRequest("it brings more than one descriptor")
        if not part:
            raise BadRequest(f"it ends after {len(raw)} of {size} bytes")
        raw += part
    return bytes(raw)


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    loop.add_reader(connection, wake)
    try:
        await future
    finally:
        loop.remove_reader(connection)
