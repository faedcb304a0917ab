# SPDX-License-Identifier: Apache-2.0
"""Makes one endpoint and takes it apart, undo beside do; for agent/endpoints.py, which says when.

An identifier of the reserve or of the controller, the pod's links, its way through the datapath, its record: each
is turned back if a later one fails.
"""

from __future__ import annotations

import asyncio
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
from agent.core.ipv4 import Exhausted, Ipv4Pool
from agent.core.network import InterfaceExists, NetworkError, PodLink, Wiring
from agent.core.ports import Controller, ControllerError, Refused, Registration
from agent.endpoint_table import EndpointTable
from agent.pool import uninterrupted
from agent.releases import Releases
from agent.reserve import Reserve
from cni.plugin import AddRequest
from cni.spec import AskedWrongly, CniError, Code, TryAgain
from ila.address import Identifier
from ila.mapping import Generation

log = logging.getLogger("ilanet.assembly")

T = TypeVar("T")


class Timings(Protocol):
    """Where the time of an operation goes: told step by step."""

    def observe(self, operation: str, step: str, seconds: float) -> None:
        """Take the duration of one step in."""


class Assembly:
    """The parts of which an endpoint is made."""

    def __init__(
        self,
        *,
        address: ipaddress.IPv6Address,
        controller: Controller,
        datapath: Datapath,
        wiring: Wiring,
        table: EndpointTable,
        releases: Releases,
        reserve: Reserve,
        ipv4: Ipv4Pool | None,
        timings: Timings,
        pool: Executor,
        wire_pool: Executor,
    ) -> None:
        """Take the threads that wire pods apart from those for all the rest.

        One of them is enough: the kernel makes one link after the other, and more would only spin on its lock.
        """
        self._address = address
        self._controller = controller
        self._datapath = datapath
        self._wiring = wiring
        self._table = table
        self._releases = releases
        self._reserve = reserve
        self._ipv4 = ipv4
        self._timings = timings
        self._pool = pool
        self._wire_pool = wire_pool

    async def build(
        self,
        request: AddRequest,
        *,
        pod: Pod,
        name: str,
        mtu: int,
        registration: Registration,
        identifier: Identifier | None = None,
    ) -> Endpoint:
        """Attach a pod; CniError, or a cancellation, leaves nothing behind.

        `identifier` is the one that it must have, if any, and that nobody else can: of an end of probes.
        """
        started = time.perf_counter()
        blank = Endpoint(
            container_id=request.container_id,
            interface=request.interface,
            host_name=name,
            network=request.network,
            identifier=UNKNOWN,
            pod=pod,
            generation=Generation(0, 0),
            mtu=mtu,
            limited=request.limited,
            by_stack=request.limited or request.forwarded,
            state=State.RELEASING,
        )
        with self._lent(pod, None if identifier is not None else self._ipv4) as address:
            blank = replace(blank, ipv4=address)
            async with AsyncExitStack() as undo:
                endpoint = await self._build(undo, blank, registration, request.netns_fd, identifier)
                undo.pop_all()
        self._timings.observe("add", "total", time.perf_counter() - started)
        return endpoint

    async def check(self) -> None:
        """Return if an endpoint could be made now; CniError names what of it there is none of."""
        if self._reserve.shortage:
            raise TryAgain("no identifier is left for a pod", self._reserve.shortage)
        try:
            if self._ipv4 is not None:
                self._ipv4.check(self._ipv4_in_use())
            await self._table.check_disk()
            self._datapath.check()
        except Exhausted as error:
            raise TryAgain("no IPv4 address is left for a pod", str(error)) from error
        except OSError as error:
            raise CniError(Code.IO_FAILURE, "the record of a pod could not be written", str(error)) from error
        except DatapathError as error:
            raise CniError(Code.IO_FAILURE, "a pod would get no way through the datapath", str(error)) from error

    async def take_apart(self, endpoint: Endpoint) -> bool:
        """Detach an endpoint and note that the controller must hear of it; return whether the disk knows too.

        A full disk takes no note: then only the controller's answer ends the record.
        """
        self._close(endpoint)
        await self._in_pool(self._wiring.unwire, endpoint.host_name)
        log.info("removed %s from %s", endpoint.pod, endpoint.host_name, extra={"pod": str(endpoint.pod)})
        return await self.give_up(endpoint)

    async def _build(
        self,
        undo: AsyncExitStack,
        blank: Endpoint,
        registration: Registration,
        netns_fd: int,
        identifier: Identifier | None,
    ) -> Endpoint:
        with self._timed("assign"):
            if identifier is not None:
                endpoint = replace(blank, identifier=identifier, state=State.UNPUBLISHED)
            else:
                endpoint = self._from_reserve(blank, registration) or await self._from_controller(undo, blank)
        undo.push_async_callback(self.give_up, endpoint)
        undo.push_async_callback(self._in_pool, self._wiring.unwire, endpoint.host_name)
        undo.callback(self._close, endpoint)
        recording = asyncio.ensure_future(self._record(endpoint))
        try:
            link = pod_link(endpoint, registration, self._address)
            await uninterrupted(self._wire_pool, self._connect, endpoint, link, netns_fd)
        finally:
            with self._timed("record"):
                await recording
        return endpoint

    @contextmanager
    def _lent(self, pod: Pod, pool: Ipv4Pool | None) -> Iterator[ipaddress.IPv4Interface | None]:
        """Yield an address of the pool that no other endpoint has, if there is a pool."""
        if pool is None:
            yield None
            return
        try:
            with pool.lend(self._ipv4_in_use()) as address:
                yield address
        except Exhausted as error:
            raise TryAgain(f"no IPv4 address for pod {pod}", str(error)) from error

    def _ipv4_in_use(self) -> list[ipaddress.IPv4Address]:
        return [other.ipv4.ip for other in self._table.wired() if other.ipv4 is not None]

    def _from_reserve(self, blank: Endpoint, registration: Registration) -> Endpoint | None:
        """Give a pod an identifier that this node has: its own of an earlier sandbox here, or one of the reserve.

        A pod that keeps its address, or may keep it, can have one elsewhere: only the controller knows.
        """
        if registration.asks_first(blank.pod):
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
            assigned = await self._controller.assign(pod=pod, container_id=blank.container_id, take_over=take_over)
        except ControllerError as error:
            raise TryAgain(f"no identifier for pod {pod}", str(error)) from error
        except Refused as refusal:
            if refusal.held:
                raise TryAgain(f"pod {pod}: its identifier is held", str(refusal)) from refusal
            raise AskedWrongly(Code.REFUSED, f"pod {pod} gets no identifier", str(refusal)) from refusal
        pod = replace(pod, owner_name=assigned.owner)
        return replace(
            blank, pod=pod, identifier=assigned.identifier, generation=assigned.generation, state=State.WIRED
        )

    async def _record(self, endpoint: Endpoint) -> None:
        try:
            await self._table.save(endpoint)
        except OSError as error:
            message = f"the record of pod {endpoint.pod} cannot be written"
            raise CniError(Code.IO_FAILURE, message, str(error)) from error

    def _connect(self, endpoint: Endpoint, link: PodLink, netns_fd: int) -> None:
        """Wire the pod and let its packets through; in one go in a thread: both wait for the kernel's network lock."""
        try:
            with self._timed("wire"):
                wired = self._wiring.wire(link, netns_fd)
        except InterfaceExists as error:
            raise AskedWrongly(Code.INTERFACE_EXISTS, f"pod {endpoint.pod} could not be wired", str(error)) from error
        except NetworkError as error:
            raise CniError(Code.IO_FAILURE, f"pod {endpoint.pod} could not be wired", str(error)) from error
        entry = EndpointEntry(
            interface_index=wired.host_index,
            pod_mac=wired.pod_mac,
            host_mac=wired.host_mac,
            by_stack=endpoint.by_stack,
        )
        try:
            with self._timed("datapath"):
                self._datapath.attach_pod(wired.host_index, limited=endpoint.limited)
                self._datapath.write_endpoint(endpoint.identifier.value, entry)
        except (DatapathError, OSError) as error:
            message = f"pod {endpoint.pod} gets no way through the datapath"
            raise CniError(Code.IO_FAILURE, message, str(error)) from error
        try:
            with self._timed("settle"):
                self._wiring.settle(endpoint.host_name)
        except NetworkError as error:
            raise CniError(Code.IO_FAILURE, f"pod {endpoint.pod} neither sends nor receives yet", str(error)) from error

    async def give_up(self, endpoint: Endpoint) -> bool:
        """Turn an identifier back, now or, if the controller is away, later; return whether the disk knows.

        One that no record names was never used: it is free again at once.
        """
        if self._table.get(endpoint.host_name) is None:
            self._reserve.give_back(endpoint.identifier)
            return True
        releasing = replace(endpoint, state=State.RELEASING)
        try:
            await self._table.save(releasing)
        except OSError as error:
            log.warning(
                "the record of %s cannot say that it is gone: %s", endpoint.pod, error, extra={"pod": str(endpoint.pod)}
            )
            self._table.remember(releasing, on_disk=False)
            return False
        finally:
            self._releases.later()
        return True

    def _close(self, endpoint: Endpoint) -> None:
        """Take the identifier out of the datapath, unless another endpoint here has taken it over."""
        others = (other for other in self._table.wired() if other.host_name != endpoint.host_name)
        if all(other.identifier != endpoint.identifier for other in others):
            self._datapath.delete_endpoint(endpoint.identifier.value)

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._timings.observe("add", step, time.perf_counter() - started)

    async def _in_pool(self, call: Callable[..., T], *arguments: object) -> T:
        return await uninterrupted(self._pool, call, *arguments)
