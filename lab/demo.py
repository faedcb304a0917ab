# SPDX-License-Identifier: Apache-2.0
"""The demo: brings a cluster up, shows in words that a newcomer follows what ILA does, and takes it down again."""

from __future__ import annotations

import ipaddress
import socket
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from agent.kernel.namespace import in_namespace
from lab.capture import Capture, Seen
from lab.cluster import Cluster
from lab.fabric import Host
from lab.namespace import Namespace
from lab.progress import progress
from lab.runtime import Pod

_ICMPV6 = 58
_ECHO_REQUEST = 128
_ECHO_REPLY = 129
_PORT = 8080

T = TypeVar("T")


class DemoError(Exception):
    """The network does not do what the demo says it does."""


@dataclass(slots=True)
class Story:
    """Prints steps and their findings; knows which step is under way, for whoever must say where it broke."""

    write: Callable[[str], None]
    now: str = "nothing done yet"

    def prepare(self, title: str) -> None:
        """Begin a step of what comes before the story."""
        self.now = title
        progress(title)

    def step(self, title: str) -> None:
        """Begin a step."""
        self.now = title
        self.write(f"\n== {title}")

    def say(self, text: str) -> None:
        """Say one thing."""
        self.write(f"   {text}")


def pod_places(hosts: Sequence[Host]) -> list[tuple[str, Host]]:
    """Return the names of the pods, two on each host."""
    return [(f"pod{host.number}{letter}", host) for host in hosts for letter in "ab"]


def tell(cluster: Cluster, story: Story) -> None:
    """Show everything, on a cluster that is up; DemoError, CommandError or CniError if something is not so."""
    pods = _add_pods(cluster, story)
    _addresses(cluster, story)
    _mappings(cluster, story)
    _connections(cluster, pods, story)
    _one_packet(cluster, pods[0], pods[2], story)
    _counters(cluster, story)


def _add_pods(cluster: Cluster, story: Story) -> list[Pod]:
    story.step("Six pods, each attached by the CNI executable, called as a container runtime calls it")
    pods = []
    for name, host in pod_places(cluster.hosts):
        pod = cluster.pod(name, host)
        story.say(f"{pod.name} on {host.name}: {pod.address}   ADD took {pod.seconds * 1000:.1f} ms")
        pods.append(pod)
    times = sorted(pod.seconds * 1000 for pod in pods)
    story.say(f"ADD: median {statistics.median(times):.1f} ms, slowest {times[-1]:.1f} ms")
    return pods


def _addresses(cluster: Cluster, story: Story) -> None:
    story.step("Addresses: who, and where")
    story.say(f"SIR prefix {cluster.domain.sir_prefix}: what applications see; a pod's address never changes")
    for host in cluster.hosts:
        story.say(f"{host.name}: node address {host.address}, locator {host.locator} (where its pods are)")


def _mappings(cluster: Cluster, story: Story) -> None:
    story.step("The mapping table as etcd holds it: identifier -> locator")
    if cluster.etcd is None:
        raise DemoError("the cluster has no etcd")
    lines = cluster.etcd.ctl("get", "--prefix", "/ilanet/v1/mappings/").splitlines()
    for key, value in zip(lines[::2], lines[1::2], strict=True):
        story.say(f"{key}   {value}")
    if len(lines) != 2 * len(cluster.pods):
        raise DemoError(f"etcd holds {len(lines) // 2} mappings for {len(cluster.pods)} pods")


def _connections(cluster: Cluster, pods: list[Pod], story: Story) -> None:
    story.step("Ping and TCP, on one host and between hosts")
    for source, target, where in (
        (pods[0], pods[1], "same host"),
        (pods[0], pods[2], "host1 to host2"),
        (pods[3], pods[5], "host2 to host3"),
        (pods[4], pods[0], "host3 to host1"),
    ):
        words = source.namespace.run("ping", "-6", "-c", "3", "-i", "0.05", "-W", "2", target.address).splitlines()
        peer = exchange(source.namespace, target.namespace, target.address)
        if peer != source.address:
            raise DemoError(f"{target.name} saw {peer} as the client, not {source.name}'s {source.address}")
        story.say(
            f"{source.name} -> {target.name} ({where}): {words[-1]}; TCP answered, and saw the client's own address"
        )
    stray = cluster.fabric.untranslated()
    story.say(f"packets that crossed the underlay untranslated: {stray} (a rule there drops and counts them)")
    if stray:
        raise DemoError(f"{stray} packets crossed the underlay with a SIR destination")


def exchange(client: Namespace, server: Namespace, address: str) -> str:
    """Send a line over TCP and read it back; return the client's address as the server saw it."""
    line = b"hello over ILA\n"
    listener = _inside(server, lambda: socket.create_server((address, _PORT), family=socket.AF_INET6))
    listener.settimeout(5)
    with listener, _inside(client, lambda: socket.create_connection((address, _PORT), timeout=5)) as connection:
        accepted, peer = listener.accept()
        with accepted:
            accepted.settimeout(5)
            connection.sendall(line)
            accepted.sendall(accepted.recv(1000))
            if connection.recv(1000) != line:
                raise DemoError("TCP did not echo what was sent")
    return str(peer[0])


def _one_packet(cluster: Cluster, source: Pod, target: Pod, story: Story) -> None:
    story.step(f"One packet on its way from {source.name} to {target.name}")

    def is_request(packet: Seen) -> bool:
        return packet.protocol == _ICMPV6 and packet.raw[40] == _ECHO_REQUEST

    places = {
        f"in {source.name}": Capture.open(source.namespace, "eth0"),
        "on the wire": Capture.open(cluster.fabric.router, "h2"),
        f"in {target.name}": Capture.open(target.namespace, "eth0"),
    }
    try:
        source.namespace.run("ping", "-6", "-c", "1", "-W", "2", target.address)
        packets = [capture.first(is_request) for capture in places.values()]
    finally:
        for capture in places.values():
            capture.close()
    for place, packet in zip(places, packets, strict=True):
        story.say(
            f"{place:10}: {packet.source} -> {packet.destination}   "
            f"{len(packet.raw)} bytes, checksum {packet.checksum:#06x}, hop limit {packet.hop_limit}"
        )
    sent, wire, received = packets
    expected = str(
        cluster.domain.ila_address(cluster.domain.sir_prefix.identifier(_address(target)), cluster.hosts[1].locator)
    )
    if wire.destination != expected:
        raise DemoError(f"on the wire the destination is {wire.destination}, not the ILA address {expected}")
    if len({len(packet.raw) for packet in packets}) != 1 or len({packet.checksum for packet in packets}) != 1:
        raise DemoError("the packet changed its length or its checksum")
    if sent.destination != received.destination or sent.raw[40:] != received.raw[40:]:
        raise DemoError("the packet did not arrive as it was sent")
    story.say("same length, same checksum, same content; only where it goes was said on the wire")


def _counters(cluster: Cluster, story: Story) -> None:
    story.step("What the datapath did, by host (every packet has a verdict; drops name their reason)")
    for host in cluster.hosts:
        counts = {key: count for key, count in cluster.verdicts(host).items() if count}
        words = ", ".join(f"{hook}/{verdict} {count}" for (hook, verdict), count in sorted(counts.items()))
        story.say(f"{host.name}: {words}")


def _address(pod: Pod) -> ipaddress.IPv6Address:
    return ipaddress.IPv6Address(pod.address)


def _inside(namespace: Namespace, make: Callable[[], T]) -> T:
    with namespace.path.open("rb") as file:
        return in_namespace(file.fileno(), make)
