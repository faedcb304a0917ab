# SPDX-License-Identifier: Apache-2.0
"""Real traffic between pods of two hosts on one layer 2, through the stack and past it, by gateway and by neighbour."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from agent.core.datapath import DatapathSettings, EndpointEntry, HostPath, NextHop, pack_mapping
from agent.kernel.datapath import BpfDatapath
from agent.kernel.namespace import in_namespace
from ila.address import Identifier, Locator
from lab.namespace import Namespace, cable
from tests.bpf.world import DOMAIN, MARK, OBJECT, SETTINGS, UNKNOWN, sir

T = TypeVar("T")

TRAFFIC = str(OBJECT.parent / "traffic")

MACS = {"under": "02:00:00:00:01:0", "host": "02:00:00:00:02:0", "pod": "02:00:00:00:03:0"}
GATEWAY = "fe80::ffff"
NOBODY_MAC = "02:00:00:00:ff:ff"


class Host:
    """One host with one pod, number 1 or 2; its datapath is the real one."""

    def __init__(self, number: int, names: str, pins: Path, stack: ExitStack) -> None:
        self.number = number
        self.locator = Locator.parse(f"fd00:c0de:0:{number}::/64")
        self.identifier = Identifier.parse(f"2000:0:{number}:1")
        self.host = self._namespace(f"{names}-host{number}", stack)
        self.pod = self._namespace(f"{names}-pod{number}", stack)
        self.datapath = BpfDatapath(object_path=OBJECT, pin_directory=pins / self.host.name)

    @staticmethod
    def _namespace(name: str, stack: ExitStack) -> Namespace:
        namespace = Namespace.create(name)
        stack.callback(namespace.close)
        return namespace

    def inside(self, work: Callable[[], T]) -> T:
        """Return what work returns, done in the host's namespace."""
        descriptor = os.open(self.host.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return in_namespace(descriptor, work)
        finally:
            os.close(descriptor)

    def mac(self, device: str) -> str:
        """Return the MAC address that a device of this host or pod has."""
        return f"{MACS[device]}{self.number}"

    def index(self, device: str) -> int:
        """Return a device's index."""
        return int(json.loads(self.host.run("ip", "-j", "link", "show", "dev", device))[0]["ifindex"])

    def wire(self, other: Host, *, gateway_mac: str) -> None:
        """Give addresses, routes and neighbours as the agent does."""
        self.host.sysctl(net__ipv6__conf__all__forwarding=1)
        self.host.ip("link", "set", "under", "address", self.mac("under"))
        self.host.ip("addr", "add", f"fd00:a::{self.number}/64", "dev", "under", "nodad")
        self.host.ip("neigh", "replace", GATEWAY, "lladdr", gateway_mac, "dev", "under", "nud", "permanent")
        self.host.ip("route", "add", str(DOMAIN.sir_prefix), "via", GATEWAY, "dev", "under")
        self.host.ip("route", "add", str(other.locator), "via", f"fd00:a::{other.number}")
        cable((self.host, "host"), (self.pod, "pod"))
        self.host.ip("link", "set", "host", "address", self.mac("host"))
        self.pod.ip("link", "set", "pod", "address", self.mac("pod"))
        address = sir(self.identifier)
        self.host.ip("route", "add", address, "dev", "host")
        self.host.ip("neigh", "replace", address, "lladdr", self.mac("pod"), "dev", "host", "nud", "permanent")
        self.pod.ip("addr", "add", f"{address}/128", "dev", "pod", "nodad")
        self.pod.ip("neigh", "replace", "fe80::1", "lladdr", self.mac("host"), "dev", "pod", "nud", "permanent")
        self.pod.ip("route", "add", "default", "via", "fe80::1", "dev", "pod")

    def start(self, settings: DatapathSettings, everyone: list[Host]) -> None:
        """Load, attach and fill the datapath."""
        under, pod = self.index("under"), self.index("host")
        own = replace(settings, locator=self.locator, underlay_index=under)
        self.inside(lambda: self.datapath.load(own))
        self.inside(lambda: self.datapath.attach_underlay(under, edge=False))
        self.inside(lambda: self.datapath.attach_pod(pod, limited=False))
        pod_mac, host_mac = (bytes.fromhex(self.mac(device).replace(":", "")) for device in ("pod", "host"))
        entry = EndpointEntry(interface_index=pod, pod_mac=pod_mac, host_mac=host_mac)
        self.datapath.write_endpoint(int(self.identifier), entry)
        self.datapath.write_nodes([ipaddress.IPv6Address(f"fd00:a::{one.number}") for one in everyone], [])
        for one in everyone:
            address = DOMAIN.ila_address(one.identifier, one.locator).packed
            self.datapath.write_mappings([int(one.identifier)], [pack_mapping(address, 1, 1)])
        self.datapath.set_complete(complete=True)

    def stop(self) -> None:
        """Unload the datapath."""
        self.inside(self.datapath.unload)

    def counts(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Return packets and bytes of the verdicts that occurred."""
        return {(one.hook, one.verdict): (one.packets, one.bytes) for one in self.datapath.verdicts() if one.packets}


@pytest.fixture(
    params=[(path, hop) for path in HostPath for hop in NextHop],
    ids=lambda param: f"{param[0].value}-{param[1].value}",
)
def hosts(request: pytest.FixtureRequest, bpffs: Path) -> Iterator[list[Host]]:
    """Return two hosts joined by a cable, with a pod each."""
    path, hop = request.param
    gateway = ipaddress.IPv6Address(GATEWAY) if hop is NextHop.GATEWAY else None
    settings = replace(SETTINGS, host_path=path, gateway=gateway)
    with ExitStack() as stack:
        names = f"ilb-{os.getpid()}"
        two = [Host(number, names, bpffs, stack) for number in (1, 2)]
        cable((two[0].host, "under"), (two[1].host, "under"))
        for one, other in (two, reversed(two)):
            one.wire(other, gateway_mac=other.mac("under") if hop is NextHop.GATEWAY else NOBODY_MAC)
        for one in two:
            stack.callback(one.stop)
            one.start(settings, two)
        yield two


def _ping(source: Namespace, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*source.prefix, "ping", "-6", "-n", "-W", "5", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_ping_everywhere(hosts: list[Host]) -> None:
    """Pods reach pods and nodes, in packets of any length, and hosts reach pods; nothing is dropped."""
    one, two = hosts
    for source, target in (
        (one.pod, sir(two.identifier)),
        (two.pod, sir(one.identifier)),
        (one.pod, "fd00:a::1"),
        (one.host, sir(one.identifier)),
        (one.host, sir(two.identifier)),
    ):
        for size in ("56", "1452", "5000"):
            done = _ping(source, "-c", "3", "-i", "0.05", "-s", size, target)
            assert " 0% packet loss" in done.stdout, f"{source.name} -> {target}, {size}: {done.stdout}"
    drops = {(one.hook, one.verdict) for host in hosts for one in host.datapath.verdicts() if one.packets and one.drop}
    assert drops <= {("from_pod", "link_local_source")}


def test_segments_stay_whole(hosts: list[Host]) -> None:
    """TCP crosses both hosts in packets far larger than the MTU (TSO and GRO kept), also translated."""
    one, two = hosts
    _bulk(one.pod, two.pod, sir(two.identifier))
    hook = {"from_pod": ("remote", "forwarded"), "from_wire": ("restored", "delivered")}
    for host, (name, verdicts) in zip((one, two), hook.items(), strict=True):
        packets, size = next(host.counts()[name, verdict] for verdict in verdicts if (name, verdict) in host.counts())
        assert size / packets > 5000, f"{name}: {size / packets:.0f} bytes a packet"


def _bulk(source: Namespace, target: Namespace, address: str) -> float:
    """Return the bits a second of one TCP stream (bench/traffic.c)."""
    server = target.start(TRAFFIC, "serve", address, "7000")
    try:
        deadline = time.monotonic() + 5
        while ":7000 " not in target.run("ss", "-Htnl"):
            assert time.monotonic() < deadline
        octets, seconds = map(float, source.run(TRAFFIC, "bulk", address, "7000", "1").split())
        return octets * 8 / seconds
    finally:
        server.kill()
        server.wait()


def test_errors_quote_what_pods_know(hosts: list[Host]) -> None:
    """A hop limit that ends on either host is answered, as to a SIR address, with the hop's address."""
    one, two = hosts
    for limit, hop in (("1", "fd00:a::1"), ("2", "fd00:a::2")):
        done = _ping(one.pod, "-c", "1", "-t", limit, sir(two.identifier))
        assert "Time exceeded" in done.stdout, f"hop limit {limit}: {done.stdout} {one.counts()} {two.counts()}"
        assert hop in done.stdout


def test_smaller_underlay(hosts: list[Host]) -> None:
    """Where the underlay takes less than the pods', TCP learns the path's MTU and goes on."""
    one, two = hosts
    for host in hosts:
        host.host.ip("link", "set", "under", "mtu", "1400")
    done = _ping(one.pod, "-c", "1", "-M", "do", "-s", "1400", sir(two.identifier))
    assert "mtu=1400" in (done.stdout + done.stderr).replace(": ", "=")
    assert _bulk(one.pod, two.pod, sir(two.identifier)) > 10e6


def test_unmapped_is_answered(hosts: list[Host]) -> None:
    """With a rule on the mark, a pod that sends to nobody gets ICMPv6 address unreachable."""
    one, _ = hosts
    rule = (
        "table ip6 ilb { chain before { type filter hook prerouting priority -300;"
        f" meta mark & {MARK} == {MARK} reject with icmpv6 addr-unreachable; }};}}\n"
    )
    one.host.run("nft", "-f", "-", stdin=rule)
    done = _ping(one.pod, "-c", "1", sir(UNKNOWN))
    assert "Address unreachable" in done.stdout
    assert one.counts()["from_pod", "unmapped"][0] == 1
