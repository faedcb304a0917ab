# SPDX-License-Identifier: Apache-2.0
"""Traffic between two pods that a wrong address or checksum does not survive; used inside the guest."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from agent.kernel.namespace import in_namespace
from lab.capture import Capture, Seen
from lab.namespace import Namespace
from tests.vm.rows import TRAFFIC

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds that one packet may take under emulation on a busy machine."""

_UDP, _HOP_BY_HOP, _FRAGMENT, _DESTINATION = 17, 0, 44, 60
_PORT = 7000
_PADDING = bytes((1, 4, 0, 0, 0, 0))
"""PadN over the six bytes that an options header of eight has room for."""


@dataclass(frozen=True, slots=True)
class End:
    """A pod, as traffic sees it."""

    namespace: Namespace
    address: str
    gateway_mac: bytes
    """Of its next hop."""

    def inside(self, work: Callable[[], T]) -> T:
        """Return what the work returns, done in the pod's namespace."""
        with self.namespace.path.open("rb") as file:
            return in_namespace(file.fileno(), work)

    def compute_checksums(self) -> None:
        """Let this pod's packets leave with whole checksums, which the receiver verifies; veth pairs skip both."""
        self.namespace.run("ethtool", "-K", "eth0", "tx", "off")

    def wrong_checksums(self) -> int:
        """Return how many packets this pod has refused for their checksum."""
        six = self.counters()
        names, values = (line.split() for line in self.namespace.run("grep", "^Tcp:", "/proc/net/snmp").splitlines())
        tcp = dict(zip(names[1:], map(int, values[1:]), strict=True))
        return six["Udp6InCsumErrors"] + six["Icmp6InCsumErrors"] + tcp["InCsumErrors"]

    def counters(self) -> dict[str, int]:
        """Return what the namespace has counted of IPv6, by name."""
        words = self.namespace.run("cat", "/proc/net/snmp6").split()
        return dict(zip(words[::2], map(int, words[1::2]), strict=True))

    def udp(self) -> socket.socket:
        """Return a UDP socket bound to the pod's address."""

        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            made.bind((self.address, _PORT))
            made.settimeout(PATIENCE)
            return made

        return self.inside(make)

    def send_raw(self, packet: bytes) -> None:
        """Send an IPv6 packet from the pod's interface as it is, past its own stack."""

        def make() -> socket.socket:
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            raw.bind(("eth0", 0))
            return raw

        with self.inside(make) as raw:
            raw.send(self.gateway_mac + self.namespace.mac("eth0") + b"\x86\xdd" + packet)


def kinds(source: End, target: End, wire: tuple[Namespace, str]) -> dict[str, Callable[[], None]]:
    """Return the checks of traffic from source to target by their rows' names; wire is a device that it passes."""
    headers = {
        "hop-by-hop options": [_HOP_BY_HOP],
        "destination options": [_DESTINATION],
        "both options": [_HOP_BY_HOP, _DESTINATION],
    }
    found: dict[str, Callable[[], None]] = {
        "tcp": lambda: tcp(source, target),
        "udp": lambda: udp(source, target, 0, 1, 512, 1452),
        "ping": lambda: ping(source, target, 56),
        "fragments of ping": lambda: in_fragments(wire, lambda: ping(source, target, 5000)),
        "fragments of udp": lambda: in_fragments(wire, lambda: udp(source, target, 1453, 20000)),
    }
    found |= {name: lambda types=types: options(source, target, types, wire) for name, types in headers.items()}  # type: ignore[misc]
    if tuple(found) != TRAFFIC:
        raise ValueError(f"the checks are {tuple(found)}, the rows {TRAFFIC}")
    return found


def until(wanted: Callable[[], bool], failure: str, patience: float = PATIENCE) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + patience
    while not wanted():
        assert time.monotonic() < deadline, failure
        time.sleep(0.05)


def tcp(source: End, target: End) -> None:
    """Send 300 kB, have it echoed, and compare; the server sees the client's own address."""
    sent = bytes(range(256)) * 1200
    listener = target.inside(lambda: socket.create_server((target.address, _PORT), family=socket.AF_INET6))
    seen: list[str] = []

    def serve() -> None:
        connection, peer = listener.accept()
        with connection:
            connection.settimeout(PATIENCE)
            seen.append(peer[0])
            while got := connection.recv(65536):
                connection.sendall(got)

    with listener:
        listener.settimeout(PATIENCE)
        server = threading.Thread(target=serve)
        server.start()
        with source.inside(lambda: socket.create_connection((target.address, _PORT), timeout=PATIENCE)) as client:
            sender = threading.Thread(target=_send, args=(client, sent))
            sender.start()
            received = b"".join(iter(lambda: client.recv(65536), b""))
            sender.join()
        server.join()
    assert received == sent
    assert seen == [source.address]


def _send(client: socket.socket, sent: bytes) -> None:
    client.sendall(sent)
    client.shutdown(socket.SHUT_WR)


def udp(source: End, target: End, *sizes: int) -> None:
    """Send datagrams of these sizes; each arrives as it was, from the source's own address."""
    with source.udp() as client, target.udp() as server:
        for size in sizes:
            sent = bytes(number * 7 % 256 for number in range(size))
            client.sendto(sent, (target.address, _PORT))
            received, peer = server.recvfrom(65536)
            assert received == sent
            assert peer[0] == source.address


def ping(source: End, target: End, size: int) -> None:
    """Send three echo requests; CommandError unless each is answered."""
    words = ("-n", "-c", "3", "-i", "0.1", "-W", f"{PATIENCE:.0f}", "-s", str(size), target.address)
    printed = source.namespace.run("ping", "-6", *words, timeout=4 * PATIENCE)
    assert " 0% packet loss" in printed, printed


@contextlib.contextmanager
def captured(wire: tuple[Namespace, str]) -> Iterator[Capture]:
    """Yield what passes a device meanwhile."""
    capture = Capture.open(*wire)
    try:
        yield capture
    finally:
        capture.close()


def in_fragments(wire: tuple[Namespace, str], work: Callable[[], None]) -> None:
    """Do the work and make sure that fragments passed."""
    with captured(wire) as capture:
        work()
        assert any(seen.protocol == _FRAGMENT for seen in capture.waiting())


def options(source: End, target: End, types: list[int], wire: tuple[Namespace, str]) -> None:
    """Send a datagram behind extension headers; the target's socket gets it, so its checksum was right."""
    payload = f"behind {types}".encode()
    with captured(wire) as capture, target.udp() as server:
        source.send_raw(packet(source.address, target.address, payload, types))
        received, peer = server.recvfrom(65536)
        assert (received, peer[0]) == (payload, source.address)
        assert any(is_chain(seen, types) for seen in capture.waiting())


def is_chain(seen: Seen, types: list[int]) -> bool:
    """Tell whether a packet has these extension headers, then UDP."""
    chain = [seen.protocol, *(seen.raw[40 + 8 * number] for number in range(len(types)))]
    return chain == [*types, _UDP]


def packet(source: str, target: str, payload: bytes, types: list[int], *, damage: int = 0) -> bytes:
    """Return a UDP datagram behind extension headers; damage is what its checksum is wrong by."""
    addresses = ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(target).packed
    length = 8 + len(payload)
    datagram = struct.pack("!HHHH", _PORT, _PORT, length, 0) + payload
    checksum = ~ones_sum(addresses + struct.pack("!IxxxB", length, _UDP) + datagram) & 0xFFFF
    datagram = datagram[:6] + struct.pack("!H", (checksum ^ damage) or 0xFFFF) + datagram[8:]
    nexts = [*types[1:], _UDP]
    extensions = b"".join(bytes((following, 0)) + _PADDING for following in nexts[: len(types)])
    first = types[0] if types else _UDP
    header = struct.pack("!IHBB", 6 << 28, len(extensions) + length, first, 64)
    return header + addresses + extensions + datagram


def ones_sum(raw: bytes) -> int:
    """Return the one's-complement sum of the 16-bit words."""
    padded = raw + bytes(len(raw) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
