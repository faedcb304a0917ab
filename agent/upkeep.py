# SPDX-License-Identifier: Apache-2.0
"""Keeps the kernel at what the endpoint table says: after a restart, a drift, or news that a claim has moved."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Executor

from agent.core.claims import Locate, is_active, pod_link, wanted_entries
from agent.core.datapath import Datapath, EndpointEntry
from agent.core.endpoint import Endpoint
from agent.core.network import HostLink, IpAddress, PodRoute, Wiring
from agent.core.status import Status
from agent.endpoint_table import EndpointTable
from agent.pool import uninterrupted

log = logging.getLogger("ilanet.upkeep")


class Upkeep:
    """The reconciling side of endpoints: reads back, compares, applies."""

    def __init__(
        self,
        *,
        address: ipaddress.IPv6Address,
        datapath: Datapath,
        wiring: Wiring,
        table: EndpointTable,
        locate: Locate,
        status: Status,
        pool: Executor,
    ) -> None:
        self._address = address
        self._datapath = datapath
        self._wiring = wiring
        self._table = table
        self._locate = locate
        self._status = status
        self._pool = pool

    async def routes(self) -> list[PodRoute]:
        """Return the host's way to each attached endpoint; of claims on one address, to the newest.

        A link that is down takes no route: an ADD was killed before it ended, and its DEL is still to come.
        """
        registration = self._status.registration
        if registration is None:
            return []
        links = await self._links()
        routes: dict[IpAddress, PodRoute] = {}
        for endpoint in sorted(self._table.wired(), key=lambda item: item.generation):
            link = links.get(endpoint.host_name)
            if link is not None and link.up:
                pod = pod_link(endpoint, registration, self._address)
                routes[pod.address] = PodRoute(address=pod.address, device=link.index, mac=pod.pod_mac)
                if pod.ipv4 is not None and link.ipv4_index:
                    address = pod.ipv4.address.ip
                    routes[address] = PodRoute(address=address, device=link.ipv4_index, mac=pod.ipv4.pod_mac)
        return list(routes.values())

    async def step(self) -> None:
        """Attach and write what is missing; take away what nothing wants, if no ADD or DEL is under way."""
        registration = self._status.registration
        if registration is None:
            return
        edits = self._table.edits
        links = await self._links()
        attached = await uninterrupted(self._pool, self._datapath.attached)
        quiet = edits == self._table.edits and not self._table.busy
        wanted = wanted_entries(
            self._table.all(),
            links=links,
            own=registration.locator,
            locate=self._locate,
            pod_link=lambda endpoint: pod_link(endpoint, registration, self._address),
        )
        moved = [
            endpoint
            for endpoint in self._table.wired()
            if not is_active(endpoint, own=registration.locator, locate=self._locate)
        ]
        self._tell(moved)
        self._write(wanted, attached, quiet=quiet)
        self._delete(wanted, {endpoint.identifier.value for endpoint in moved}, quiet=quiet)
        if quiet:
            await self._remove_strays(links)

    def _tell(self, moved: Sequence[Endpoint]) -> None:
        """Name the pods here whose identifier is another node's by now: they are there for nobody (invariant 2)."""
        if moved:
            listed = "; ".join(sorted(f"pod {endpoint.pod}: {endpoint.identifier}" for endpoint in moved))
            self._status.problem("claims", f"held by another node by now, so nobody reaches them here: {listed}")
        else:
            self._status.well("claims")

    def _write(self, wanted: Mapping[int, EndpointEntry], attached: Mapping[int, str], *, quiet: bool) -> None:
        """Write what is missing; replace an entry only when no operation could have just made it."""
        limited = {endpoint.identifier.value for endpoint in self._table.wired() if endpoint.limited}
        for identifier, entry in wanted.items():
            if entry.interface_index not in attached:
                self._datapath.attach_pod(entry.interface_index, limited=identifier in limited)
        have = self._datapath.read_endpoints()
        for identifier, entry in wanted.items():
            if identifier not in have or (quiet and have[identifier] != entry):
                self._datapath.write_endpoint(identifier, entry)

    def _delete(self, wanted: Mapping[int, EndpointEntry], moved: Collection[int], *, quiet: bool) -> None:
        """Close what has moved away at once; the rest only when no operation could have just made it."""
        for identifier in self._datapath.read_endpoints().keys() - wanted.keys():
            if quiet or identifier in moved:
                self._datapath.delete_endpoint(identifier)

    async def _remove_strays(self, links: Mapping[str, HostLink]) -> None:
        """Remove links that bear our mark and belong to no endpoint: an ADD was killed half way."""
        for name in links.keys() - self._table.names():
            async with self._table.exclusively(links[name].container_id, name):
                if self._table.get(name) is None:
                    log.warning("link %s belongs to no endpoint: removed", name)
                    await uninterrupted(self._pool, self._wiring.unwire, name)

    async def _links(self) -> dict[str, HostLink]:
        return {link.name: link for link in await uninterrupted(self._pool, self._wiring.links)}
