# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from click.testing import CliRunner

from cli.__main__ import NOT_ASKED, Duration, ilanet
from cli.cluster import Absent, AccessError, ApiCluster, ClusterError, Ran, Refused, connected, path_of, proxy_path
from ila import VERSION


def kubeconfig(directory: Path, server: str) -> str:
    """Write a kubeconfig of a server without TLS."""
    tree = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
    }
    path = directory / "config"
    path.write_text(json.dumps(tree))
    return str(path)


# --- the API server ---

POD = path_of("ns", "pods", "one")
SUCCESS = b'{"status": "Success"}'
FAILURE = b'{"status": "Failure", "details": {"causes": [{"reason": "ExitCode", "message": "7"}]}}'


async def _object(request: web.Request) -> web.Response:
    assert request.headers["Authorization"] == "Bearer secret"
    kind = request.match_info["kind"]
    if kind == "silent":
        await asyncio.sleep(60)
    if kind == "nonsense":
        return web.Response(text="<html>")
    if kind == "forbidden":
        return web.json_response({"kind": "Status", "message": "pods is forbidden"}, status=403)
    if kind == "absent":
        return web.json_response({"kind": "Status", "message": "not found"}, status=404)
    said = {"method": request.method, "query": dict(request.query), "content": request.content_type}
    return web.json_response(said | {"body": await request.json() if request.can_read_body else None})


async def _exec(request: web.Request) -> web.StreamResponse:
    assert request.query.getall("command")[0] == "sh"
    how = request.query.getall("command")[1]
    if how == "refused":
        return web.Response(status=403)
    socket = web.WebSocketResponse(protocols=["v4.channel.k8s.io"])
    await socket.prepare(request)
    await socket.send_bytes(b"\x01out")
    await socket.send_bytes(b"\x02err")
    await socket.send_bytes(b"\x01put")
    if how == "slow":
        await asyncio.sleep(60)
    if how != "cut":
        await socket.send_bytes(b"\x03" + (SUCCESS if how == "well" else FAILURE))
    await socket.close()
    return socket


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ApiCluster]:
    """Yield the adapter in front of an API server that answers by what it is asked for."""
    application = web.Application()
    routes = [web.get(f"{POD}/exec", _exec), web.route("*", "/api/v1/namespaces/ns/{kind}/{name:.*}", _object)]
    application.add_routes(routes)
    runner = web.AppRunner(application, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "::1", 0).start()
    port = runner.addresses[0][1]
    async with connected(kubeconfig(tmp_path, f"http://[::1]:{port}"), None) as found:
        yield found
    await runner.cleanup()


async def test_objects(cluster: ApiCluster) -> None:
    """Reads, creations, merges and deletions are what the API server takes them for."""
    assert (await cluster.read(POD, labelSelector="a=b"))["query"] == {"labelSelector": "a=b"}
    assert await cluster.create(POD, {"a": 1}) == {
        "method": "POST", "query": {}, "content": "application/json", "body": {"a": 1},
    }  # fmt: skip
    assert (await cluster.patch(POD, {"a": 1}))["content"] == "application/merge-patch+json"
    await cluster.remove(POD)
    await cluster.remove(path_of("ns", "absent", "one"))
    text = await cluster.text(proxy_path("ns", "one", 9475, "status"), deadline=5)
    assert json.loads(text)["method"] == "GET"


async def test_what_the_api_server_refuses(cluster: ApiCluster) -> None:
    """Each way to fail has its error, with the server's own words."""
    with pytest.raises(Refused, match="403 pods is forbidden") as caught:
        await cluster.read(path_of("ns", "forbidden", "x"))
    assert caught.value.status == 403
    with pytest.raises(Absent, match="404 not found"):
        await cluster.read(path_of("ns", "absent", "x"))
    with pytest.raises(ClusterError, match="no JSON: '<html>'"):
        await cluster.read(path_of("ns", "nonsense", "x"))
    with pytest.raises(ClusterError, match=r"^no answer within 0\.05 s$"):
        await cluster.text(path_of("ns", "silent", "x"), deadline=0.05)


async def test_commands_in_pods(cluster: ApiCluster) -> None:
    """Both outputs and the exit status of a command come back; one that did not end so is an error."""
    assert await cluster.run("ns", "one", ["sh", "well"], deadline=5) == Ran(0, "output", "err")
    assert (await cluster.run("ns", "one", ["sh", "badly"], deadline=5)).status == 7
    with pytest.raises(ClusterError, match="cut off"):
        await cluster.run("ns", "one", ["sh", "cut"], deadline=5)
    with pytest.raises(ClusterError, match=r"no end within 0\.1 s"):
        await cluster.run("ns", "one", ["sh", "slow"], deadline=0.1)
    with pytest.raises(Refused, match="403"):
        await cluster.run("ns", "one", ["sh", "refused"], deadline=5)


@pytest.mark.parametrize("text", ["", "a: 1", "junk: [", "- 1"])
async def test_a_kubeconfig_that_is_none(tmp_path: Path, text: str) -> None:
    """Whatever stands in the file, the error is ours and names it."""
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(AccessError, match="config"):
        async with connected(str(path), None):
            pass


async def test_a_context_that_is_not_there(tmp_path: Path) -> None:
    """An unknown context is named."""
    with pytest.raises(AccessError, match="elsewhere"):
        async with connected(kubeconfig(tmp_path, "http://[::1]:1"), "elsewhere"):
            pass


async def test_an_api_server_that_is_away(tmp_path: Path) -> None:
    """Nobody listens: all calls say so."""
    async with connected(kubeconfig(tmp_path, "http://[::1]:1"), None) as cluster:
        with pytest.raises(ClusterError, match="does not answer"):
            await cluster.read(POD)
        with pytest.raises(ClusterError, match="exec in pod one"):
            await cluster.run("ns", "one", ["sh"], deadline=5)


# --- the command line ---


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(ilanet, words)
    return result.exit_code, result.output


@pytest.mark.parametrize(
    "words",
    [["status"], ["status", "--wait", "--timeout", "1s"], ["connectivity", "test"], ["status", "-o", "json"]],
)
def test_a_cluster_that_cannot_be_asked(tmp_path: Path, words: list[str]) -> None:
    """Every command ends with 2 and one line where the API server is away."""
    code, output = run("--kubeconfig", kubeconfig(tmp_path, "http://[::1]:1"), *words)
    assert code == NOT_ASKED
    assert output.splitlines()[-1].startswith("error: the API server does not answer")


def test_without_a_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none, the error says where it was looked for."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    code, output = run("status")
    assert (code, output.count("\n")) == (NOT_ASKED, 1)
    assert f"no kubeconfig: {tmp_path}/none is not there; name one with --kubeconfig" in output


@pytest.mark.parametrize(
    "words", [[], ["status"], ["connectivity"], ["connectivity", "test"], ["completion"]], ids=" ".join
)
def test_help_has_examples(words: list[str]) -> None:
    """Every command shows how it is used."""
    code, output = run(*words, "--help")
    assert code == 0
    assert "  ilanet" in output.partition("Example")[2]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    """A script for each shell, which names the variable that click answers to."""
    code, output = run("completion", shell)
    assert code == 0
    assert "_ILANET_COMPLETE" in output


def test_what_the_shell_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked by a shell's script, the command completes its own words."""
    monkeypatch.setenv("COMP_WORDS", "ilanet st")
    monkeypatch.setenv("COMP_CWORD", "1")
    monkeypatch.setenv("_ILANET_COMPLETE", "bash_complete")
    result = CliRunner().invoke(ilanet, prog_name="ilanet")
    assert result.output == "plain,status\n"


@pytest.mark.parametrize(
    "words",
    [
        ["status", "--timeout", "soon"],
        ["status", "--timeout", "0s"],
        ["connectivity", "test", "--outside", "fd00::1"],
        ["connectivity", "test", "--outside", "[fd00::1]:0"],
        ["completion", "csh"],
    ],
)
def test_words_that_are_wrong(words: list[str]) -> None:
    """What does not parse is quoted, before anybody is asked."""
    code, output = run(*words)
    assert code == 2
    assert repr(words[-1]) in output


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90.0), ("500ms", 0.5), ("1.5s", 1.5), ("2m", 120.0), ("1h", 3600)]
)
def test_durations(text: str, seconds: float) -> None:
    """Seconds, with or without a unit."""
    assert Duration().convert(text, None, None) == seconds


def test_the_version() -> None:
    """The command says ilanet's own version."""
    assert VERSION in run("--version")[1]
