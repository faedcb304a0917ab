# SPDX-License-Identifier: Apache-2.0
"""DELs that the CNI executable keeps on disk while the agent is away."""

import socket
import subprocess
from contextlib import closing

import pytest

from agent.cni_server import listen
from cni.spec import Code
from tests.shim.program import CONFIG, DEADLINE, GARBAGE, LARGEST_QUEUE, FakeNetwork, Shim, drain, queued, rogue, served


async def test_a_del_without_the_agent_succeeds_and_is_kept(shim: Shim) -> None:
    """R19: silent success; what was asked stands whole in the queue, once however often it is asked."""
    for _ in range(2):
        answer = await shim.ask("DEL", CNI_NETNS="/run/netns/gone", CNI_ARGS="A=B")
        assert (answer.exit_code, answer.stdout, answer.stderr) == (0, b"", "")
        (file,) = shim.queue.iterdir()
        assert (file.name, file.stat().st_mode & 0o777) == ("c0ffee:eth0", 0o600)
        environment, stdin = queued(file.read_bytes())
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
