# SPDX-License-Identifier: Apache-2.0
"""The plugin: one request of a runtime in, one answer out; asks the agent through the port Network."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cni import result, spec
from cni.result import Attachment
from cni.spec import AskedWrongly, Attached, CniError, Code, Command, PodName, Request

_LOG = logging.getLogger(__name__)

_GET_NAMESPACE_TYPE = 0xB703
_CLONE_NEWNET = 0x40000000
_OWN_NAMESPACE = Path("/proc/self/ns/net")


@dataclass(frozen=True, slots=True, kw_only=True)
class AddRequest:
    """Attach a container."""

    container_id: str
    interface: str
    """Name that the interface in the pod shall have."""

    netns: str
    """The runtime's path of the namespace: a name, which this process may not see."""

    netns_fd: int
    """The namespace itself, open for as long as the call lasts."""

    network: str
    """Name of the network configuration: GC frees by it."""

    pod: PodName
    keep_address: bool
    limited: bool
    """A plugin after ours limits the bandwidth by queueing disciplines on the host's end."""

    forwarded: bool
    """A plugin after ours forwards ports of the host to it, by rules of the host's netfilter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DelRequest:
    """Detach a container."""

    container_id: str
    interface: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """Look whether a container is attached as it was."""

    container_id: str
    interface: str
    netns_fd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GcRequest:
    """Free what a network has beyond the attachments that the runtime knows."""

    network: str
    keep: frozenset[Attached]


class Network(Protocol):
    """What the agent does for runtimes; raises CniError, of which AskedWrongly and TryAgain are the usual ones."""

    async def add(self, request: AddRequest) -> Attachment:
        """Attach, or return what is attached already; failed or cancelled, it leaves nothing behind.

        Code.INTERFACE_EXISTS if a foreign interface has the name, Code.REFUSED if the controller refuses.
        """

    async def delete(self, request: DelRequest) -> None:
        """Detach; what is not attached is detached already."""

    async def check(self, request: CheckRequest) -> Attachment:
        """Return the attachment if links, address and routes stand; Code.UNKNOWN_CONTAINER, Code.CHECK_FAILED."""

    async def gc(self, request: GcRequest) -> None:
        """Detach whatever else this network has, nothing of other networks; the error names all that failed.

        What is being added or deleted at the same time is left alone.
        """

    async def status(self) -> None:
        """Return if ADD can be served; Code.NOT_AVAILABLE says why not."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the executable does: print and exit."""

    exit_code: int
    stdout: bytes


def namespace_inode(descriptor: int) -> int:
    """Return the inode of an open network namespace; ValueError if it is something else."""
    try:
        kind = fcntl.ioctl(descriptor, _GET_NAMESPACE_TYPE)
    except OSError:
        raise ValueError("it is no namespace") from None
    if kind != _CLONE_NEWNET:
        raise ValueError("it is a namespace of another kind")
    return os.fstat(descriptor).st_ino


async def run(
    environment: Mapping[str, str],
    stdin: bytes,
    netns_fd: int | None,
    network: Network,
    *,
    inode: Callable[[int], int] = namespace_inode,
) -> Reply:
    """Answer one call of the executable; never raises but for cancellation."""
    try:
        return Reply(0, await _answer(environment, stdin, netns_fd, network, inode))
    except CniError as error:
        return Reply(1, result.failure(error, answer_version(stdin)))
    except Exception as error:  # noqa: BLE001 - the runtime must get an answer, the log gets the trace
        _LOG.exception("%s failed", environment.get("CNI_COMMAND"))
        internal = CniError(
            Code.INTERNAL, "the agent failed; its log has the trace", f"{type(error).__name__}: {error}"
        )
        return Reply(1, result.failure(internal, answer_version(stdin)))


def answer_version(stdin: bytes) -> str:
    """Return the version to answer in where the configuration may be wrong: the asked one if we know it."""
    try:
        version = spec.decode(stdin).get("cniVersion")
    except CniError:
        return spec.USUAL_VERSION
    return version if version in spec.VERSIONS else spec.USUAL_VERSION


async def _answer(
    environment: Mapping[str, str],
    stdin: bytes,
    netns_fd: int | None,
    network: Network,
    inode: Callable[[int], int],
) -> bytes:
    if spec.parse_command(environment) is Command.VERSION:
        return result.versions(_asked_version(stdin))
    request = spec.parse(environment, stdin)
    if request.command is Command.ADD:
        return await _add(request, _namespace(request, netns_fd, inode), network)
    if request.command is Command.DEL:
        await network.delete(DelRequest(container_id=request.container_id, interface=request.interface))
        return b""
    if request.command is Command.CHECK:
        await _check(request, _namespace(request, netns_fd, inode), network)
        return b""
    if request.command is Command.GC:
        await network.gc(GcRequest(network=request.config.name, keep=request.config.attachments))
        return b""
    await network.status()
    return b""


def _asked_version(stdin: bytes) -> str:
    """Return the version that VERSION is asked in; it works without any input."""
    try:
        version = spec.decode(stdin).get("cniVersion")
    except CniError:
        version = None
    return version if isinstance(version, str) and version else spec.VERSIONS[-1]


def _namespace(request: Request, descriptor: int | None, inode: Callable[[int], int]) -> int:
    """Return the descriptor of the pod's namespace; CniError 8 if it is none, or the agent's own."""
    what = f"CNI_NETNS {request.netns!r}"
    if descriptor is None:
        raise AskedWrongly(Code.INVALID_NAMESPACE, f"{what} cannot be opened")
    try:
        number = inode(descriptor)
    except ValueError as error:
        raise AskedWrongly(Code.INVALID_NAMESPACE, f"{what} is no network namespace", str(error)) from error
    if number == _OWN_NAMESPACE.stat().st_ino and not request.override:
        raise AskedWrongly(Code.INVALID_NAMESPACE, f"{what} is the host's own network namespace")
    return descriptor


async def _add(request: Request, netns_fd: int, network: Network) -> bytes:
    if request.config.keep_address and not request.pod.name:
        raise AskedWrongly(
            Code.INVALID_CONFIG, "an address can be kept for named pods only", "CNI_ARGS has no K8S_POD_NAME"
        )
    attachment = await network.add(
        AddRequest(
            container_id=request.container_id,
            interface=request.interface,
            netns=request.netns,
            netns_fd=netns_fd,
            network=request.config.name,
            pod=request.pod,
            keep_address=request.config.keep_address,
            limited=request.config.limited,
            forwarded=request.config.forwarded,
        )
    )
    return result.success(attachment, config=request.config, interface=request.interface, netns=request.netns)


async def _check(request: Request, netns_fd: int, network: Network) -> None:
    previous = request.config.previous
    if previous is None:
        raise AskedWrongly(Code.INVALID_CONFIG, "CHECK needs prevResult, which is missing")
    attachment = await network.check(
        CheckRequest(container_id=request.container_id, interface=request.interface, netns_fd=netns_fd)
    )
    _compare(previous, request, attachment)


def _compare(previous: Mapping[str, Any], request: Request, attachment: Attachment) -> None:
    """See that the result of ADD, which later plugins may have added to, still tells of this attachment."""
    interfaces = previous.get("interfaces") or []
    ours = [
        item for item in interfaces if (item.get("name"), item.get("sandbox")) == (request.interface, request.netns)
    ]
    if not ours:
        raise CniError(
            Code.CHECK_FAILED, f"prevResult has no interface {request.interface!r} in sandbox {request.netns!r}"
        )
    mac = str(ours[0].get("mac") or attachment.pod_mac).lower()
    if mac != attachment.pod_mac:
        raise CniError(Code.CHECK_FAILED, f"prevResult has MAC {mac}, the pod has {attachment.pod_mac}")
    wanted = f"{attachment.address}/128"
    addresses = [str(item.get("address")) for item in previous.get("ips") or []]
    if wanted not in addresses:
        raise CniError(Code.CHECK_FAILED, f"prevResult lacks address {wanted}", f"it has {', '.join(addresses)}")
