# SPDX-License-Identifier: Apache-2.0
"""What runtimes ask of this node's endpoints: add, delete, check, gc, status; the Network behind the CNI commands."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from agent.assembly import Assembly
from agent.core.claims import pod_link
from agent.core.datapath import Datapath, DatapathError
from agent.core.endpoint import Endpoint, Pod
from agent.core.network import (
    GATEWAY,
    NetworkError,
    Wiring,
    host_name,
)
from agent.core.ports import ControllerError, Registration
from agent.core.status import Status
from agent.endpoint_table import EndpointTable
from agent.pool import uninterrupted
from agent.publications import Publications
from agent.releases import Releases
from cni.plugin import AddRequest, CheckRequest, DelRequest, GcRequest
from cni.result import Attachment
from cni.spec import AskedWrongly, Attached, CniError, Code, TryAgain

log = logging.getLogger("ilanet.endpoints")

T = TypeVar("T")

RELEASE_WAIT = 2.0
"""Seconds that a DEL waits for the controller before the release goes on in the background."""


class Endpoints:
    """Every endpoint of this node, by the name of its host link."""

    def __init__(
        self,
        *,
        address: ipaddress.IPv6Address,
        assembly: Assembly,
        datapath: Datapath,
        wiring: Wiring,
        table: EndpointTable,
        publications: Publications,
        releases: Releases,
        status: Status,
        pool: Executor,
        forget_queued: Callable[[str, str], None],
    ) -> None:
        """Take the parts around it; forget_queued drops a DEL that the executable queued for an attachment."""
        self._address = address
        self._assembly = assembly
        self._datapath = datapath
        self._wiring = wiring
        self._table = table
        self._publications = publications
        self._releases = releases
        self._status = status
        self._pool = pool
        self._forget_queued = forget_queued
        self._adds: dict[str, int] = {}
        """By host link: how often it was added; one that was added meanwhile is not GC's to free."""

    # --- what the runtime asks ---

    async def add(self, request: AddRequest) -> Attachment:
        """Attach a pod; a repeated call for the same attachment gives the same answer."""
        name = host_name(request.container_id, request.interface)
        async with self._table.exclusively(request.container_id, name):
            self._adds[name] = self._adds.get(name, 0) + 1
            registration = self._serving()
            self._refuse_second(request)
            self._forget_queued(request.container_id, request.interface)
            known = self._table.get(name)
            if known is not None and known.attached:
                if await self._is_wired(known, registration, request.netns_fd):
                    return self._attachment(known, registration)
                try:
                    await self._assembly.take_apart(known)
                except (NetworkError, DatapathError) as error:
                    raise TryAgain(f"what is left of pod {known.pod} cannot be removed", str(error)) from error
            pod = Pod(
                namespace=request.pod.namespace,
                name=request.pod.name,
                uid=request.pod.uid,
                keep_address=request.keep_address,
            )
            endpoint = await self._assembly.build(
                request, pod=pod, name=name, mtu=self._status.mtu, registration=registration
            )
        asyncio.get_running_loop().call_soon(_log_added, endpoint, registration)  # the answer is out before
        self._publications.later()
        await self._end_earlier(endpoint)
        return self._attachment(endpoint, registration)

    async def delete(self, request: DelRequest) -> None:
        """Detach a pod; succeeds for one that is gone or was never here."""
        name = host_name(request.container_id, request.interface)
        async with self._table.exclusively(request.container_id, name):
            self._adds.pop(name, None)
            endpoint = self._table.get(name)
            recorded = True
            try:
                if endpoint is None:
                    await self._in_pool(self._wiring.unwire, name)
                    return
                if endpoint.attached:
                    recorded = await self._assembly.take_apart(endpoint)
                elif not self._table.is_on_disk(name):
                    recorded = await self._assembly.give_up(endpoint)
            except (NetworkError, DatapathError) as error:
                raise _not_detached(request, str(error)) from error
            await self._release(self._table.get(name) or endpoint, request, recorded=recorded)

    async def _release(self, endpoint: Endpoint, request: DelRequest, *, recorded: bool) -> None:
        """Give the identifier back now, or in the background if the disk remembers that it is to be."""
        try:
            async with asyncio.timeout(RELEASE_WAIT):
                await self._releases.release(endpoint)
        except (TimeoutError, ControllerError, OSError) as error:
            reason = str(error) or "no answer in time"
            if not recorded:
                raise _not_detached(request, reason) from error
            log.warning(
                "release of %s goes on in the background: %s", endpoint.pod, reason, extra={"pod": str(endpoint.pod)}
            )
            self._releases.later()

    async def check(self, request: CheckRequest) -> Attachment:
        """Return the attachment if it is whole; CniError names what is missing."""
        name = host_name(request.container_id, request.interface)
        async with self._table.exclusively(request.container_id, name):
            registration = self._serving()
            endpoint = self._table.get(name)
            if endpoint is None or not endpoint.attached:
                raise AskedWrongly(
                    Code.UNKNOWN_CONTAINER, f"container {request.container_id!r} has no {request.interface!r} here"
                )
            try:
                await self._in_pool(
                    self._wiring.check, pod_link(endpoint, registration, self._address), request.netns_fd
                )
            except NetworkError as error:
                raise CniError(Code.CHECK_FAILED, f"pod {endpoint.pod} is not as it was made", str(error)) from error
            entry = self._datapath.read_endpoints().get(endpoint.identifier.value)
            if entry is None or entry.interface_index not in self._datapath.attached():
                raise CniError(Code.CHECK_FAILED, f"pod {endpoint.pod} has no way through the datapath", name)
            return self._attachment(endpoint, registration)

    async def gc(self, request: GcRequest) -> None:
        """Detach every endpoint of a network that the runtime no longer has; one that is being worked on stays."""
        stale = [
            (endpoint, self._adds.get(endpoint.host_name))
            for endpoint in self._table.wired()
            if endpoint.network == request.network
            and Attached(endpoint.container_id, endpoint.interface) not in request.keep
            and not self._table.is_busy(endpoint.host_name)
        ]
        failures = []
        for listed, adds in stale:
            async with self._table.exclusively(listed.container_id, listed.host_name):
                endpoint = self._table.get(listed.host_name)
                if endpoint is None or not endpoint.attached or self._adds.get(listed.host_name) != adds:
                    continue
                log.warning(
                    "%s of container %s is no longer the runtime's",
                    endpoint.pod,
                    endpoint.container_id,
                    extra={"pod": str(endpoint.pod)},
                )
                try:
                    await self._assembly.take_apart(endpoint)
                    self._adds.pop(endpoint.host_name, None)
                except (NetworkError, DatapathError) as error:
                    failures.append(f"{endpoint.pod}: {error}")
        self._releases.later()
        if failures:
            raise CniError(Code.IO_FAILURE, f"{len(failures)} of {len(stale)} are not freed", "; ".join(failures))

    async def status(self) -> None:
        """Return if ADD can be served; CniError says why not.  Everything that one takes is looked at."""
        try:
            self._serving()
            await self._assembly.check()
        except CniError as error:
            raise CniError(Code.NOT_AVAILABLE, error.message, error.details) from error

    # --- small pieces ---

    async def _end_earlier(self, endpoint: Endpoint) -> None:
        """Take apart what earlier sandboxes of this very pod have left: a runtime that was killed forgets them."""
        if endpoint.pod.keeps:
            return
        for other in self._table.of_owner(endpoint.pod):
            if other.container_id == endpoint.container_id or not other.attached:
                continue
            async with self._table.exclusively(other.container_id, other.host_name):
                if self._table.get(other.host_name) is other:
                    with contextlib.suppress(NetworkError, DatapathError):  # its own DEL tries again
                        await self._assembly.take_apart(other)
        self._releases.later()

    def _serving(self) -> Registration:
        registration = self._status.registration
        if registration is None or not self._status.serving:
            why = "; ".join(f"{what}: {reason}" for what, reason in self._status.problems.items())
            raise TryAgain("this node is not ready", why or "the agent has just started")
        return registration

    def _refuse_second(self, request: AddRequest) -> None:
        for other in self._table.of_container(request.container_id):
            if other.attached and other.interface != request.interface:
                raise AskedWrongly(
                    Code.REFUSED, f"container {request.container_id!r} is attached as {other.interface!r} already"
                )

    async def _is_wired(self, endpoint: Endpoint, registration: Registration, netns_fd: int) -> bool:
        try:
            await self._in_pool(self._wiring.check, pod_link(endpoint, registration, self._address), netns_fd)
        except NetworkError as error:
            log.warning("pod %s is made anew: %s", endpoint.pod, error, extra={"pod": str(endpoint.pod)})
            return False
        return True

    def _attachment(self, endpoint: Endpoint, registration: Registration) -> Attachment:
        link = pod_link(endpoint, registration, self._address)
        return Attachment(
            address=link.address,
            gateway=GATEWAY,
            host_name=endpoint.host_name,
            host_mac=link.host_mac.hex(":"),
            pod_mac=link.pod_mac.hex(":"),
            mtu=endpoint.mtu,
        )

    async def _in_pool(self, call: Callable[..., T], *arguments: object) -> T:
        return await uninterrupted(self._pool, call, *arguments)


def _not_detached(request: DelRequest, reason: str) -> TryAgain:
    return TryAgain(f"container {request.container_id!r} cannot be detached from {request.interface!r} now", reason)


def _log_added(endpoint: Endpoint, registration: Registration) -> None:
    address = registration.domain.sir_prefix.address(endpoint.identifier)
    log.info("added %s as %s on %s", endpoint.pod, address, endpoint.host_name, extra={"pod": str(endpoint.pod)})
