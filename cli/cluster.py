# SPDX-License-Identifier: Apache-2.0
"""The API server as an operator reaches it: a port, and its one adapter, which alone knows the client and its errors.

Objects are trees, as the API server has them, under its own paths: no kind needs a class here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.stream import WsApiClient

Tree = Mapping[str, Any]
"""An object of Kubernetes."""

DEADLINE = 15.0
"""Seconds of a call that says nothing else."""

_MERGE = "application/merge-patch+json"
_STDOUT, _STDERR, _END = 1, 2, 3
"""Channels of exec (Kubernetes' subprotocol v4.channel.k8s.io): what is written, and how it ended."""


class ClusterError(Exception):
    """The cluster could not be asked, or failed."""


class AccessError(ClusterError):
    """There is no way in: no kubeconfig, no such context, or one that does not parse."""


class Refused(ClusterError):  # noqa: N818 - as elsewhere
    """The API server answered that it will not do this; `status` is HTTP's."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Absent(Refused):
    """The object is not there."""

    def __init__(self, message: str) -> None:
        super().__init__(message, HTTPStatus.NOT_FOUND)


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command in a pod ended: its exit status and what it wrote."""

    status: int
    out: str
    err: str


class Cluster(Protocol):
    """What the commands ask of a cluster; all raise ClusterError."""

    async def read(self, path: str, **query: str) -> Tree:
        """Return an object or a list."""

    async def text(self, path: str, *, deadline: float, **query: str) -> str:
        """Return what is served there, such as by a pod behind the proxy subresource."""

    async def create(self, path: str, tree: Tree) -> Tree:
        """Create an object in a collection; return it as stored."""

    async def patch(self, path: str, tree: Tree) -> Tree:
        """Merge a tree (RFC 7396) into an object."""

    async def remove(self, path: str) -> None:
        """Delete an object; one that is not there is no error."""

    async def run(self, namespace: str, pod: str, command: Sequence[str], *, deadline: float) -> Ran:
        """Run a command in a pod's first container."""


def path_of(namespace: str, plural: str, name: str = "", *, group: str = "api/v1") -> str:
    """Return the path of a collection in a namespace, or of an object in it."""
    path = f"/{group}/namespaces/{quote(namespace)}/{plural}"
    return f"{path}/{quote(name)}" if name else path


def proxy_path(namespace: str, pod: str, port: int, what: str) -> str:
    """Return the path under which the API server passes a request on to a pod."""
    return f"{path_of(namespace, 'pods', pod)}:{port}/proxy/{what}"


@contextlib.asynccontextmanager
async def connected(kubeconfig: str | None, context: str | None) -> AsyncIterator[ApiCluster]:
    """Yield the cluster of a kubeconfig ($KUBECONFIG and ~/.kube/config without) and one of its contexts."""
    paths = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    if not any(Path(path).expanduser().is_file() for path in paths.split(os.pathsep) if path):
        raise AccessError(f"no kubeconfig: {paths} is not there; name one with --kubeconfig, or set KUBECONFIG")
    settings = client.Configuration()
    try:
        await config.load_kube_config(paths, context, client_configuration=settings, persist_config=False)
    except Exception as error:  # beside its own the client lets its parsers' errors through
        raise AccessError(f"no kubeconfig that can be used in {paths}: {type(error).__name__}: {error}") from error
    async with client.ApiClient(settings) as api, WsApiClient(settings) as socket:
        yield ApiCluster(api, socket)


class ApiCluster:
    """Implements Cluster by the Kubernetes client."""

    def __init__(self, api: client.ApiClient, socket: WsApiClient) -> None:
        self._api = api
        self._socket = socket

    async def read(self, path: str, **query: str) -> Tree:
        """See Cluster."""
        return _tree(path, await self._call("GET", path, query=query))

    async def text(self, path: str, *, deadline: float, **query: str) -> str:
        """See Cluster."""
        return await self._call("GET", path, query=query, deadline=deadline, named="")

    async def create(self, path: str, tree: Tree) -> Tree:
        """See Cluster."""
        return _tree(path, await self._call("POST", path, body=tree))

    async def patch(self, path: str, tree: Tree) -> Tree:
        """See Cluster."""
        return _tree(path, await self._call("PATCH", path, body=tree, content=_MERGE))

    async def remove(self, path: str) -> None:
        """See Cluster."""
        with contextlib.suppress(Absent):
            await self._call("DELETE", path)

    async def run(self, namespace: str, pod: str, command: Sequence[str], *, deadline: float) -> Ran:
        """See Cluster."""
        path = f"{path_of(namespace, 'pods', pod)}/exec"
        query = [("command", word) for word in command] + [("stdout", "true"), ("stderr", "true")]
        written = {_STDOUT: b"", _STDERR: b"", _END: b""}
        try:
            async with asyncio.timeout(deadline):
                _, url, headers, *_ = await self._socket.param_serialize(
                    "GET", path, query_params=query, header_params={}, auth_settings=["BearerToken"]
                )
                opened: Any = await self._socket.request("GET", url, headers=headers, _preload_content=False)
                async with opened as messages:
                    async for message in messages:
                        if message.type is aiohttp.WSMsgType.BINARY and message.data and message.data[0] in written:
                            written[message.data[0]] += message.data[1:]
        except aiohttp.WSServerHandshakeError as error:
            raise Refused(f"exec in pod {pod}: the API server says {error.status}", error.status) from error
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise ClusterError(f"exec in pod {pod}: {str(error) or f'no end within {deadline:g} s'}") from error
        status = exit_status(pod, written[_END])
        return Ran(status, written[_STDOUT].decode(errors="replace"), written[_STDERR].decode(errors="replace"))

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Tree | None = None,
        content: str = "application/json",
        deadline: float = DEADLINE,
        named: str | None = None,
    ) -> str:
        """Return the body of the answer; an error's message begins with what is `named`, or else with the path."""
        where = f"{path}: " if named is None else named
        try:
            request = await self._api.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params={"Accept": "application/json, */*", "Content-Type": content},
                body=body,
                auth_settings=["BearerToken"],
            )
            async with asyncio.timeout(deadline):
                answer = await self._api.call_api(*request, _request_timeout=deadline)
                text = str(await answer.read(), errors="replace")
        except TimeoutError as error:
            raise ClusterError(f"{where}no answer within {deadline:g} s") from error
        except (ApiException, aiohttp.ClientError, OSError) as error:
            raise ClusterError(f"the API server does not answer: {error}") from error
        if answer.status >= HTTPStatus.BAD_REQUEST:
            raise _refusal(where, answer.status, text)
        return text


def exit_status(pod: str, said: bytes) -> int:
    """Return a command's exit status from the last word of exec: a Status; ClusterError if it did not run."""
    try:
        tree = json.loads(said)
        if tree["status"] == "Success":
            return 0
        causes = tree.get("details", {}).get("causes", [])
        return next(int(one["message"]) for one in causes if one["reason"] == "ExitCode")
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise ClusterError(f"exec in pod {pod}: {said.decode(errors='replace') or 'it was cut off'}") from error


def _tree(path: str, text: str) -> Tree:
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise ClusterError(f"{path}: the answer is no JSON: {text[:200]!r}") from error
    if not isinstance(tree, dict):
        raise ClusterError(f"{path}: the answer is no object: {text[:200]!r}")
    return tree


def _refusal(where: str, status: int, text: str) -> Refused:
    """Return the error that an answer is: a Status of Kubernetes says it in words."""
    try:
        words = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        words = text.strip()[:200]
    message = f"{where}{status} {words}"
    return Absent(message) if status == HTTPStatus.NOT_FOUND else Refused(message, status)
