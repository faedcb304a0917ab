# SPDX-License-Identifier: Apache-2.0
"""Our agent's host and Linux's host exchange traffic in one checksum mode; used inside the guest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from ila.address import ChecksumMode, Identifier
from ila.mapping import encode_mapping, mapping_key
from lab.cluster import DOMAIN, Cluster
from lab.namespace import CommandError, Namespace
from tests.vm.linux_host import LinuxHost
from tests.vm.rows import DIRECTIONS, Rows
from tests.vm.traffic import End, kinds, packet, until

READY = 150.0
"""Seconds that etcd, and then the agent, may take under emulation."""

EDGE = "out0"
LINUX = Identifier.parse("2000:0:b:ffff")
"""Of the Linux host's pod; its low word is the last that survives translation."""

_OTHER = {
    ChecksumMode.NEUTRAL_MAP: (ChecksumMode.NEUTRAL_MAP_AUTO, "no_c_bit"),
    ChecksumMode.NEUTRAL_MAP_AUTO: (ChecksumMode.NEUTRAL_MAP, "c_bit"),
}
"""For each mode the other one, and what our host makes of an address of that."""


class Pair:
    """A cluster of one host, joined to a host of Linux's own, and a pod on each."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.ours = cluster.hosts[0]
        made = cluster.pod("ours", self.ours)
        host_end = made.result["interfaces"][0]["mac"]
        self.pod = End(made.namespace, made.address, bytes.fromhex(host_end.replace(":", "")))
        host = cluster.fabric.join(2)
        self.linux = LinuxHost(host, domain=cluster.domain, identifier=LINUX)
        self.linux.learn(self.pod.address, self.ours.locator)
        self._map()
        for end in (self.pod, self.linux.pod):
            end.compute_checksums()

    @property
    def wire(self) -> tuple[Namespace, str]:
        """The router's device towards Linux's host."""
        return self.cluster.fabric.router, "h2"

    def _map(self) -> None:
        """Publish where Linux's pod is, and wait until the agent knows."""
        if self.cluster.etcd is None:
            raise ValueError("the cluster has no etcd")
        self.cluster.etcd.ctl("put", mapping_key(LINUX).decode(), encode_mapping(self.linux.host.locator).decode())
        until(lambda: self.cluster.status(self.ours)["mappings"] == 2, "the agent does not learn the mapping")


@contextlib.contextmanager
def pair(mode: ChecksumMode, rows: Rows) -> Iterator[Pair]:
    """Bring both hosts up in a checksum mode, and remove them."""
    cluster = Cluster(
        name=f"vm-{mode.value}",
        hosts=1,
        controllers=1,
        domain=replace(DOMAIN, checksum_mode=mode),
        agent_settings={"edge": [EDGE]},
        patience=READY,
        say=rows.say,
    )
    try:
        cluster.start_underlay()
        cluster.hosts[0].namespace.run("ip", "link", "add", EDGE, "type", "dummy")
        cluster.start_processes()
        yield Pair(cluster)
    finally:
        cluster.close()


def check(two: Pair, rows: Rows) -> None:
    """Fill the rows of this pair's mode."""
    mode = two.cluster.domain.checksum_mode.value
    ways = zip(DIRECTIONS, ((two.pod, two.linux.pod), (two.linux.pod, two.pod)), strict=True)
    for direction, (source, target) in ways:
        for name, work in kinds(source, target, two.wire).items():
            rows.check(f"{mode}: {name} {direction}", work)
    rows.check(f"{mode}: nothing crossed untranslated", lambda: untranslated(two))
    rows.check(f"{mode}: no checksum was wrong", lambda: no_wrong_checksum(two))
    rows.check(f"{mode}: a wrong checksum is seen", lambda: wrong_checksum_is_seen(two))
    rows.check(f"{mode}: another mode does not pass", lambda: other_mode(two))


def untranslated(two: Pair) -> None:
    """Make sure that the router saw no SIR destination, and that our host restored and translated by BPF."""
    assert two.cluster.fabric.untranslated() == 0
    verdicts = two.cluster.verdicts(two.ours)
    assert verdicts["from_wire", "restored"] > 100
    assert verdicts["to_wire", "translated"] > 100


def no_wrong_checksum(two: Pair) -> None:
    """Make sure that no pod refused a packet for its checksum."""
    assert [end.wrong_checksums() for end in (two.pod, two.linux.pod)] == [0, 0]


def wrong_checksum_is_seen(two: Pair) -> None:
    """Send a datagram whose checksum is one off: the other pod refuses and counts it, both ways."""
    ends = (two.pod, two.linux.pod)
    for source, target in (ends, ends[::-1]):
        with target.udp():
            source.send_raw(packet(source.address, target.address, b"damaged", [], damage=1))
            until(lambda end=target: end.wrong_checksums() == 1, "the wrong checksum is not seen")  # type: ignore[misc]


def other_mode(two: Pair) -> None:
    """Let Linux's host translate in the other mode: nothing gets through, and the drop is named."""
    other, verdict = _OTHER[two.cluster.domain.checksum_mode]
    before = two.cluster.verdicts(two.ours)["from_wire", verdict]
    two.linux.learn(two.pod.address, two.ours.locator, other)
    try:
        with contextlib.suppress(CommandError):
            printed = two.linux.pod.namespace.run(
                "ping", "-6", "-n", "-c", "2", "-i", "0.1", "-W", "1", two.pod.address
            )
            raise AssertionError(printed)
        assert two.cluster.verdicts(two.ours)["from_wire", verdict] == before + 2
    finally:
        two.linux.learn(two.pod.address, two.ours.locator)
