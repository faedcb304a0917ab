# SPDX-License-Identifier: Apache-2.0
"""The CNI executable against whatever else may sit on its socket: nothing, somebody else, garbage."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path

import pytest

from agent.cni_server import listen
from cni.spec import VERSIONS, Code
from tests.shim.program import CONFIG, DEADLINE, GARBAGE, Answer, Shim, drain, framed, rogue

CODES = {"ADD": Code.TRY_AGAIN_LATER, "CHECK": Code.TRY_AGAIN_LATER, "GC": Code.TRY_AGAIN_LATER}
CODES["STATUS"] = Code.NOT_AVAILABLE


def refused(answer: Answer, command: str) -> None:
    """Assert that the runtime sees the specification's error, and nothing else."""
    assert (answer.exit_code, answer.stderr) == (1, "")
    assert set(answer.tree) == {"cniVersion", "code", "msg", "details"}
    assert (answer.tree["code"], answer.tree["cniVersion"]) == (CODES[command], "1.1.0")


@pytest.mark.parametrize("command", CODES)
@pytest.mark.parametrize("kind", GARBAGE)
async def test_garbage_on_the_socket_is_code_11(shim: Shim, kind: str, command: str) -> None:
    """For STATUS 50; nothing of it reaches stdout."""

    def serve(connection: socket.socket) -> None:
        drain(connection)
        connection.sendall(GARBAGE[kind])

    refused(await rogue(shim, serve, command), command)


@pytest.mark.parametrize(("command", "output"), [("ADD", b""), ("CHECK", b"{}"), ("GC", b"{}"), ("STATUS", b"{}")])
async def test_a_success_of_another_command_is_code_11(shim: Shim, command: str, output: bytes) -> None:
    """ADD has a result, the others have none: an answer to something else is no answer."""

    def serve(connection: socket.socket) -> None:
        drain(connection)
        connection.sendall(framed(0, output))

    refused(await rogue(shim, serve, command), command)


@pytest.mark.parametrize("begin", [framed(0, size=100 << 20), b"", framed(1, b"{}")])
async def test_a_hundred_megabytes_end_at_the_limit(shim: Shim, begin: bytes) -> None:
    """Announced or not; what comes behind a whole answer is not read."""
    load = b"{" * (100 << 20)  # made before the executable counts its time

    def serve(connection: socket.socket) -> None:
        drain(connection)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(begin)
            connection.sendall(load)

    answer = await rogue(shim, serve)
    if begin.endswith(b"{}"):
        assert (answer.exit_code, answer.stdout) == (1, b"{}")
    else:
        refused(answer, "ADD")


@pytest.mark.parametrize("sent", [b"", framed(0, size=10), framed(0, b"{", size=10)])
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
