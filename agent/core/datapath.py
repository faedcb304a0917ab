# SPDX-License-Identifier: Apache-2.0
"""What services say to the BPF datapath: values and the port; agent/kernel/datapath.py implements it."""

from __future__ import annotations

import enum
import ipaddress
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ila.address import Locator
from ila.domain import Domain

_MAPPING = struct.Struct("=16sQQ")


class HostPath(enum.Enum):
    """The way of a pod's packet through its host (DESIGN.md, "Two ways through a host")."""

    STACK = "stack"
    """Through routing and netfilter; needed with kube-proxy and host firewalls."""

    BPF = "bpf"
    """By BPF redirects past the host's stack; fastest."""


class NextHop(enum.Enum):
    """Who takes a translated packet from the underlay device."""

    GATEWAY = "gateway"
    """The gateway of the SIR route takes packets to all locators (routed underlay)."""

    NEIGHBOUR = "neighbour"
    """The next hop depends on the locator: to_wire looks it up after translation (shared layer 2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatapathSettings:
    """Load-time constants of the programs; a change reloads them without a gap."""

    domain: Domain
    locator: Locator
    """This node's own."""

    host_path: HostPath
    gateway: ipaddress.IPv6Address | None
    """Takes translated packets to all locators (NextHop.GATEWAY); None: each locator has its own next hop."""

    underlay_index: int
    """Interface index of the underlay device that BPF sends through (the SIR route's)."""

    closed_ports: tuple[int, ...]
    """TCP and UDP ports closed to pods on every node address; at most 16."""

    reject_mark: int
    """Packet mark, one or more bits, under which a packet that nothing maps meets the reject rule."""

    translate: bool = True
    """False only to measure what translation costs: SIR destinations stay on the wire."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointEntry:
    """A local endpoint as the datapath knows it."""

    interface_index: int
    """Of the host's end of the veth pair."""

    pod_mac: bytes
    """6 bytes: the pod's end."""

    host_mac: bytes
    """6 bytes: the host's end, source of frames to the pod."""

    by_stack: bool = False
    """Plugins after ours work on its packets in the host's stack: it takes the stack both ways."""


@dataclass(frozen=True, slots=True)
class VerdictCount:
    """What one hook did with packets, and how many."""

    hook: str
    """from_pod, from_wire or to_wire."""

    verdict: str
    """Lower-case name from the object's BTF, such as 'spoofed_source'."""

    drop: bool
    packets: int
    bytes: int


def pack_mapping(ila_address: bytes, epoch: int, revision: int) -> bytes:
    """Return the 32 bytes of a kernel mapping: ILA address (16, network order), epoch, revision (host order)."""
    return _MAPPING.pack(ila_address, epoch, revision)


def unpack_mapping(raw: bytes) -> tuple[bytes, int, int]:
    """Return ILA address, epoch and revision of a kernel mapping's 32 bytes."""
    ila_address, epoch, revision = _MAPPING.unpack(raw)
    return ila_address, epoch, revision


class Datapath(Protocol):
    """The BPF programs and maps of one host, pinned in its bpffs; every call may raise DatapathError.

    Identifiers are plain 64-bit integers here, since a cluster has a million of them.
    """

    def load(self, settings: DatapathSettings) -> None:
        """Load the programs with these constants, keep pinned maps, and replace them in all pinned links.

        With unchanged settings and object file, it adopts what is pinned and changes nothing.
        """

    def check(self) -> None:
        """Return if a pod could be attached now."""

    def attach_underlay(self, index: int, *, edge: bool) -> None:
        """Attach from_wire and to_wire to a device; repeats safely."""

    @property
    def limits(self) -> bool:
        """Whether pods with a limited bandwidth can be attached so that the limit works; known after load()."""

    def attach_pod(self, index: int, *, limited: bool) -> None:
        """Attach from_pod to the host's end of a veth pair; repeats safely, and may be called by any thread.

        limited: the device's own qdiscs are somebody else's, such as the `bandwidth` plugin's (see `limits`).
        """

    def attached(self) -> Mapping[int, str]:
        """Return role ('pod', 'inside', 'edge') by interface index, of links that are really alive; by any thread."""

    def detach(self, index: int) -> None:
        """Detach all of ours from a device and unpin it; nothing attached is no error, nor a device gone."""

    def read_mappings(self) -> dict[int, bytes]:
        """Return all kernel mappings: identifier -> 32 bytes (pack_mapping)."""

    def write_mappings(self, identifiers: Sequence[int], values: Sequence[bytes]) -> None:
        """Insert or replace mappings in batches."""

    def delete_mappings(self, identifiers: Sequence[int]) -> None:
        """Delete mappings in batches; one that is not there is no error."""

    def read_endpoints(self) -> dict[int, EndpointEntry]:
        """Return the local endpoints by identifier."""

    def write_endpoint(self, identifier: int, entry: EndpointEntry) -> None:
        """Insert or replace a local endpoint; may be called by any thread."""

    def delete_endpoint(self, identifier: int) -> None:
        """Delete a local endpoint; one that is not there is no error."""

    def read_nodes(self) -> set[ipaddress.IPv6Address]:
        """Return the node addresses whose closed ports are closed to pods."""

    def write_nodes(self, add: Iterable[ipaddress.IPv6Address], remove: Iterable[ipaddress.IPv6Address]) -> None:
        """Add and remove node addresses."""

    def set_complete(self, *, complete: bool) -> None:
        """Say whether the mappings are complete: only then does a miss answer with ICMPv6 unreachable."""

    def verdicts(self) -> Sequence[VerdictCount]:
        """Return the sums over all CPUs, for every hook and verdict, zeros too."""

    def unload(self) -> None:
        """Detach everything and remove every pin."""


class DatapathError(Exception):
    """The kernel or libbpf refused; the message names the object and carries their log."""
