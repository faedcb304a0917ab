# SPDX-License-Identifier: Apache-2.0
"""The endpoints of this node: adds, checks, deletes and restores them; the Network behind the CNI commands.

The life of a pod: `add` asks the controller for the identifier, wires the pod, opens the datapath and writes the
record; `delete` turns each of these back.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from typing import Protocol, TypeVar

from agent.core.claims import pod_link
from agent.core.datapath import Datapath, DatapathError, EndpointEntry
from agent.core.endpoint import UNKNOWN, Endpoint, Pod, State
from agent.core.network import (
    GATEWAY,
    InterfaceExists,
    NetworkError,
    WiredPod,
    Wiring,
    host_name,
)
from agent.core.ports import Controller, ControllerError, Refused, Registration
from agent.core.status import Status
from agent.endpoint_table import EndpointTable
from agent.pool import uninterrupted
from agent.publications import Publications
from agent.releases import Releases
from agent.reserve import Reserve
from cni.plugin import AddRequest, CheckRequest, DelRequest, GcRequest
from cni.result import Attachment
from cni.spec import AskedWrongly, Attached, CniError, Code, TryAgain
from ila.mapping import Generation

log = logging.getLogger("ilanet.endpoints")

T = TypeVar("T")

RELEASE_WAIT = 2.0
"""Seconds that a DEL waits for the controller before the release goes on in the background."""


class Timings(Protocol):
    """Where the time of an operation goes: told step by step."""

    def observe(self, operation: str, step: str, seconds: float) -> None:
        """Take the duration of one step in."""


class Endpoints:
    """Every endpoint of this node, by the name of its host link."""

    def __init__(
        self,
        *,
        address: ipaddress.IPv6Address,
        controller: Controller,
        datapath: Datapath,
        wiring: Wiring,
        table: EndpointTable,
        publications: Publications,
        releases: Releases,
        reserve: Reserve,
        status: Status,
        timings: Timings,
        pool: Executor,
        forget_queued: Callable[[str, str], None],
    ) -> None:
        """Take the parts around it; forget_queued drops a DEL that the executable queued for an attachment."""
        self._address = address
        self._controller = controller
        self._datapath = datapath
        self._wiring = wiring
        self._table = table
        self._publications = publications
        self._releases = releases
        self._reserve = reserve
        self._status = status
        self._timings = timings
        self._pool = pool
        self._forget_queued = forget_queued

    # --- what the runtime asks ---

    async def add(self, request: AddRequest) -> Attachment:
        """Attach a pod; a repeated call for the same attachment gives the same answer."""
        name = host_name(request.container_id, request.interface)
        async with self._table.exclusively(request.container_id, name):
            registration = self._serving()
            self._refuse_second(request)
            self._forget_queued(request.container_id, request.interface)
            known = self._table.get(name)
            if known is not None and known.attached:
                if await self._is_wired(known, registration, request.netns_fd):
                    return self._attachment(known, registration)
                await self._take_apart(known)
            pod = Pod(
                namespace=request.pod.namespace,
                name=request.pod.name,
                uid=request.pod.uid,
                keep_address=request.keep_address,
            )
            started = time.perf_counter()
            async with AsyncExitStack() as undo:
                endpoint = await self._build(undo, request, pod, name, registration)
                undo.pop_all()
            self._timings.observe("add", "total", time.perf_counter() - started)
            log.info("added %s as %s on %s", pod, registration.domain.sir_prefix.address(endpoint.identifier), name)
        self._publications.later()
        await self._end_earlier(endpoint)
        return self._attachment(endpoint, registration)

    async def delete(self, request: DelRequest) -> None:
        """Detach a pod; succeeds for one that is gone or was never here."""
        name = host_name(request.container_id, request.interface)
        async with self._table.exclusively(request.container_id, name):
            endpoint = self._table.get(name)
            try:
                if endpoint is None:
                    await self._in_pool(self._wiring.unwire, name)
                    return
                if endpoint.attached:
                    endpoint = await self._take_apart(endpoint)
            except (NetworkError, DatapathError, OSError) as error:
                what = f"container {request.container_id!r} cannot be detached from {request.interface!r} now"
                raise TryAgain(what, str(error)) from error
            try:
                async with asyncio.timeout(RELEASE_WAIT):
                    await self._releases.release(endpoint)
            except (TimeoutError, ControllerError) as error:
                log.warning("release of %s goes on in the background: %s", endpoint.pod, error or "no answer in time")
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
            endpoint
            for endpoint in self._table.wired()
            if endpoint.network == request.network
            and Attached(endpoint.container_id, endpoint.interface) not in request.keep
            and not self._table.is_busy(endpoint.host_name)
        ]
        failures = []
        for endpoint in stale:
            async with self._table.exclusively(endpoint.container_id, endpoint.host_name):
                if self._table.get(endpoint.host_name) is not endpoint:
                    continue
                log.warning("%s of container %s is no longer the runtime's", endpoint.pod, endpoint.container_id)
                try:
                    await self._take_apart(endpoint)
                except (NetworkError, DatapathError, OSError) as error:
                    failures.append(f"{endpoint.pod}: {error}")
        self._releases.later()
        if failures:
            raise CniError(Code.IO_FAILURE, f"{len(failures)} of {len(stale)} are not freed", "; ".join(failures))

    async def status(self) -> None:
        """Return if ADD can be served; CniError says why not."""
        try:
            self._serving()
        except TryAgain as error:
            raise CniError(Code.NOT_AVAILABLE, error.message, error.details) from error

    # --- the parts of add and delete, undo beside do ---

    async def _build(
        self, undo: AsyncExitStack, request: AddRequest, pod: Pod, name: str, registration: Registration
    ) -> Endpoint:
        blank = Endpoint(
            container_id=request.container_id,
            interface=request.interface,
            host_name=name,
            network=request.network,
            identifier=UNKNOWN,
            pod=pod,
            generation=Generation(0, 0),
            mtu=self._status.mtu,
            limited=request.limited,
            by_stack=request.limited or request.forwarded,
            state=State.RELEASING,
        )
        with self._timed("assign"):
            endpoint = self._from_reserve(blank) or await self._from_controller(undo, blank)
        undo.push_async_callback(self._give_up, endpoint)
        undo.push_async_callback(self._in_pool, self._wiring.unwire, name)
        recording = asyncio.ensure_future(self._record(endpoint))
        try:
            with self._timed("wire"):
                wired = await self._wire(endpoint, registration, request.netns_fd)
            with self._timed("datapath"):
                undo.callback(self._close, endpoint)
                self._open(endpoint, wired)
        finally:
            with self._timed("record"):
                await recording
        return endpoint

    def _from_reserve(self, blank: Endpoint) -> Endpoint | None:
        """Give a pod an identifier that this node has: its own of an earlier sandbox here, or one of the reserve.

        A pod that keeps its address may have one elsewhere: only the controller knows.
        """
        if blank.pod.keep_address:
            return None
        earlier = [other for other in self._table.of_owner(blank.pod) if other.identifier != UNKNOWN]
        if earlier:
            newest = max(earlier, key=lambda other: other.generation)
            after = Generation(newest.generation.epoch, newest.generation.revision + 1)
            return replace(blank, identifier=newest.identifier, generation=after, state=State.UNPUBLISHED)
        identifier = self._reserve.take()
        return None if identifier is None else replace(blank, identifier=identifier, state=State.UNPUBLISHED)

    async def _from_controller(self, undo: AsyncExitStack, blank: Endpoint) -> Endpoint:
        """Ask for an identifier; the disk knows of the question first, so that an answer nobody hears is released."""
        pod = blank.pod
        undo.callback(self._releases.later)
        take_over = self._table.has_older(blank)
        await self._record(blank)
        try:
            identifier, generation = await self._controller.assign(
                pod=pod, container_id=blank.container_id, take_over=take_over
            )
        except ControllerError as error:
            raise TryAgain(f"no identifier for pod {pod}", str(error)) from error
        except Refused as refusal:
            if refusal.held:
                raise TryAgain(f"pod {pod}: its identifier is held", str(refusal)) from refusal
            raise AskedWrongly(Code.REFUSED, f"pod {pod} gets no identifier", str(refusal)) from refusal
        return replace(blank, identifier=identifier, generation=generation, state=State.WIRED)

    def _open(self, endpoint: Endpoint, wired: WiredPod) -> None:
        """Let the endpoint's packets through."""
        entry = EndpointEntry(
            interface_index=wired.host_index,
            pod_mac=wired.pod_mac,
            host_mac=wired.host_mac,
            by_stack=endpoint.by_stack,
        )
        try:
            self._datapath.attach_pod(wired.host_index, limited=endpoint.limited)
            self._datapath.write_endpoint(endpoint.identifier.value, entry)
        except DatapathError as error:
            message = f"pod {endpoint.pod} gets no way through the datapath"
            raise CniError(Code.IO_FAILURE, message, str(error)) from error

    async def _record(self, endpoint: Endpoint) -> None:
        try:
            await self._table.save(endpoint)
        except OSError as error:
            message = f"the record of pod {endpoint.pod} cannot be written"
            raise CniError(Code.IO_FAILURE, message, str(error)) from error

    async def _wire(self, endpoint: Endpoint, registration: Registration, netns_fd: int) -> WiredPod:
        try:
            return await self._in_pool(self._wiring.wire, pod_link(endpoint, registration, self._address), netns_fd)
        except InterfaceExists as error:
            raise AskedWrongly(Code.INTERFACE_EXISTS, f"pod {endpoint.pod} could not be wired", str(error)) from error
        except NetworkError as error:
            raise CniError(Code.IO_FAILURE, f"pod {endpoint.pod} could not be wired", str(error)) from error

    async def _end_earlier(self, endpoint: Endpoint) -> None:
        """Take apart what earlier sandboxes of this very pod have left: a runtime that was killed forgets them."""
        if endpoint.pod.keep_address:
            return
        for other in self._table.of_owner(endpoint.pod):
            if other.container_id == endpoint.container_id or not other.attached:
                continue
            async with self._table.exclusively(other.container_id, other.host_name):
                if self._table.get(other.host_name) is other:
                    with contextlib.suppress(NetworkError, DatapathError, OSError):  # its own DEL tries again
                        await self._take_apart(other)
        self._releases.later()

    async def _give_up(self, endpoint: Endpoint) -> None:
        """Turn an identifier back, now or, if the controller is away, later."""
        await self._table.save(replace(endpoint, state=State.RELEASING))
        self._releases.later()

    def _close(self, endpoint: Endpoint) -> None:
        """Take the identifier out of the datapath, unless another endpoint here has taken it over."""
        others = (other for other in self._table.wired() if other.host_name != endpoint.host_name)
        if all(other.identifier != endpoint.identifier for other in others):
            self._datapath.delete_endpoint(endpoint.identifier.value)

    async def _take_apart(self, endpoint: Endpoint) -> Endpoint:
        """Detach a wired endpoint and remember that the controller must hear of it."""
        releasing = replace(endpoint, state=State.RELEASING)
        self._close(endpoint)
        await self._in_pool(self._wiring.unwire, endpoint.host_name)
        await self._table.save(releasing)
        log.info("removed %s from %s", endpoint.pod, endpoint.host_name)
        return releasing

    # --- small pieces ---

    def _serving(self) -> Registration:
        registration = self._status.registration
        if registration is None or not self._status.serving:
            why = "; ".join(f"{what}: {reason}" for what, reason in self._status.problems.items())
            raise TryAgain("this node is not ready", why or "the agent has just started")
        return registration

    def _refuse_second(self, request: AddRequest) -> None:
        for other in self._table.wired():
            if other.container_id == request.container_id and other.interface != request.interface:
                raise AskedWrongly(
                    Code.REFUSED, f"container {request.container_id!r} is attached as {other.interface!r} already"
                )

    async def _is_wired(self, endpoint: Endpoint, registration: Registration, netns_fd: int) -> bool:
        try:
            await self._in_pool(self._wiring.check, pod_link(endpoint, registration, self._address), netns_fd)
        except NetworkError as error:
            log.warning("pod %s is made anew: %s", endpoint.pod, error)
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

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._timings.observe("add", step, time.perf_counter() - started)

    async def _in_pool(self, call: Callable[..., T], *arguments: object) -> T:
        return await uninterrupted(self._pool, call, *arguments)
