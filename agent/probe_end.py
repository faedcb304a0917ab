# SPDX-License-Identifier: Apache-2.0
"""Keeps this node's own end of probes attached: an endpoint like a pod's, in a namespace of the agent's.

It has a record, so upkeep keeps it as it keeps pods; no runtime has made it, so none ends it.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from typing import TypeVar

from agent.assembly import Assembly
from agent.core.claims import Locate, pod_link
from agent.core.datapath import DatapathError
from agent.core.endpoint import Endpoint, Pod, State
from agent.core.network import NetworkError, Wiring, host_name
from agent.core.ports import Registration
from agent.core.probes import Place, ProbeError
from agent.core.status import Status
from agent.endpoint_table import EndpointTable
from agent.pool import uninterrupted
from agent.publications import Publications
from cni.plugin import AddRequest
from cni.spec import CniError, PodName
from ila.mapping import OwnerName, probe_identifier

log = logging.getLogger("ilanet.probes")

T = TypeVar("T")

CONTAINER = "probe"
INTERFACE = "eth0"


class ProbeEnd:
    """Implements agent.core.probes.End."""

    def __init__(
        self,
        *,
        node: str,
        address: ipaddress.IPv6Address,
        place: Place,
        assembly: Assembly,
        wiring: Wiring,
        table: EndpointTable,
        publications: Publications,
        locate: Locate,
        status: Status,
        pool: Executor,
    ) -> None:
        self._node = node
        self._address = address
        self._place = place
        self._assembly = assembly
        self._wiring = wiring
        self._table = table
        self._publications = publications
        self._locate = locate
        self._status = status
        self._pool = pool
        self._name = host_name(CONTAINER, INTERFACE)

    async def attach(self) -> ipaddress.IPv6Address | None:
        """Have it attached and published; return its SIR address once others can reach it.  ProbeError."""
        registration = self._status.registration
        if registration is None or not self._status.serving:
            return None
        try:
            endpoint = self._table.get(self._name)
            if endpoint is None or not await self._is_whole(endpoint, registration):
                endpoint = await self._build(registration)
            return await self._published(endpoint, registration)
        except (CniError, NetworkError, DatapathError, OSError) as error:
            details = error.details if isinstance(error, CniError) else ""
            raise ProbeError(": ".join(filter(None, (str(error), details)))) from error

    async def remove(self) -> None:
        """Take it away, if there is one, and give its identifier back; ProbeError."""
        async with self._table.exclusively(CONTAINER, self._name):
            endpoint = self._table.get(self._name)
            if endpoint is not None and endpoint.attached:
                try:
                    await self._assembly.take_apart(endpoint)
                except (NetworkError, DatapathError) as error:
                    raise ProbeError(f"the end of probes is not taken away: {error}") from error

    async def _is_whole(self, endpoint: Endpoint, registration: Registration) -> bool:
        if not endpoint.attached or endpoint.mtu != self._status.mtu:
            return False
        link = pod_link(endpoint, registration, self._address)
        try:
            await self._in_pool(self._wiring.check, link, await self._namespace())
        except NetworkError as error:
            log.info("the end of probes is made anew: %s", error)
            return False
        return True

    async def _build(self, registration: Registration) -> Endpoint:
        owner = OwnerName.of_node(self._node).text
        async with self._table.exclusively(CONTAINER, self._name):
            request = AddRequest(
                container_id=CONTAINER,
                interface=INTERFACE,
                netns="",
                netns_fd=await self._namespace(),
                network="",  # no runtime's: GC does not see it
                pod=PodName(namespace="", name="", uid=owner),
                keep_address=False,
                limited=False,
                forwarded=False,
            )
            endpoint = await self._assembly.build(
                request,
                pod=Pod(namespace="", name="", uid=owner, keep_address=False, owner_name=owner),
                name=self._name,
                mtu=self._status.mtu,
                registration=registration,
                identifier=probe_identifier(self._node),
            )
        self._publications.later()
        return endpoint

    async def _published(self, endpoint: Endpoint, registration: Registration) -> ipaddress.IPv6Address | None:
        """Return the address if a mapping points here; else, if the controller had made one, have it made again.

        It is gone, or points elsewhere, where the node had been deleted for a while, or has got another locator.
        """
        located = self._locate(endpoint.identifier.value)
        if located is not None and located[0] == registration.locator.value:
            return registration.domain.sir_prefix.address(endpoint.identifier)
        if endpoint.state is State.WIRED and self._status.mappings_complete:
            async with self._table.locked(CONTAINER):
                if self._table.get(self._name) is endpoint:
                    await self._table.save(replace(endpoint, state=State.UNPUBLISHED))
            self._publications.later()
        return None

    async def _namespace(self) -> int:
        return await self._in_pool(lambda: self._place.descriptor)

    async def _in_pool(self, call: Callable[..., T], *arguments: object) -> T:
        return await uninterrupted(self._pool, call, *arguments)
