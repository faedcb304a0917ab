# SPDX-License-Identifier: Apache-2.0
"""The CNI executable against the agent's server, and against whatever else may sit on its socket."""

import asyncio
import ipaddress
import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.cni_server import CniServer, listen
from agent.core.request import BadRequest, parse, parse_environment
from cni.plugin import AddRequest, CheckRequest, DelRequest, GcRequest
from cni.result import Attachment
from cni.spec import VERSIONS, AskedWrongly, Code
from lab.namespace import Namespace

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


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build the executable as it is shipped but for its deadline, and one that watches its own memory."""
    folder = tmp_path_factory.mktemp("shim")
    deadline = (f"-DDEADLINE={DEADLINE}", f"-DLARGEST_QUEUE={LARGEST_QUEUE}")
    watched = ("gcc", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", *deadline)
    return {
        "plain": build(folder / "plain", "musl-gcc", "-static", "-Os", *deadline),
        "watched": build(folder / "watched", *watched),
    }


@pytest.fixture(params=["plain", "watched"])
def shim(request: pytest.FixtureRequest, builds: dict[str, Path], tmp_path: Path) -> Shim:
    return Shim(builds[request.param], tmp_path / "cni.sock")


class FakeNetwork:
    """Attaches everything; holds ADD until it may go on."""

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
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.done.append("undone")
            raise
        self.done.append("added")
        failure, self.fail_next = self.fail_next, None
        if failure is not None:
            raise failure
        return ATTACHMENT

    async def delete(self, request: DelRequest) -> None:
        self.calls.append(request)

    async def check(self, request: CheckRequest) -> Attachment:
        self.calls.append(request)
        return ATTACHMENT

    async def gc(self, request: GcRequest) -> None:
        self.calls.append(request)

    async def status(self) -> None:
        self.calls.append("status")


@pytest.fixture
def network() -> FakeNetwork:
    return FakeNetwork()


@pytest.fixture
def pod() -> Iterator[Namespace]:
    namespace = Namespace.create(f"ilc-{os.getpid()}-shim")
    yield namespace
    namespace.close()


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


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, not walked


# --- with the agent ---


async def test_a_pod_s_whole_life(shim: Shim, network: FakeNetwork, pod: Namespace) -> None:
    """ADD, CHECK, DEL, STATUS, VERSION; the namespace arrives as a descriptor, and none is leaked."""
    async with served(network, shim.socket):
        before = descriptors()
        added = await shim.ask("ADD", CNI_NETNS=str(pod.path))
        assert (added.exit_code, added.stderr) == (0, "")
        assert added.tree["ips"][0]["address"] == "fd00:a::2000:0:0:1/128"
        assert added.tree["interfaces"][1]["sandbox"] == str(pod.path)
        assert network.netns == [pod.path.stat().st_ino]
        again = json.dumps({**json.loads(CONFIG), "prevResult": added.tree}).encode()
        for command, stdin in (("CHECK", again), ("DEL", again), ("STATUS", CONFIG)):
            answer = await shim.ask(command, stdin, CNI_NETNS=str(pod.path))
            assert (answer.exit_code, answer.stdout, answer.stderr) == (0, b"", "")
        assert (await shim.ask("VERSION")).tree == {"cniVersion": "1.1.0", "supportedVersions": list(VERSIONS)}
        assert len(network.calls) == 4
        assert descriptors() == before


@pytest.mark.parametrize("path", ["/run/netns/ilc-gone", "/etc/passwd", "/proc/self/ns/net", "/proc/self/ns/pid", "/"])
async def test_a_namespace_that_is_none_is_code_8(shim: Shim, network: FakeNetwork, path: str) -> None:
    """Gone, a file, the host's own, another kind, a folder: ADD fails and names it, DEL succeeds."""
    async with served(network, shim.socket):
        answer = await shim.ask("ADD", CNI_NETNS=path)
        assert (answer.exit_code, answer.tree["code"]) == (1, Code.INVALID_NAMESPACE)
        assert path in answer.tree["msg"]
        assert (await shim.ask("DEL", CNI_NETNS=path)).exit_code == 0
        assert network.calls == [DelRequest(container_id="c0ffee", interface="eth0")]


async def test_a_namespace_that_is_a_pipe_does_not_block(shim: Shim, network: FakeNetwork, tmp_path: Path) -> None:
    """Opening it without a writer would wait for ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with served(network, shim.socket):
        assert (await shim.ask("ADD", CNI_NETNS=str(pipe))).tree["code"] == Code.INVALID_NAMESPACE


async def test_only_the_environment_of_cni_is_passed_on(shim: Shim) -> None:
    """Secrets of the runtime's environment stay there."""
    received: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        magic, environment, stdin = struct.unpack("!4sII", connection.recv(12, socket.MSG_WAITALL))
        received.append(magic)
        received.append(connection.recv(environment, socket.MSG_WAITALL))
        received.append(connection.recv(stdin, socket.MSG_WAITALL))
        connection.sendall(struct.pack("!BI", 0, 0))

    answer = await rogue(shim, serve, SECRET="x", CNI_ARGS="A=B")  # noqa: S106 - none of ours
    assert answer.exit_code == 0
    assert received[0] == b"ILA1"
    assert received[1].endswith(b"\0")
    names = {pair.split(b"=")[0] for pair in received[1].split(b"\0") if pair}
    assert names == {b"CNI_COMMAND", b"CNI_CONTAINERID", b"CNI_IFNAME", b"CNI_PATH", b"CNI_ARGS"}
    assert received[2] == CONFIG


async def test_large_input_and_output_pass(shim: Shim, network: FakeNetwork, pod: Namespace) -> None:
    """Nearly a mebibyte both ways, in pieces."""
    routes = [{"dst": f"fd00:{number:x}::/32"} for number in range(20_000)]
    stdin = json.dumps({**json.loads(CONFIG), "prevResult": {"routes": routes}}).encode()
    assert len(stdin) > 500_000
    async with served(network, shim.socket):
        answer = await shim.ask("ADD", stdin, CNI_NETNS=str(pod.path))
        assert len(answer.tree["routes"]) == 20_001


async def test_what_the_agent_refuses_is_printed_on_stdout(shim: Shim, network: FakeNetwork, pod: Namespace) -> None:
    """R9."""
    async with served(network, shim.socket):
        network.fail_next = AskedWrongly(Code.INTERFACE_EXISTS, "eth0 exists")
        answer = await shim.ask("ADD", CNI_NETNS=str(pod.path))
        assert (answer.exit_code, answer.tree["code"], answer.stderr) == (1, Code.INTERFACE_EXISTS, "")
        assert (await shim.ask("ADD", b"no json", CNI_NETNS=str(pod.path))).tree["code"] == Code.DECODING_FAILURE


async def test_many_at_once(builds: dict[str, Path], tmp_path: Path, network: FakeNetwork, pod: Namespace) -> None:
    """R18: forty pods start together; none waits for another."""
    shim = Shim(builds["plain"], tmp_path / "cni.sock")
    async with served(network, shim.socket):
        calls = (shim.ask("ADD", CNI_CONTAINERID=f"c{number}", CNI_NETNS=str(pod.path)) for number in range(40))
        answers = await asyncio.gather(*calls)
    assert [answer.exit_code for answer in answers] == [0] * 40


async def test_a_runtime_that_goes_away_cancels_nothing(shim: Shim, network: FakeNetwork, pod: Namespace) -> None:
    """The executable gives up at its deadline; the ADD it began runs to its end, also when the agent is stopping."""
    async with served(network, shim.socket):
        network.go_on.clear()
        answer = await shim.ask("ADD", CNI_NETNS=str(pod.path))
        assert (answer.exit_code, answer.tree["code"]) == (1, Code.TRY_AGAIN_LATER)
        assert network.done == []
        asyncio.get_running_loop().call_later(0.1, network.go_on.set)
    assert network.done == ["added"]


async def test_a_command_that_takes_too_long_undoes_itself(
    builds: dict[str, Path], tmp_path: Path, network: FakeNetwork, pod: Namespace
) -> None:
    """The agent's own deadline comes first: the runtime reads that nothing was done."""
    shim = Shim(builds["plain"], tmp_path / "cni.sock")
    async with served(network, shim.socket, command_seconds={"ADD": 0.1}):
        network.go_on.clear()
        answer = await shim.ask("ADD", CNI_NETNS=str(pod.path))
        assert (answer.exit_code, answer.tree["code"]) == (1, Code.TRY_AGAIN_LATER)
        assert network.done == ["undone"]


async def test_a_restarted_agent_takes_the_socket_over(shim: Shim, network: FakeNetwork) -> None:
    """The path leads to a live socket at every moment, and the old agent does not remove the new one's."""
    async with served(network, shim.socket):
        other = FakeNetwork()
        async with served(other, shim.socket):
            await shim.ask("STATUS")
            assert (other.calls, network.calls) == (["status"], [])
        assert not shim.socket.exists()
    left_by_a_kill = listen(shim.socket)
    left_by_a_kill.close()
    assert (await shim.ask("ADD")).tree["code"] == Code.TRY_AGAIN_LATER
    async with served(network, shim.socket):
        assert (shim.socket.stat().st_mode & 0o777) == 0o600
        assert (await shim.ask("STATUS")).exit_code == 0


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"ILA1" + struct.pack("!II", 1 << 30, 0),
        b"ILA1" + struct.pack("!II", 0, 1 << 30),
        b"ILA1" + struct.pack("!II", 100, 0) + b"CNI_COMMAND=ADD",
        b"ILA1" + struct.pack("!II", 4, 0) + b"A=B\0",
        b"ILA1",
        b"",
    ],
)
async def test_a_client_that_is_not_ours_gets_no_answer(
    tmp_path: Path, network: FakeNetwork, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Wrong magic, sizes beyond the limits, half a request, foreign variables: closed, logged, nothing asked."""
    async with served(network, tmp_path / "s"):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(raw)
        writer.write_eof()
        try:
            assert await reader.read() == b""
        except ConnectionResetError:
            assert raw
        writer.close()
    assert network.calls == []
    assert "ended" in caplog.text


async def test_a_client_that_says_nothing_is_let_go(
    tmp_path: Path, network: FakeNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    """So that it holds no descriptor for ever."""
    async with served(network, tmp_path / "s", read_seconds=0.1):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        assert await reader.read() == b""
        writer.close()
    assert "no progress" in caplog.text


async def test_descriptors_that_nobody_asked_for_are_closed(tmp_path: Path, network: FakeNetwork) -> None:
    """More than one, or sent later than the header."""
    async with served(network, tmp_path / "s"):
        before = descriptors()
        for pieces in ([(b"ILA1", [0, 0, 0])], [(b"ILA1" + bytes(3) + b"\x05", [0]), (bytes(4) + b"CNI_", [0])]):
            with socket.socket(socket.AF_UNIX) as raw:
                raw.connect(str(tmp_path / "s"))
                for piece, sent in pieces:
                    socket.send_fds(raw, [piece], sent)
                    await asyncio.sleep(0.05)
                raw.shutdown(socket.SHUT_WR)
                await asyncio.sleep(0.05)
        assert descriptors() == before


def test_an_environment_that_is_not_cni_s_is_refused() -> None:
    """No equals sign, no CNI_; bytes that are no UTF-8 pass as they are."""
    for block in (b"CNI_A", b"PATH=/", b"=x"):
        with pytest.raises(BadRequest):
            parse_environment(block)
    assert parse_environment(b"CNI_A=\xff=\0CNI_B=\0") == {"CNI_A": "\udcff=", "CNI_B": ""}


async def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path, network: FakeNetwork) -> None:
    """With its length, rather than with the kernel's "AF_UNIX path too long"."""
    with pytest.raises(ValueError, match="longer than 103 bytes"):
        await CniServer(network=network, path=tmp_path / ("x" * 100)).serve()


# --- without the agent ---


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


GARBAGE = {
    "hung up": b"",
    "half a header": b"\0\0",
    "half an answer": struct.pack("!BI", 0, 100) + b'{"cni',
    "a huge answer": struct.pack("!BI", 0, (1 << 20) + 1) + b"{",
    "a wrong exit status": struct.pack("!BI", 7, 2) + b"{}",
    "no JSON": struct.pack("!BI", 0, 5) + b"hello",
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "binary": bytes(range(255, 0, -1)),
}


@pytest.mark.parametrize("kind", GARBAGE)
async def test_garbage_on_the_socket_is_code_11(shim: Shim, kind: str) -> None:
    """Nothing of it reaches stdout."""

    def serve(connection: socket.socket) -> None:
        drain(connection)
        connection.sendall(GARBAGE[kind])

    answer = await rogue(shim, serve)
    assert (answer.exit_code, answer.stderr) == (1, "")
    assert set(answer.tree) == {"cniVersion", "code", "msg", "details"}
    assert (answer.tree["code"], answer.tree["cniVersion"]) == (Code.TRY_AGAIN_LATER, "1.1.0")


@pytest.mark.parametrize("sent", [b"", struct.pack("!BI", 0, 10), struct.pack("!BI", 0, 10) + b"{"])
async def test_silence_ends_at_the_deadline(shim: Shim, sent: bytes) -> None:
    """Before, inside or after the header."""

    def serve(connection: socket.socket) -> None:
        drain(connection)
        connection.sendall(sent)
        time.sleep(DEADLINE / 1000 + 0.3)

    answer = await rogue(shim, serve)
    assert (answer.exit_code, answer.tree["code"]) == (1, Code.TRY_AGAIN_LATER)
    assert "timed out" in answer.tree["details"]
    assert DEADLINE / 1000 <= answer.seconds < DEADLINE / 1000 + 1


async def test_a_server_that_reads_nothing_ends_at_the_deadline(shim: Shim) -> None:
    """A request larger than the socket's buffer gets stuck; SIGPIPE ends nobody either."""
    with closing(listen(shim.socket)):
        answer = await shim.ask(stdin=CONFIG + b" " * 1_000_000)
        assert (answer.exit_code, answer.tree["code"]) == (1, Code.TRY_AGAIN_LATER)
    answer = await rogue(shim, lambda _: None, CNI_ARGS="A" * 100_000)
    assert (answer.exit_code, answer.tree["code"]) == (1, Code.TRY_AGAIN_LATER)


async def test_a_full_backlog_is_waited_for(shim: Shim) -> None:
    """connect() answers EAGAIN at once: it is tried again until the deadline."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(shim.socket))
        listener.listen(0)
        first.connect(str(shim.socket))
        answer = await shim.ask()
        assert (answer.exit_code, answer.tree["code"]) == (1, Code.TRY_AGAIN_LATER)
        assert "timed out" in answer.tree["details"]


@pytest.mark.parametrize("kind", ["missing", "file", "folder", "long"])
async def test_no_socket_is_code_11_and_for_status_50(shim: Shim, kind: str) -> None:
    """In words that containerd does not take for "the container is gone" (go-cni swallows those on DEL)."""
    path = shim.socket
    if kind == "file":
        path.write_text("x")
    elif kind == "folder":
        path.mkdir()
    elif kind == "long":
        path = path.with_name("x" * 200)
    for command, code in (("ADD", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)):
        answer = await shim.ask(command, ILANET_SOCKET=str(path))
        assert (answer.exit_code, answer.tree["code"], answer.stderr) == (1, code, "")
        said = answer.stdout.decode().lower()
        assert "not found" not in said
        assert "no such file" not in said


async def test_version_is_known_without_the_agent(shim: Shim) -> None:
    """With and without input; the list is the one of cni/spec.py."""
    for stdin, version in ((b'{"cniVersion": "1.0.0"}', "1.0.0"), (b"", "1.1.0"), (b"?", "1.0.0")):
        answer = await shim.ask("VERSION", stdin)
        assert answer.exit_code == 0
        assert answer.tree == {"cniVersion": version, "supportedVersions": list(VERSIONS)}


async def test_without_a_command_it_says_what_it_is(shim: Shim) -> None:
    """R3: on stderr, exit 0."""
    answer = await shim.ask("")
    assert (answer.exit_code, answer.stdout) == (0, b"")
    assert "ilanet" in answer.stderr
    assert all(version in answer.stderr for version in VERSIONS)


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        (b'{"cniVersion":"1.1.0"}', "1.1.0"),
        (b'{"cniVersion" : \n "1.0.0", ', "1.0.0"),
        (b'{"cniVersion":"1.1.0', "1.0.0"),
        (b'{"cniVersion":"1.1.', "1.0.0"),
        (b'{"cniVersion"', "1.0.0"),
        (b'{"cniVersion":', "1.0.0"),
        (b'{"cniVersion":\0\0', "1.0.0"),
        (b'{"cniVersion":"\\"};evil"}', "1.0.0"),
        (b'{"cniVersion": {}}', "1.0.0"),
        (b"\xff" * 1000, "1.0.0"),
    ],
)
async def test_errors_come_in_the_asked_version_if_it_can_be_seen(shim: Shim, stdin: bytes, version: str) -> None:
    """A look at the text, not a parser; it never reads past the end."""
    assert (await shim.ask("ADD", stdin)).tree["cniVersion"] == version


async def test_input_beyond_the_limit_is_refused(shim: Shim) -> None:
    """One mebibyte passes, one byte more does not."""
    answer = await shim.ask(stdin=b" " * ((1 << 20) + 1))
    assert (answer.exit_code, answer.tree["code"]) == (1, Code.DECODING_FAILURE)
    answer = await shim.ask(stdin=b" " * (1 << 20))
    assert answer.tree["code"] == Code.TRY_AGAIN_LATER


async def test_an_environment_beyond_the_limit_is_refused(shim: Shim) -> None:
    """128 KiB in all."""
    answer = await shim.ask(CNI_ARGS="x" * 100_000, CNI_MORE="x" * 100_000)
    assert answer.tree["code"] == Code.INVALID_ENVIRONMENT


async def test_input_that_never_ends_ends_at_the_deadline(shim: Shim) -> None:
    """A runtime that forgets to close it."""
    answer = await shim.ask(stdin=None)
    assert (answer.exit_code, answer.tree["code"]) == (1, Code.IO_FAILURE)
    assert (await shim.ask("VERSION", stdin=None)).exit_code == 0


def test_a_closed_stdout_is_a_failure(shim: Shim) -> None:
    """The runtime would read an empty answer: the exit status says that it is none."""
    words = {"CNI_COMMAND": "VERSION", "ILANET_SOCKET": str(shim.socket)}
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [shim.executable], env=words, stdin=subprocess.DEVNULL, stdout=writing, check=False, timeout=9
    )
    os.close(writing)
    assert done.returncode == 1


@pytest.mark.parametrize("owner", [1, 65534])
def test_another_user_s_socket_is_not_asked(shim: Shim, owner: int) -> None:
    """Whoever is not root may not read what runtimes say, nor answer for the agent."""
    server = (
        "import os, socket, sys; os.setuid(int(sys.argv[2])); s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); "
        "s.listen(); print(flush=True); c = s.accept()[0]; c.settimeout(5); print(len(c.recv(9)), flush=True)"
    )
    place = Path(tempfile.mkdtemp(prefix="ilc-", dir="/run"))
    place.chmod(0o777)
    words = ["/usr/bin/python3", "-c", server, str(place / "cni.sock"), str(owner)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "\n"
    answer = shim.call("ADD", ILANET_SOCKET=str(place / "cni.sock"))
    shutil.rmtree(place)
    assert (answer.exit_code, answer.tree["code"]) == (1, Code.TRY_AGAIN_LATER)
    assert "another user" in answer.tree["details"]
    assert process.communicate(timeout=10)[0] == "0\n"


# --- DELs that wait for the agent ---


async def test_a_del_without_the_agent_succeeds_and_is_kept(shim: Shim) -> None:
    """R19: silent success; what was asked stands whole in the queue, once however often it is asked."""
    for _ in range(2):
        answer = await shim.ask("DEL", CNI_NETNS="/run/netns/gone", CNI_ARGS="A=B")
        assert (answer.exit_code, answer.stdout, answer.stderr) == (0, b"", "")
        (file,) = shim.queue.iterdir()
        assert (file.name, file.stat().st_mode & 0o777) == ("c0ffee:eth0", 0o600)
        environment, stdin = parse(file.read_bytes())
        assert environment["CNI_CONTAINERID"] == "c0ffee"
        assert environment["CNI_ARGS"] == "A=B"
        assert stdin == CONFIG


async def test_attachments_that_look_alike_are_two(shim: Shim) -> None:
    """A dash may stand in both parts of the name, a colon in neither."""
    await shim.ask("DEL", CNI_CONTAINERID="a-b", CNI_IFNAME="c")
    await shim.ask("DEL", CNI_CONTAINERID="a", CNI_IFNAME="b-c")
    assert {file.name for file in shim.queue.iterdir()} == {"a-b:c", "a:b-c"}


@pytest.mark.parametrize("kind", GARBAGE)
async def test_a_del_that_got_garbage_is_kept(shim: Shim, kind: str) -> None:
    """Whoever sits on the socket: the pod can end."""

    def serve(connection: socket.socket) -> None:
        drain(connection)
        connection.sendall(GARBAGE[kind])

    assert (await rogue(shim, serve, "DEL")).exit_code == 0
    assert [file.name for file in shim.queue.iterdir()] == ["c0ffee:eth0"]


async def test_a_del_that_a_hung_agent_does_not_answer_is_kept(shim: Shim) -> None:
    """At the deadline; kubelet is not held up for longer."""
    with closing(listen(shim.socket)):
        answer = await shim.ask("DEL")
    assert answer.exit_code == 0
    assert answer.seconds >= DEADLINE / 1000
    assert [file.name for file in shim.queue.iterdir()] == ["c0ffee:eth0"]


async def test_a_del_that_the_agent_refuses_is_not_kept(shim: Shim, network: FakeNetwork) -> None:
    """Its answer is an answer."""
    async with served(network, shim.socket):
        assert (await shim.ask("DEL", b"no json")).tree["code"] == Code.DECODING_FAILURE
    assert not shim.queue.exists()


@pytest.mark.parametrize(
    "environment",
    [
        {"CNI_CONTAINERID": ""},
        {"CNI_CONTAINERID": "../x"},
        {"CNI_CONTAINERID": "a/b"},
        {"CNI_CONTAINERID": "a:b"},
        {"CNI_CONTAINERID": ".hidden"},
        {"CNI_CONTAINERID": "a" * 201},
        {"CNI_IFNAME": ""},
        {"CNI_IFNAME": ".."},
        {"CNI_IFNAME": "a/b"},
        {"CNI_IFNAME": "a:b"},
        {"CNI_IFNAME": "e" * 16},
    ],
)
async def test_a_del_of_no_attachment_is_not_kept(shim: Shim, environment: dict[str, str]) -> None:
    """Code 4, as the agent would say; above all no file anywhere else."""
    answer = await shim.ask("DEL", CONFIG, **environment)
    assert (answer.exit_code, answer.tree["code"]) == (1, Code.INVALID_ENVIRONMENT)
    assert list(shim.socket.parent.iterdir()) == []


async def test_the_longest_names_are_kept(shim: Shim) -> None:
    """200 and 15 characters."""
    assert (await shim.ask("DEL", CNI_CONTAINERID="a" * 200, CNI_IFNAME="e" * 15)).exit_code == 0
    assert [file.name for file in shim.queue.iterdir()] == [f"{'a' * 200}:{'e' * 15}"]


async def test_the_queue_is_bounded(shim: Shim) -> None:
    """A DEL beyond it fails, so that the runtime asks again; those that wait already still succeed."""
    for number in range(LARGEST_QUEUE):
        assert (await shim.ask("DEL", CNI_CONTAINERID=f"c{number}")).exit_code == 0
    answer = await shim.ask("DEL", CNI_CONTAINERID="one-more")
    assert (answer.exit_code, answer.tree["code"]) == (1, Code.TRY_AGAIN_LATER)
    assert "no more DELs can be queued" in answer.tree["details"]
    assert (await shim.ask("DEL", CNI_CONTAINERID="c0")).exit_code == 0
    assert len(list(shim.queue.iterdir())) == LARGEST_QUEUE


@pytest.mark.parametrize(
    ("options", "words"),
    [("size=4k", "No space left on device"), ("nr_inodes=1", "No space left on device"), ("ro", "Read-only")],
)
def test_a_disk_that_takes_nothing_is_an_error(shim: Shim, options: str, words: str) -> None:
    """Full in bytes or files, or read-only: code 11 with the kernel's words, and no half of a file."""
    shim.queue.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(shim.queue)], check=True)
    try:
        answer = shim.call("DEL", CONFIG + b" " * 10_000)
        assert (answer.exit_code, answer.tree["code"]) == (1, Code.TRY_AGAIN_LATER)
        assert words in answer.tree["details"]
        assert list(shim.queue.iterdir()) == []
    finally:
        subprocess.run(["umount", str(shim.queue)], check=True)


@pytest.mark.parametrize("kind", ["file", "missing parent"])
async def test_a_folder_that_cannot_be_is_an_error(shim: Shim, kind: str) -> None:
    """In words that containerd does not take for "the container is gone"."""
    if kind == "file":
        shim.queue.write_text("x")
    path = shim.queue if kind == "file" else shim.queue / "a/b"
    answer = await shim.ask("DEL", ILANET_QUEUE=str(path))
    assert (answer.exit_code, answer.tree["code"]) == (1, Code.TRY_AGAIN_LATER)
    assert "no such file" not in answer.stdout.decode().lower()


# --- the executable as it is shipped ---


def test_status_is_bounded_in_the_shipped_executable(tmp_path: Path) -> None:
    """R24: one second, while the agent hangs."""
    shim = Shim(ROOT / "build/ilanet", tmp_path / "s")
    with closing(listen(shim.socket)):
        answer = shim.call("STATUS")
    assert (answer.exit_code, answer.tree["code"]) == (1, Code.NOT_AVAILABLE)
    assert 1 <= answer.seconds < 1.5


def test_it_is_small_static_and_starts_fast(capsys: pytest.CaptureFixture[str]) -> None:
    """About 30 kB, no interpreter to load; its time is printed."""
    executable = ROOT / "build/ilanet"
    size = executable.stat().st_size
    assert size < 40_000
    shim = Shim(executable, Path("/run/ilc-nowhere"))
    seconds = sorted(shim.call("ADD").seconds for _ in range(50))
    with capsys.disabled():
        print(f"\nCNI executable: {size} bytes, {seconds[25] * 1e3:.2f} ms (median of 50, with Python's fork and exec)")
    raw = executable.read_bytes()
    assert b"ld-musl" not in raw
    assert b"ld-linux" not in raw


def test_it_builds_reproducibly(tmp_path: Path) -> None:
    """Two builds from two folders are the same bytes."""
    built = []
    for name in ("one", "two/three"):
        folder = tmp_path / name
        (folder / "cni").mkdir(parents=True)
        shutil.copytree(ROOT / "cni/shim", folder / "cni/shim")
        shutil.copy(ROOT / "Makefile", folder)
        subprocess.run(["make", "-s", "-o", "system", "build/ilanet"], cwd=folder, check=True, capture_output=True)
        built.append((folder / "build/ilanet").read_bytes())
    assert built[0] == built[1]
    assert built[0] == (ROOT / "build/ilanet").read_bytes()
