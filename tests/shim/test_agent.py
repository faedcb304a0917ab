# SPDX-License-Identifier: Apache-2.0
"""The CNI executable against the agent's server."""

import asyncio
import json
import os
import socket
import stat
import struct
import tempfile
from pathlib import Path

import pytest

from agent.cni_server import CniServer, listen
from agent.core.request import BadRequest, parse_environment
from cni.plugin import DelRequest
from cni.spec import VERSIONS, AskedWrongly, Code
from lab.namespace import Namespace
from tests.shim.program import (
    CONFIG,
    FakeNetwork,
    Shim,
    descriptors,
    framed,
    rogue,
    served,
)


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
        connection.sendall(framed(0, b"{}"))

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


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
async def test_a_command_that_takes_too_long_undoes_itself(
    builds: dict[str, Path], tmp_path: Path, network: FakeNetwork, pod: Namespace, command: str
) -> None:
    """The agent's own deadline comes first: the runtime reads that nothing was done."""
    shim = Shim(builds["plain"], tmp_path / "cni.sock")
    stdin = json.dumps({**json.loads(CONFIG), "prevResult": {}}).encode()
    async with served(network, shim.socket, command_seconds={command: 0.1}):
        network.go_on.clear()
        answer = await shim.ask(command, stdin, CNI_NETNS=str(pod.path))
        assert (answer.exit_code, answer.tree["code"]) == (1, Code.TRY_AGAIN_LATER)
        assert f"{command} took longer than 0.1 s" in answer.tree["msg"]
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


async def test_the_socket_is_root_s(tmp_path: Path, network: FakeNetwork) -> None:
    """Whoever could connect could attach and detach pods; nobody else may put a socket in its place either."""
    path = tmp_path / "run/cni.sock"
    before = os.umask(0)
    try:
        async with served(network, path):
            found = {name: name.stat() for name in (path, path.parent)}
    finally:
        os.umask(before)
    assert [(one.st_uid, one.st_gid) for one in found.values()] == [(0, 0), (0, 0)]
    assert [stat.filemode(one.st_mode) for one in found.values()] == ["srw-------", "drwxr-xr-x"]


async def test_another_user_gets_no_answer_even_by_an_open_socket(
    network: FakeNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel says who has connected."""
    words = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); sys.exit(len(s.recv(1)))"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "s"
        async with served(network, path):
            path.chmod(0o666)
            command = ("/usr/bin/python3", "-c", words, str(path))
            process = await asyncio.create_subprocess_exec(*command, user=65534, group=65534, extra_groups=[])
            assert await process.wait() == 0
    assert network.calls == []
    assert "is not root" in caplog.text


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
