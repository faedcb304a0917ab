# SPDX-License-Identifier: Apache-2.0
import asyncio
import ipaddress
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from scapy.layers.inet6 import ICMPv6ND_RA, ICMPv6NDOptPrefixInfo, IPv6
from scapy.layers.l2 import Ether

from agent.core.datapath import NextHop
from agent.core.network import HostState, NetworkError, PodLink, PodRoute, Renumbered, host_state
from agent.kernel.events import KernelChanges
from agent.kernel.host import KernelHost
from agent.kernel.namespace import in_namespace
from agent.kernel.nftables import RejectTable
from agent.kernel.wiring import KernelWiring
from agent.records import RecordDirectory
from ila.address import Locator, SirPrefix
from lab.namespace import CommandError, Namespace, cable, run

NODE, ROUTER = ipaddress.IPv6Address("fd00::1"), ipaddress.IPv6Address("fd00::2")
OWN, OTHER = Locator.parse("fd00:1:1::/64"), Locator.parse("fd00:1:2::/64")
SIR = SirPrefix.parse("fd00:a::/64")
ADDRESS = ipaddress.IPv6Address("fd00:a::2000:0:0:1")
MARK = 0x0100_0000

T = TypeVar("T")


@dataclass
class Lab:
    """A host with an underlay device to a router."""

    host: Namespace
    router: Namespace
    networking: KernelHost
    stack: ExitStack

    def inside(self, work: Callable[[], T], where: Namespace | None = None) -> T:
        with open((where or self.host).path) as file:  # noqa: PTH123 - a descriptor is wanted
            return in_namespace(file.fileno(), work)

    def state(
        self,
        next_hop: NextHop = NextHop.GATEWAY,
        pods: tuple[PodRoute, ...] = (),
        others: tuple[Locator, ...] = (OTHER,),
    ) -> HostState:
        return host_state(
            sir_prefix=SIR,
            node_address=NODE,
            underlay=[self.inside(lambda: self.networking.device("eth0"))],
            next_hop=next_hop,
            gateway=ROUTER if next_hop is NextHop.GATEWAY else None,
            own_locator=OWN,
            locators=dict.fromkeys(others, ROUTER),
            pods=pods,
        )

    def reconcile(self, state: HostState) -> list[str]:
        return list(self.inside(lambda: self.networking.reconcile(state)))

    def listing(self) -> list[str]:
        """Everything an uninstall must bring back."""
        return [
            re.sub(r" expires \d+sec", "", self.host.ip("route", "show", "table", "all")),  # learnt routes age
            self.host.ip("address"),
            self.host.ip("neigh", "show", "nud", "permanent"),
            run("ip", "-n", self.host.name, "link"),
            self.host.run("sysctl", "-a", "--pattern", r"^net\.ipv6"),
            self.host.run("nft", "list", "ruleset"),
        ]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with ExitStack() as stack:
        host = Namespace.create(f"ilc-{os.getpid()}-h")
        stack.callback(host.close)
        router = Namespace.create(f"ilc-{os.getpid()}-r")
        stack.callback(router.close)
        cable((host, "eth0"), (router, "eth0"))
        host.ip("address", "add", f"{NODE}/64", "dev", "eth0", "nodad")
        router.ip("address", "add", f"{ROUTER}/64", "dev", "eth0", "nodad")
        yield Lab(host, router, KernelHost(records=RecordDirectory(path=tmp_path)), stack)


def advertise(lab: Lab) -> None:
    """Let the router advertise itself; wait until the host has the default route."""
    frame = (
        Ether(dst="33:33:00:00:00:01")
        / IPv6(src="fe80::99", dst="ff02::1", hlim=255)
        / ICMPv6ND_RA(routerlifetime=1800)
        / ICMPv6NDOptPrefixInfo(prefix="fd00:5::", prefixlen=64, L=1, A=0)
    )

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            raw.send(bytes(frame))

    lab.inside(send, lab.router)
    assert "default via fe80::99 dev eth0 proto ra" in lab.host.ip("route")


def test_a_default_route_learnt_from_advertisements_outlives_forwarding(lab: Lab) -> None:
    """accept_ra turns from 1 to 2 first; and it does so too on devices that are not the underlay's."""
    advertise(lab)
    state = lab.state()
    words = lab.reconcile(replace(state, underlay=()))
    assert words[:2] == ["sysctl net/ipv6/conf/eth0/accept_ra = 2", "sysctl net/ipv6/conf/all/forwarding = 1"]
    assert "default via fe80::99 dev eth0 proto ra" in lab.host.ip("route")


def test_the_kernel_really_deletes_that_route_otherwise(lab: Lab) -> None:
    """The trap the test above guards against is there on this kernel."""
    advertise(lab)
    lab.host.sysctl(net__ipv6__conf__all__forwarding=1)
    assert "default" not in lab.host.ip("route")


def test_a_routed_underlay(lab: Lab) -> None:
    """The SIR route goes by the real gateway, with the node address as source; packets for our own locator end."""
    lab.reconcile(lab.state())
    assert f"{SIR} via {ROUTER} dev eth0 proto 158 src {NODE} metric 1024 mtu 1500" in lab.host.ip("route")
    assert f"unreachable {OWN} dev lo proto 158" in lab.host.ip("route")
    assert str(OTHER) not in lab.host.ip("route")
    assert f"src {NODE}" in lab.host.ip("route", "get", str(ADDRESS))
    with pytest.raises(CommandError, match="No route to host"):
        lab.host.ip("route", "get", "fd00:1:1::5")


def test_a_shared_layer_2(lab: Lab) -> None:
    """The SIR route goes by a made-up gateway that the kernel never solicits; locators by their nodes."""
    lab.reconcile(lab.state(NextHop.NEIGHBOUR))
    assert f"{SIR} via fe80::11a0:1 dev eth0 proto 158 src {NODE}" in lab.host.ip("route")
    assert "fe80::11a0:1 dev eth0 lladdr 02:11:a0:00:00:01 PERMANENT" in lab.host.ip("neigh")
    assert f"{OTHER} via {ROUTER} dev eth0 proto 158" in lab.host.ip("route")


@pytest.mark.parametrize("before", list(NextHop))
@pytest.mark.parametrize("after", list(NextHop))
def test_from_any_state_to_any_state(lab: Lab, before: NextHop, after: NextHop) -> None:
    """A second run finds nothing to do, in whatever order states come."""
    lab.reconcile(lab.state(before))
    lab.reconcile(lab.state(after))
    assert lab.reconcile(lab.state(after)) == []
    assert ("fe80::11a0:1" in lab.host.ip("neigh")) is (after is NextHop.NEIGHBOUR)
    assert (str(OTHER) in lab.host.ip("route")) is (after is NextHop.NEIGHBOUR)


def test_drift_is_repaired_and_what_is_not_wanted_goes(lab: Lab) -> None:
    """Deleted, changed and left-over routes and neighbours; the answer names each."""
    state = lab.state(NextHop.NEIGHBOUR)
    lab.reconcile(state)
    lab.host.ip("route", "del", str(OTHER))
    lab.host.ip("neigh", "del", "fe80::11a0:1", "dev", "eth0")
    lab.host.ip("route", "change", str(SIR), "via", str(ROUTER), "dev", "eth0", "proto", "158", "metric", "1024")
    lab.host.ip("route", "add", "fd00:1:9::/64", "via", str(ROUTER), "proto", "158")
    lab.host.sysctl(net__ipv6__conf__all__forwarding=0)
    assert set(lab.reconcile(state)) == {
        "sysctl net/ipv6/conf/all/forwarding = 1",
        "neighbour fe80::11a0:1 set",
        f"route {OTHER} set",
        f"route {SIR} set",
        "route fd00:1:9::/64 removed",
    }
    assert lab.reconcile(state) == []


def test_a_restarted_agent_that_knows_no_node_yet_removes_nothing(lab: Lab) -> None:
    """Packets to the other locators go on while the agent reads who is there; what is wrong is put right at once."""
    lab.reconcile(lab.state(NextHop.NEIGHBOUR))
    lab.host.ip("route", "del", str(SIR))
    unknowing = replace(lab.state(NextHop.NEIGHBOUR, others=()), complete=False)
    assert lab.reconcile(unknowing) == [f"route {SIR} set"]
    assert str(OTHER) in lab.host.ip("route")
    assert lab.reconcile(replace(unknowing, complete=True)) == [f"route {OTHER} removed"]


def test_what_others_made_is_never_touched(lab: Lab) -> None:
    """A foreign route of the same prefix is an error that names it; the rest is done all the same."""
    lab.host.ip("route", "add", str(SIR), "via", str(ROUTER), "metric", "1024")
    lab.host.ip("route", "add", "fd00:77::/64", "via", str(ROUTER))
    lab.host.ip("neigh", "add", "fd00::77", "lladdr", "02:00:00:00:00:77", "dev", "eth0")
    with pytest.raises(NetworkError, match=f"route to {SIR}: File exists"):
        lab.reconcile(lab.state())
    assert str(OWN) in lab.host.ip("route")
    lab.inside(lab.networking.uninstall)
    routes = lab.host.ip("route")
    assert f"{SIR} via {ROUTER}" in routes
    assert "fd00:77::/64" in routes
    assert str(OWN) not in routes
    assert "fd00::77" in lab.host.ip("neigh")


def test_ways_to_pods_are_repaired_but_never_removed(lab: Lab) -> None:
    """A pod wired while the state was drawn up keeps its route; one that is gone is no error."""
    pod_namespace = Namespace.create(f"{lab.host.name}-pod")
    lab.stack.callback(pod_namespace.close)
    pod = PodLink(container_id="c", interface="eth0", address=ADDRESS, mtu=1500, source=NODE)
    with open(pod_namespace.path) as file:  # noqa: PTH123 - a descriptor is wanted
        wiring = KernelWiring()
        wired = lab.inside(lambda: wiring.wire(pod, file.fileno()))
        wiring.settle(pod.host_name)
        assert not any(str(ADDRESS) in word for word in lab.reconcile(lab.state()))
        way = PodRoute(address=ADDRESS, device=wired.host_index, mac=pod.pod_mac)
        assert lab.reconcile(lab.state(pods=(way,))) == []
        lab.host.ip("route", "del", str(ADDRESS))
        lab.host.ip("neigh", "del", str(ADDRESS), "dev", pod.host_name)
        words = lab.reconcile(lab.state(pods=(way,)))
        assert words == [f"neighbour {ADDRESS} set", f"route {ADDRESS}/128 set"]
        lab.inside(lambda: KernelWiring().check(pod, file.fileno()))
    lab.inside(lambda: KernelWiring().unwire(pod.host_name))
    lab.reconcile(lab.state(pods=(way,)))


@pytest.mark.parametrize("next_hop", list(NextHop))
@pytest.mark.parametrize("advertised", ["static", "advertised"])
def test_uninstall_brings_back_what_was_there(lab: Lab, next_hop: NextHop, advertised: str) -> None:
    """Routes, addresses, neighbours, links, sysctls and rules read as before, byte for byte."""
    lab.host.sysctl(net__ipv6__conf__lo__forwarding=1)
    if advertised == "static":
        lab.host.ip("route", "add", "default", "via", str(ROUTER))
    else:
        lab.host.sysctl(net__ipv6__conf__eth0__accept_ra=1)
        advertise(lab)
    before = lab.listing()
    pod_namespace = Namespace.create(f"{lab.host.name}-pod")
    lab.stack.callback(pod_namespace.close)
    pod = PodLink(container_id="c", interface="eth0", address=ADDRESS, mtu=1500, source=NODE)
    for _ in range(2):
        lab.reconcile(lab.state(next_hop))
        with open(pod_namespace.path) as file:  # noqa: PTH123 - a descriptor is wanted
            wiring = KernelWiring()
            lab.inside(lambda wiring=wiring, file=file: wiring.wire(pod, file.fileno()))  # type: ignore[misc]
            wiring.settle(pod.host_name)
        ensure(lab, RejectTable(mark=MARK))
        assert lab.listing() != before
        assert ("default via fe80::99 dev eth0 proto ra" in lab.host.ip("route")) is (advertised == "advertised")
        lab.inside(lab.networking.uninstall)
        lab.inside(RejectTable(mark=MARK).remove)
        assert lab.listing() == before


def test_sysctls_of_an_earlier_boot_are_not_restored(lab: Lab, tmp_path: Path) -> None:
    """What they were before the last reboot says nothing about now."""
    lab.reconcile(lab.state())
    record = tmp_path / "sysctls.json"
    text = record.read_text()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    record.write_text(text.replace(boot, "another"))
    lab.inside(lab.networking.uninstall)
    assert lab.host.run("sysctl", "-n", "net.ipv6.conf.all.forwarding").strip() == "1"
    assert not record.exists()


def test_a_broken_record_of_sysctls_is_refused(lab: Lab, tmp_path: Path) -> None:
    """Nothing is guessed; the text is quoted."""
    (tmp_path / "sysctls.json").write_text('{"boot": 1}')
    with pytest.raises(NetworkError, match=r"does not parse.*boot"):
        lab.reconcile(lab.state())


def test_look_ups(lab: Lab) -> None:
    """On the link, by a gateway, nowhere, unreachable, and by one of our own routes."""
    lookup = lab.networking.lookup

    def find(text: str) -> tuple[str | None, bool] | None:
        hop = lab.inside(lambda: lookup(ipaddress.IPv6Address(text)))
        return (str(hop.gateway) if hop.gateway else None, hop.ours) if hop else None

    assert find("fd00::2") == (None, False)
    assert find("fd00:1:2::1") is None
    lab.host.ip("route", "add", "fd00:1::/32", "via", str(ROUTER))
    assert find("fd00:1:2::1") == (str(ROUTER), False)
    lab.reconcile(lab.state(NextHop.NEIGHBOUR))
    assert find("fd00:1:2::1") == (str(ROUTER), True)
    assert find("fd00:1:1::1") is None
    with pytest.raises(NetworkError, match="'eth9' does not exist"):
        lab.inside(lambda: lab.networking.device("eth9"))


def test_an_address_that_has_changed_and_one_that_is_away(lab: Lab) -> None:
    """Another address instead of it is one thing, none on a link that is down another: a new start would not help."""
    networking = lab.networking
    assert lab.inside(lambda: networking.device_of(NODE)) == "eth0"
    lab.host.ip("address", "add", "fd00::9/64", "dev", "eth0", "nodad")
    lab.host.ip("address", "del", f"{NODE}/64", "dev", "eth0")
    with pytest.raises(Renumbered, match="fd00::9: the agent must be started with the new one"):
        lab.inside(lambda: networking.device_of(NODE))
    lab.host.ip("link", "set", "eth0", "down")
    with pytest.raises(NetworkError, match="has the node address fd00::1: which") as caught:
        lab.inside(lambda: networking.device_of(NODE))
    assert not isinstance(caught.value, Renumbered)


def test_a_thousand_locators(lab: Lab) -> None:
    """More requests than one receive buffer holds acknowledgements for."""
    others = tuple(Locator(0xFD00_0001_0000_0000 + number) for number in range(1, 1001))
    state = lab.state(NextHop.NEIGHBOUR, others=others)
    assert len(lab.reconcile(state)) == 1005
    assert lab.reconcile(state) == []
    assert len(lab.reconcile(lab.state(NextHop.NEIGHBOUR, others=()))) == 1000


async def test_changes_are_announced(lab: Lab) -> None:
    """A link, an address, a route, a neighbour of ours; not a neighbour that the kernel resolves."""
    changes = lab.inside(KernelChanges.open)
    try:
        for words in (
            ["link", "add", "x", "type", "veth", "peer", "name", "y"],
            ["address", "add", "fd00:9::1/128", "dev", "eth0"],
            ["route", "add", "fd00:8::/64", "via", str(ROUTER)],
            ["neigh", "add", "fd00::55", "lladdr", "02:00:00:00:00:55", "dev", "eth0", "protocol", "158"],
            ["neigh", "del", "fd00::55", "dev", "eth0"],
        ):
            lab.host.ip(*words)
            async with asyncio.timeout(2):
                await changes.wait()
        await asyncio.sleep(2.2)
        changes._drain()
        lab.host.run("ping", "-c1", "-W1", str(ROUTER))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await changes.wait()
    finally:
        changes.close()


async def test_what_ipv4_and_bridges_learn_is_no_change_and_no_error(lab: Lab) -> None:
    """A host has both families, and its bridges announce MAC addresses as if they were neighbours."""
    for namespace, address in ((lab.host, "192.0.2.1/24"), (lab.router, "192.0.2.2/24")):
        namespace.run("ip", "address", "add", address, "dev", "eth0")
    for words in (["br0", "type", "bridge"], ["x", "type", "veth", "peer", "name", "y"]):
        lab.host.run("ip", "link", "add", *words)
    for words in (["x", "master", "br0"], ["br0", "up"], ["x", "up"], ["y", "up"]):
        lab.host.run("ip", "link", "set", *words)
    await asyncio.sleep(2.2)
    changes = lab.inside(KernelChanges.open)
    try:
        lab.host.run("ping", "-c1", "-W1", "192.0.2.2")
        lab.host.run("bridge", "fdb", "add", "02:00:00:00:00:99", "dev", "x", "master", "dynamic")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await changes.wait()
    finally:
        changes.close()


async def test_more_changes_than_fit_are_a_change(lab: Lab) -> None:
    """An overflow of the socket is no error."""
    changes = lab.inside(KernelChanges.open)
    try:
        others = tuple(Locator(0xFD00_0001_0000_0000 + number) for number in range(1, 2001))
        lab.reconcile(lab.state(NextHop.NEIGHBOUR, others=others))
        async with asyncio.timeout(2):
            await changes.wait()
    finally:
        changes.close()


def ensure(lab: Lab, table: RejectTable, *nodes: str) -> bool:
    """Put the table in place."""
    addresses = [ipaddress.IPv6Address(node) for node in nodes]
    return lab.inside(lambda: table.ensure(sir_prefix=SIR, closed_ports=(7443, 2379), nodes=addresses))


def reject_lab(lab: Lab) -> Namespace:
    """Give the host a client whose packets are all marked, as the datapath marks them."""
    client = Namespace.create(f"{lab.host.name}-c")
    lab.stack.callback(client.close)
    cable((lab.host, "pod"), (client, "eth0"))
    lab.host.ip("address", "add", "fd00:c::1/64", "dev", "pod", "nodad")
    client.ip("address", "add", "fd00:c::2/64", "dev", "eth0", "nodad")
    client.ip("route", "add", "default", "via", "fd00:c::1")
    lab.reconcile(lab.state())
    rules = f"""table ip6 marking {{ chain first {{ type filter hook prerouting priority -350;
      iifname "pod" ip6 daddr {SIR} meta mark set 0x{MARK | 5:x}
      }}
    }}"""
    lab.host.run("nft", "-f", "-", stdin=rules)
    return client


def test_a_marked_packet_is_answered_with_code_3(lab: Lab) -> None:
    """Address unreachable, from the host, on this kernel, for ICMPv6, UDP and TCP alike."""
    client = reject_lab(lab)
    assert ensure(lab, RejectTable(mark=MARK))
    with pytest.raises(CommandError, match="Destination unreachable: Address unreachable"):
        client.run("ping", "-c1", "-W1", str(ADDRESS))

    def connect() -> None:
        with socket.socket(socket.AF_INET6) as tcp:
            tcp.settimeout(2)
            tcp.connect((str(ADDRESS), 80))

    with pytest.raises(OSError, match="No route to host"):
        lab.inside(connect, client)


def test_answers_are_limited_and_the_rest_is_dropped(lab: Lab) -> None:
    """Beyond the rate a marked packet ends in silence, and is counted."""
    client = reject_lab(lab)
    ensure(lab, RejectTable(mark=MARK, per_second=1, burst=2))

    def flood() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp:
            for _ in range(20):
                udp.sendto(b"x", (str(ADDRESS), 9))

    lab.inside(flood, client)
    rules = lab.host.run("nft", "list", "chain", "ip6", "ilanet", "answer")
    counts = [int(line.split("packets ")[-1].split()[0]) for line in rules.splitlines() if "counter packets" in line]
    assert len(counts) == 2
    assert counts[0] in (2, 3)
    assert sum(counts) == 20


def test_a_right_table_keeps_its_counters_and_a_wrong_one_is_replaced(lab: Lab) -> None:
    """Read back before writing; another mark or a missing rule is not right."""
    client = reject_lab(lab)
    table = RejectTable(mark=MARK)
    assert ensure(lab, table)
    with pytest.raises(CommandError):
        client.run("ping", "-c1", "-W1", str(ADDRESS))
    assert not ensure(lab, table)
    assert "counter packets 1 " in lab.host.run("nft", "list", "table", "ip6", "ilanet")
    assert ensure(lab, RejectTable(mark=MARK << 1))
    assert ensure(lab, table)
    lab.host.run("nft", "flush", "chain", "ip6", "ilanet", "prerouting")
    assert ensure(lab, table)
    for _ in range(2):
        lab.inside(table.remove)
    assert "ilanet" not in lab.host.run("nft", "list", "ruleset")


def test_unmarked_packets_pass_the_table(lab: Lab) -> None:
    """All bits of the mark must be set."""
    client = reject_lab(lab)
    ensure(lab, RejectTable(mark=MARK | 2))
    client.run("ping", "-c1", "-W1", "fd00:c::1")
    with pytest.raises(CommandError) as caught:
        client.run("ping", "-c1", "-W1", str(ADDRESS))
    assert "Address unreachable" not in str(caught.value)


def test_pods_do_not_reach_our_own_ports(lab: Lab) -> None:
    """Not from the SIR prefix, by whichever way; other ports and other sources are untouched."""
    client = reject_lab(lab)
    client.ip("address", "add", str(ADDRESS), "dev", "eth0", "nodad")
    lab.host.ip("route", "add", str(ADDRESS), "dev", "pod", "metric", "1")
    ensure(lab, RejectTable(mark=MARK << 1))

    def serve(port: int) -> socket.socket:
        server = socket.create_server(("::", port), family=socket.AF_INET6)
        server.listen()
        return server

    def connects(source: str, port: int) -> bool:
        with socket.socket(socket.AF_INET6) as tcp:
            tcp.settimeout(0.5)
            tcp.bind((source, 0))
            try:
                tcp.connect(("fd00:c::1", port))
            except TimeoutError:
                return False
        return True

    servers = [lab.inside(partial(serve, port)) for port in (7443, 8443)]
    try:
        with client.path.open() as file:
            asked = [(str(ADDRESS), 7443), (str(ADDRESS), 8443), ("fd00:c::2", 7443)]
            found = [in_namespace(file.fileno(), partial(connects, *one)) for one in asked]
    finally:
        for server in servers:
            server.close()
    assert found == [False, True, True]


def test_what_pods_send_outside_gets_the_node_s_address(lab: Lab) -> None:
    """Not what they send to nodes; a change of the nodes costs no rule its counter."""
    client = reject_lab(lab)
    client.ip("address", "add", str(ADDRESS), "dev", "eth0", "nodad")
    lab.host.ip("route", "add", str(ADDRESS), "dev", "pod", "metric", "1")
    lab.router.ip("address", "add", "2001:db8::1/128", "dev", "lo", "nodad")
    lab.host.ip("route", "replace", "2001:db8::1/128", "via", str(ROUTER), "dev", "eth0")
    table = RejectTable(mark=MARK << 1, masquerade=True)
    assert ensure(lab, table)
    asks = f"ip6 saddr {NODE} icmpv6 type echo-request counter"
    seen = f"table ip6 seen {{\n chain input {{ type filter hook input priority 0; {asks}; }}\n}}"
    lab.router.run("nft", "-f", "-", stdin=seen)

    def counted(namespace: Namespace, chain: str) -> int:
        listing = namespace.run("nft", "list", "ruleset").partition(f"chain {chain}")[2]
        return int(listing.partition("counter packets ")[2].split()[0])

    ping = ("ping", "-c1", "-W1", "-I", str(ADDRESS), "2001:db8::1")
    client.run(*ping)
    assert (counted(lab.router, "input"), counted(lab.host, "postrouting")) == (1, 1)
    assert not ensure(lab, table)
    assert ensure(lab, table, "2001:db8::1")
    with pytest.raises(CommandError):
        client.run(*ping)
    assert (counted(lab.router, "input"), counted(lab.host, "postrouting")) == (1, 1)
    assert ensure(lab, table)
    client.run(*ping)
    assert (counted(lab.router, "input"), counted(lab.host, "postrouting")) == (2, 2)
