# SPDX-License-Identifier: Apache-2.0
"""Fakes of the agent's ports: they keep state as the real ones do, and fail when told to (`fail_next`)."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence

from agent.core.datapath import DatapathSettings, EndpointEntry, VerdictCount
from agent.core.endpoint import Endpoint, Pod
from agent.core.network import Device, Hop, HostLink, HostState, NetworkError, PodLink, WiredPod
from agent.core.ports import Assigned, ControllerError, Refused, Registration
from ila.address import Identifier, Locator, SirPrefix
from ila.domain import Domain
from ila.mapping import Generation
from ila.store import Event

DOMAIN = Domain.parse(sir_prefix="fd00:10:244::/64", locator_space=["fd00:c0de::/48"], checksum_mode="neutral-map")
HERE = Locator.parse("fd00:c0de:0:1::/64")
THERE = Locator.parse("fd00:c0de:0:2::/64")
REGISTRATION = Registration(locator=HERE, domain=DOMAIN, closed_ports=(2379, 7443))
NODE_ADDRESS = ipaddress.IPv6Address("fd00:a::1")


class Failing:
    """Raises what `fail_next` holds, at the next call of the named method."""

    def __init__(self) -> None:
        self.fail_next: dict[str, Exception] = {}
        self.calls: list[str] = []

    def called(self, name: str) -> None:
        """Note a call, or fail it."""
        self.calls.append(name)
        if error := self.fail_next.pop(name, None):
            raise error


class FakeDatapath(Failing):
    """Maps as dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.settings: DatapathSettings | None = None
        self.roles: dict[int, str] = {}
        self.mappings: dict[int, bytes] = {}
        self.endpoints: dict[int, EndpointEntry] = {}
        self.nodes: set[ipaddress.IPv6Address] = set()
        self.complete = False
        self.limited: dict[int, bool] = {}
        self.tcx = True

    def load(self, settings: DatapathSettings) -> None:
        self.called("load")
        self.settings = settings

    def check(self) -> None:
        self.called("check")

    def attach_underlay(self, index: int, *, edge: bool) -> None:
        self.called("attach_underlay")
        self.roles[index] = "edge" if edge else "inside"

    @property
    def limits(self) -> bool:
        return self.tcx

    def attach_pod(self, index: int, *, limited: bool) -> None:
        self.called("attach_pod")
        self.limited[index] = limited
        self.roles[index] = "pod"

    def attached(self) -> Mapping[int, str]:
        return dict(self.roles)

    def detach(self, index: int) -> None:
        self.called("detach")
        self.roles.pop(index, None)

    def read_mappings(self) -> dict[int, bytes]:
        return dict(self.mappings)

    def write_mappings(self, identifiers: Sequence[int], values: Sequence[bytes]) -> None:
        self.called("write_mappings")
        self.mappings.update(zip(identifiers, values, strict=True))

    def delete_mappings(self, identifiers: Sequence[int]) -> None:
        self.called("delete_mappings")
        for identifier in identifiers:
            self.mappings.pop(identifier, None)

    def read_endpoints(self) -> dict[int, EndpointEntry]:
        return dict(self.endpoints)

    def write_endpoint(self, identifier: int, entry: EndpointEntry) -> None:
        self.called("write_endpoint")
        self.endpoints[identifier] = entry

    def delete_endpoint(self, identifier: int) -> None:
        self.called("delete_endpoint")
        self.endpoints.pop(identifier, None)

    def read_nodes(self) -> set[ipaddress.IPv6Address]:
        return set(self.nodes)

    def write_nodes(self, add: Iterable[ipaddress.IPv6Address], remove: Iterable[ipaddress.IPv6Address]) -> None:
        self.called("write_nodes")
        self.nodes = (self.nodes | set(add)) - set(remove)

    def set_complete(self, *, complete: bool) -> None:
        self.called("set_complete")
        self.complete = complete

    def verdicts(self) -> Sequence[VerdictCount]:
        self.called("verdicts")
        return [VerdictCount("from_pod", "spoofed_source", drop=True, packets=3, bytes=300)]

    def unload(self) -> None:
        self.called("unload")


class FakeWiring(Failing):
    """Links as a dictionary; indexes count up and are never used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.pods: dict[str, tuple[PodLink, int]] = {}
        self.down: set[str] = set()
        self._next = 100

    def wire(self, pod: PodLink, netns_fd: int) -> WiredPod:
        self.called("wire")
        if pod.host_name not in self.pods:
            self._next += 1
            self.pods[pod.host_name] = (pod, self._next)
        return self.check(pod, netns_fd)

    def check(self, pod: PodLink, netns_fd: int) -> WiredPod:
        self.called("check")
        assert netns_fd >= 0
        if pod.host_name not in self.pods:
            raise NetworkError(f"link {pod.host_name} is missing")
        index = self.pods[pod.host_name][1]
        return WiredPod(host_index=index, host_mac=pod.host_mac, pod_mac=pod.pod_mac, mtu=pod.mtu)

    def settle(self, host_name: str) -> None:
        self.called("settle")
        assert host_name in self.pods

    def unwire(self, host_name: str) -> None:
        self.called("unwire")
        self.pods.pop(host_name, None)

    def links(self) -> Sequence[HostLink]:
        return [
            HostLink(
                name=pod.host_name,
                index=index,
                mac=pod.host_mac,
                mtu=pod.mtu,
                up=pod.host_name not in self.down,
                container_id=pod.container_id,
                interface=pod.interface,
                ipv4_index=1000 + index if pod.ipv4 else 0,
            )
            for pod, index in self.pods.values()
        ]


class FakeController(Failing):
    """Assigns in order, as the real one decides."""

    def __init__(self) -> None:
        super().__init__()
        self.holders: dict[str, tuple[Identifier, str]] = {}
        self.reserved: list[Identifier] = []
        self.down = False
        self.lose_next = ""
        """The next call of this name is done, and the caller is killed before it hears of it."""

        self.assigned = 0
        self.held: list[Endpoint] = []
        self.reports: list[tuple[str, bool, dict[str, str], list[str], bool]] = []
        self.highest = Generation(0, 0)
        self.revision = 10
        self.hold: asyncio.Event | None = None
        """Assign answers once it is set."""

    def called(self, name: str) -> None:
        """Note a call, or fail it."""
        super().called(name)
        if self.down:
            raise ControllerError("down")

    def _answer(self, name: str) -> None:
        if self.lose_next == name:
            self.lose_next = ""
            raise asyncio.CancelledError

    async def register(self, *, highest: Generation, held: Iterable[Endpoint]) -> Registration:
        self.called("register")
        self.highest, self.held = highest, list(held)
        return REGISTRATION

    async def assign(
        self, *, pod: Pod, container_id: str, take_over: bool, reserved: Identifier | None = None
    ) -> Assigned:
        self.called("assign")
        if self.hold is not None:
            await self.hold.wait()
        known = self.holders.get(str(pod))
        if known is not None and known[1] != container_id and not take_over:
            raise Refused(f"held by container {known[1]}", held=True)
        if reserved in self.reserved:
            self.reserved.remove(reserved)
        identifier = reserved or (known[0] if known else self._fresh())
        self.holders[str(pod)] = (identifier, container_id)
        self.revision += 1
        self._answer("assign")
        return Assigned(identifier=identifier, generation=Generation(1, self.revision), owner=pod.owner_name)

    async def report(
        self,
        *,
        version: str,
        serving: bool,
        problems: Mapping[str, str],
        owners: Iterable[str],
        past_netfilter: bool,
    ) -> None:
        self.called("report")
        self.reports.append((version, serving, dict(problems), sorted(owners), past_netfilter))

    async def release(self, *, pod: Pod, container_id: str, identifier: Identifier) -> None:
        self.called("release")
        if identifier in self.reserved:
            self.reserved.remove(identifier)
        known = self.holders.get(str(pod))
        if known is not None and known[1] == container_id:
            del self.holders[str(pod)]

    async def reserve(self, *, count: int) -> list[Identifier]:
        self.called("reserve")
        self.reserved += [self._fresh() for _ in range(count - len(self.reserved))]
        return list(self.reserved)

    def _fresh(self) -> Identifier:
        self.assigned += 1
        return Identifier(0x2000_0000_0000_1000 + self.assigned)


class FakeRecords(Failing):
    """Files as a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}

    def load(self) -> dict[str, bytes]:
        return dict(self.files)

    def save(self, key: str, raw: bytes) -> None:
        self.called("save")
        self.files[key] = raw

    def remove(self, key: str) -> None:
        self.called("remove")
        self.files.pop(key, None)

    def check(self) -> None:
        self.called("check")


class FakeNetworking(Failing):
    """A host with one device, and routes as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.hops: dict[str, Hop] = {}
        self.state: HostState | None = None

    def device(self, name: str) -> Device:
        self.called("device")
        return Device(name=name, index=2, mtu=1500, mac=bytes(6), up=True)

    def device_of(self, address: ipaddress.IPv6Address) -> str:
        self.called("device_of")
        assert address is not None
        return "eth0"

    def lookup(self, address: ipaddress.IPv6Address) -> Hop | None:
        for prefix, hop in self.hops.items():
            if address in ipaddress.IPv6Network(prefix):
                return hop
        return None

    def reconcile(self, desired: HostState) -> Sequence[str]:
        self.called("reconcile")
        changed = desired != self.state
        self.state = desired
        return ["routes"] if changed else []

    def uninstall(self) -> None:
        self.state = None


class FakeReject:
    """A rule that is there once it was asked for."""

    present = False
    nodes: set[ipaddress.IPv6Address] = set()  # noqa: RUF012 - replaced, never changed

    def ensure(
        self, *, sir_prefix: SirPrefix, closed_ports: Collection[int], nodes: Collection[ipaddress.IPv6Address]
    ) -> bool:
        assert sir_prefix is not None
        self.nodes = set(nodes)
        assert closed_ports is not None
        changed, self.present = not self.present, True
        return changed


class FakeTimings:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def observe(self, operation: str, step: str, seconds: float) -> None:
        assert seconds >= 0
        self.steps.append(f"{operation}.{step}")


class FakeStream:
    """Yields the events of one script after the other; an exception in it is raised; silent after the last."""

    trouble: str | None = None

    def __init__(self, *scripts: Sequence[Event | Exception]) -> None:
        self.scripts = list(scripts)
        self.asked: list[Generation] = []

    async def follow(self, highest: Generation) -> AsyncGenerator[Event]:
        self.asked.append(highest)
        if not self.scripts:
            await asyncio.Event().wait()
        for event in self.scripts.pop(0):
            if isinstance(event, Exception):
                raise event
            yield event
