# SPDX-License-Identifier: Apache-2.0
"""Pods with a node-local address of IPv4 reach what has IPv4 alone, by their node's address, and nothing else by it."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether

from agent.core.ipv4 import host_name
from lab.cluster import CLOSED_PORTS, Cluster
from lab.fabric import OUTSIDE_IPV4, Host, Shape, host_ipv4
from lab.namespace import CommandError, Namespace
from lab.runtime import CniError, Pod
from tests.netns.conftest import connect, inside

NETWORK = "169.254.172.0/29"
PORT = 8080


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Yield a cluster whose nodes have both versions of IP; the router knows of their addresses alone."""
    made = Cluster(name=f"v4{os.getpid()}", hosts=2, shape=Shape.LAYER2, agent_settings={"ipv4_network": NETWORK})
    try:
        made.start()
        made.fabric.open_outside(*made.hosts)
        yield made
    finally:
        made.close()
        assert made.leftovers() == []


@contextlib.contextmanager
def pods(cluster: Cluster, *names: str, host: int = 0) -> Iterator[list[Pod]]:
    """Yield pods on a host, and remove them."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(_pod(cluster, name, host)) for name in names]


@contextlib.contextmanager
def _pod(cluster: Cluster, name: str, host: int) -> Iterator[Pod]:
    pod = cluster.pod(name, cluster.hosts[host])
    try:
        yield pod
    finally:
        pod.delete()
        pod.namespace.close()
        del cluster.pods[name]


def own(pod: Pod) -> str:
    """Return a pod's address of IPv4; '' if it has none."""
    listed = pod.namespace.run("ip", "-4", "-o", "address", "show", "dev", "v4if0").split()
    return listed[3].partition("/")[0] if listed else ""


def asked(
    server: Namespace, client: Namespace, *, bind: str = OUTSIDE_IPV4, to: str = OUTSIDE_IPV4, port: int = PORT
) -> str:
    """Connect to a server and return the client's address as it saw it; OSError if nothing comes about."""
    with inside(server, lambda: socket.create_server((bind, port))) as listener:
        listener.settimeout(2)
        with connect(client, to, port, timeout=1.5):
            server_end, peer = listener.accept()
            server_end.close()
    return str(peer[0])


def drops(host: Host, chain: str) -> int:
    """Return how many packets the rules of a chain have dropped."""
    listed = host.namespace.run("nft", "list", "chain", "ip", "ilanet", chain)
    return sum(
        int(line.split("counter packets ")[1].split()[0]) for line in listed.splitlines() if " drop comment" in line
    )


def test_the_outside_is_reached_by_the_node_s_address(cluster: Cluster) -> None:
    """From a pod of either node; what CNI says of a pod has its SIR address alone, and CHECK passes."""
    for number, host in enumerate(cluster.hosts):
        with pods(cluster, f"pod{number}", host=number) as (pod,):
            assert [entry["address"] for entry in pod.result["ips"]] == [f"{pod.address}/128"]
            assert own(pod) not in str(pod.result)
            pod.check()
            assert asked(cluster.fabric.router, pod.namespace) == host_ipv4(host)
            pod.namespace.run("ping", "-4", "-c1", "-W2", OUTSIDE_IPV4)
            status = cluster.status(host)["endpoints"]
            assert [entry["ipv4"] for entry in status.values()] == [own(pod)]
        assert "il4" not in host.namespace.run("ip", "link")


def test_it_is_no_way_between_pods_nor_into_them(cluster: Cluster) -> None:
    """Neither on one node, nor from the node's link; ports of ilanet are closed on it too."""
    (here, _), router = cluster.hosts, cluster.fabric.router
    with pods(cluster, "one", "two") as (one, two):
        before = drops(here, "forward")
        with pytest.raises(TimeoutError):
            asked(two.namespace, one.namespace, bind="0.0.0.0", to=own(two))
        router.run("ip", "route", "add", NETWORK, "via", host_ipv4(here))
        try:
            with pytest.raises(TimeoutError):
                asked(two.namespace, router, bind="0.0.0.0", to=own(two))
        finally:
            router.run("ip", "route", "del", NETWORK)
        assert drops(here, "forward") >= before + 2
        before = drops(here, "input")
        assert asked(here.namespace, one.namespace, bind="0.0.0.0", to=host_ipv4(here)) == own(one)
        with pytest.raises(TimeoutError):
            connect(one.namespace, host_ipv4(here), CLOSED_PORTS[0], timeout=1)
        assert drops(here, "input") > before


def test_a_pod_has_no_other_source(cluster: Cluster) -> None:
    """Not another pod's, nor a stranger's; and IPv6 does not pass by that link at all."""
    (here, _), router = cluster.hosts, cluster.fabric.router
    with pods(cluster, "one", "two") as (one, two):
        mac = here.namespace.mac(host_name(one.result["interfaces"][0]["name"])).hex(":")

        def send(packet: IP | IPv6) -> None:
            with inside(one.namespace, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as raw:
                raw.bind(("v4if0", 0))
                raw.send(bytes(Ether(src=one.namespace.mac("v4if0").hex(":"), dst=mac) / packet))

        with inside(router, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as heard:
            heard.bind((OUTSIDE_IPV4, 9))
            heard.settimeout(0.5)
            send(IP(src=own(one), dst=OUTSIDE_IPV4) / UDP(sport=9, dport=9) / b"own")
            assert heard.recv(10) == b"own"
            before = drops(here, "prerouting")
            for source in (own(two), "203.0.113.7", host_ipv4(here)):
                send(IP(src=source, dst=OUTSIDE_IPV4) / UDP(sport=9, dport=9) / b"forged")
            with pytest.raises(TimeoutError):
                heard.recv(10)
            assert drops(here, "prerouting") == before + 3
        seen = here.namespace.run("cat", "/proc/net/snmp6")
        send(IPv6(src=two.address, dst=here.address, hlim=64) / ICMPv6EchoRequest())
        time.sleep(0.2)
        after = here.namespace.run("cat", "/proc/net/snmp6")
        assert _count(after, "Icmp6InEchos") == _count(seen, "Icmp6InEchos")


def _count(listing: str, name: str) -> int:
    return next(int(line.split()[1]) for line in listing.splitlines() if line.startswith(name))


DAMAGES = (
    ("route", "del", "{address}"),
    ("neigh", "del", "{address}", "dev", "{link}"),
)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda words: words[0])
def test_what_is_lost_comes_back(cluster: Cluster, damage: tuple[str, ...]) -> None:
    """The host's route and neighbour, as those of the SIR address do; CHECK sees that they are gone."""
    host = cluster.hosts[0]
    with pods(cluster, "web") as (pod,):
        link = host_name(pod.result["interfaces"][0]["name"])
        address = own(pod)
        host.namespace.run("ip", "-4", *(word.format(address=address, link=link) for word in damage))
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(CniError):
                pod.check()
                break
            assert time.monotonic() < deadline
        assert asked(cluster.fabric.router, pod.namespace) == host_ipv4(host)
        pod.namespace.run("ip", "link", "del", "v4if0")
        with pytest.raises(CniError, match=f"{link} of the host is gone"):
            pod.check()


def test_the_network_is_full(cluster: Cluster) -> None:
    """Five pods have an address; the sixth is told to come again, and comes when one has ended."""
    with pods(cluster, *(f"pod{number}" for number in range(5))) as made:
        assert len({own(pod) for pod in made}) == 5
        with pytest.raises(CniError, match="all 5 addresses") as caught:
            cluster.pod("more", cluster.hosts[0])
        assert caught.value.code == 11
        more = cluster.pods.pop("more", None)
        if more is not None:
            more.namespace.close()


def test_a_killed_agent_changes_nothing(cluster: Cluster) -> None:
    """A connection goes on without it, and after it has come back the same address is the pod's."""
    host, router = cluster.hosts[0], cluster.fabric.router
    with pods(cluster, "web") as (pod,), inside(router, lambda: socket.create_server((OUTSIDE_IPV4, PORT))) as listener:
        address = own(pod)
        with connect(pod.namespace, OUTSIDE_IPV4, PORT) as client:
            server = listener.accept()[0]
            with server:
                cluster.agents[host.name].kill()
                client.sendall(b"alone")
                assert server.recv(10) == b"alone"
                cluster.start_agent(host)
                cluster.wait_ready()
                client.sendall(b"again")
                assert server.recv(10) == b"again"
        assert own(pod) == address
        pod.check()


def test_switched_off_it_goes_and_uninstall_leaves_nothing(cluster: Cluster) -> None:
    """New pods have IPv6 alone; pods of before keep the link until they end, and it leads nowhere any more."""
    host = cluster.hosts[1]
    with pods(cluster, "before", host=1) as (before,):
        cluster.agents[host.name].stop()
        cluster.start_agent(host, ipv4_network=None)
        cluster.wait_ready()
        with pods(cluster, "after", host=1) as (after,):
            with pytest.raises(CommandError):
                own(after)
            before.check()
        dropped = drops(host, "prerouting")
        for server, place in ((cluster.fabric.router, OUTSIDE_IPV4), (host.namespace, host_ipv4(host))):
            with pytest.raises(TimeoutError):
                asked(server, before.namespace, bind=place, to=place)
        assert drops(host, "prerouting") >= dropped + 2
        cluster.agents[host.name].stop()
        cluster.start_agent(host, ipv4_network=NETWORK)
        cluster.wait_ready()
        cluster.agents[host.name].stop()
        cluster.uninstall(host)
        assert "il4" not in host.namespace.run("ip", "link")
        assert "ilanet" not in host.namespace.run("nft", "list", "tables")
        assert host.namespace.run("sysctl", "-n", "net.ipv4.ip_forward").strip() == "0"
        cluster.start_agent(host)
        cluster.wait_ready()
