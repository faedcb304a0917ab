# SPDX-License-Identifier: Apache-2.0
"""Ways from pod to pod, all on one shape: two hosts on a router, one pod on each, veth pairs of MTU 1500; for rr.py.

Pods of every case are wired by the same code (agent/kernel/wiring.py): a /128, a permanent neighbour on both
sides, no bridge.  So the cases differ only in what happens to a packet between the two pods' links.
"""

from __future__ import annotations

import ipaddress
import json
import signal
from dataclasses import dataclass
from typing import Protocol

from agent.core.datapath import DatapathSettings, HostPath
from agent.core.network import PodLink
from agent.kernel.datapath import BpfDatapath
from agent.kernel.namespace import in_namespace
from agent.kernel.wiring import KernelWiring
from bench.results import TRAFFIC
from lab.cluster import CLOSED_PORTS, DOMAIN, STATE, Cluster
from lab.fabric import Fabric, Host, Shape
from lab.namespace import Namespace
from lab.process import SOURCE, Process, stop_noted

PORT = 5001
VXLAN_MTU = 1450
"""Over IPv4: 50 bytes for Ethernet, IP, UDP and VXLAN headers."""

_REJECT_MARK = 0x0100_0000


@dataclass(frozen=True, slots=True)
class Ends:
    """The two pods: traffic goes from `client` to `server` at `address`."""

    client: Namespace
    server: Namespace
    address: str


class Case(Protocol):
    """One way from pod to pod."""

    name: str

    def start(self) -> Ends:
        """Build it; what a killed run left is removed first."""

    def close(self) -> None:
        """Remove every trace of it; repeats safely."""


class Plain:
    """Plain routed IPv6: pods have routable addresses, hosts and router forward, no BPF anywhere."""

    mtu = 1500

    def __init__(self, name: str = "plain") -> None:
        self.name = name
        self._fabric = Fabric(prefix=f"bench-{name}", shape=Shape.ROUTED, domain=DOMAIN)

    def start(self) -> Ends:
        """Give pods addresses of their host's locator, which the router routes to it."""
        self.close()
        self._fabric.build(2)
        hosts = self._fabric.hosts
        pods = [self._pod(host) for host in hosts]
        self._join(hosts)
        return Ends(pods[0], pods[1], str(_routable(hosts[1])))

    def close(self) -> None:
        """Remove the namespaces."""
        self._fabric.close()
        self._fabric.hosts.clear()

    def _join(self, hosts: list[Host]) -> None:
        """Nothing: the fabric routes pods' addresses."""

    def _pod(self, host: Host) -> Namespace:
        host.namespace.sysctl(net__ipv6__conf__all__forwarding=1)
        pod = Namespace.create(f"{self._fabric.prefix}-pod{host.number}")
        link = PodLink(
            container_id=pod.name,
            interface="eth0",
            address=_routable(host),
            mtu=self.mtu,
            source=ipaddress.IPv6Address(host.address),
        )
        with host.namespace.path.open("rb") as place, pod.path.open("rb") as netns:
            wiring = KernelWiring()
            in_namespace(place.fileno(), lambda: wiring.wire(link, netns.fileno()))
            wiring.settle(link.host_name)
        return pod


class Vxlan(Plain):
    """VXLAN between the hosts, pods routed over it: the leanest form, as flannel's, without its bridge.

    Outside is IPv4, as in most clusters: 20 bytes less in each packet than over IPv6, and no UDP checksum.
    """

    mtu = VXLAN_MTU

    def __init__(self) -> None:
        super().__init__("vxlan")

    def _join(self, hosts: list[Host]) -> None:
        router = self._fabric.router
        router.sysctl(net__ipv4__ip_forward=1)
        for host in hosts:
            router.ip("-4", "addr", "add", f"10.0.{host.number}.1/24", "dev", f"h{host.number}")
            host.namespace.ip("-4", "addr", "add", f"10.0.{host.number}.2/24", "dev", host.device)
            host.namespace.ip("-4", "route", "add", "default", "via", f"10.0.{host.number}.1")
        for host, other in (hosts, hosts[::-1]):
            self._tunnel(host, other)

    def _tunnel(self, host: Host, other: Host) -> None:
        """Make the device, and all that it would have to learn of the other host: neighbour, MAC, route."""
        enter = host.namespace.ip
        mac, far_mac = (f"02:00:00:00:00:{each.number:02x}" for each in (host, other))
        enter("link", "add", "vx0", "address", mac, "mtu", str(VXLAN_MTU), "type", "vxlan", "id", "7",
              "local", f"10.0.{host.number}.2", "dev", host.device, "dstport", "4789", "nolearning")  # fmt: skip
        host.namespace.run("sysctl", "-q", "-w", "net.ipv6.conf.vx0.accept_dad=0")
        enter("link", "set", "vx0", "up")
        host.namespace.run("bridge", "fdb", "add", far_mac, "dev", "vx0", "dst", f"10.0.{other.number}.2")
        enter("neigh", "add", "fe80::7", "lladdr", far_mac, "dev", "vx0", "nud", "permanent")
        enter("route", "add", str(other.locator), "via", "fe80::7", "dev", "vx0")


class Ilanet:
    """Our network as it is installed: agents, controller and etcd, frozen once everything is in place."""

    def __init__(self, name: str, host_path: HostPath) -> None:
        self.name = name
        self._cluster = Cluster(
            name=f"bench-{name}", hosts=2, controllers=1, agent_settings={"host_path": host_path.value}
        )

    def start(self) -> Ends:
        """Bring it up, add the pods through the CNI executable, and freeze every process."""
        self._cluster.start()
        pods = [self._cluster.pod(f"pod{host.number}", host) for host in self._cluster.hosts]
        ends = Ends(pods[0].namespace, pods[1].namespace, pods[1].address)
        pods[0].namespace.run("ping", "-6", "-c", "10", "-i", "0.05", "-W", "2", ends.address)
        self._settle()
        return ends

    def _settle(self) -> None:
        """Freeze everything: the pinned programs carry the traffic, and nothing else takes processor time."""
        for process in (*self._cluster.agents.values(), *self._cluster.controllers):
            process.signal(signal.SIGSTOP)
        if self._cluster.etcd is not None:
            self._cluster.etcd.freeze()

    def close(self) -> None:
        """Remove the cluster."""
        self._cluster.close()


class Untranslated(Ilanet):
    """Host routing with the stores of addresses switched off: SIR destinations stay on the wire.

    The agent has no such setting.  So it is ended, which touches no packet, and its programs are replaced by the
    same ones with the constant `translate` off.  The router gets a route to each pod, and its rule against SIR
    destinations is replaced by one of the same work for a prefix that nobody uses.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, HostPath.BPF)

    def _settle(self) -> None:
        super()._settle()
        router, cluster = self._cluster.fabric.router, self._cluster
        rules = router.run("nft", "list", "ruleset").replace(str(DOMAIN.sir_prefix), "2001:db8:7::/64")
        router.run("nft", "-f", "-", stdin=f"flush ruleset\n{rules}")
        for host, pod in zip(cluster.hosts, cluster.pods.values(), strict=True):
            router.ip("route", "add", f"{pod.address}/128", "via", host.address, "dev", f"h{host.number}")
            cluster.agents[host.name].kill()
            with host.namespace.path.open("rb") as place:
                in_namespace(place.fileno(), lambda host=host: self._reload(host))  # type: ignore[misc]

    def _reload(self, host: Host) -> None:
        (link,) = json.loads(host.namespace.run("ip", "-j", "link", "show", "dev", host.device))
        datapath = BpfDatapath(
            object_path=SOURCE / "build/ilanet.bpf.o", pin_directory=self._cluster.directory / host.name / "bpf/ilanet"
        )
        datapath.load(
            DatapathSettings(
                domain=DOMAIN,
                locator=host.locator,
                host_path=HostPath.BPF,
                gateway=ipaddress.IPv6Address(str(host.gateway)),
                underlay_index=int(link["ifindex"]),
                closed_ports=CLOSED_PORTS,
                reject_mark=_REJECT_MARK,
                translate=False,
            )
        )


class Server:
    """`traffic serve` in a case's server pod, known by a pid file to later runs."""

    _DIRECTORY = STATE / "bench"

    def __init__(self, name: str, ends: Ends) -> None:
        self._DIRECTORY.mkdir(parents=True, exist_ok=True)
        self._process = Process(
            name=name,
            command=[*ends.server.prefix, TRAFFIC, "serve", ends.address, str(PORT)],
            directory=self._DIRECTORY,
        )
        self._process.start()

    def close(self) -> None:
        """End it."""
        self._process.stop()
        self._process.log.unlink(missing_ok=True)

    @classmethod
    def close_noted(cls) -> None:
        """End those of earlier runs, and remove their folder."""
        stop_noted(cls._DIRECTORY)
        if cls._DIRECTORY.exists():
            for file in cls._DIRECTORY.iterdir():
                file.unlink()
            cls._DIRECTORY.rmdir()


def all_cases() -> list[Case]:
    """Return every case."""
    return [
        Plain(),
        Vxlan(),
        Ilanet("stack", HostPath.STACK),
        Ilanet("hostrouting", HostPath.BPF),
        Untranslated("hostrouting_untranslated"),
    ]


def _routable(host: Host) -> ipaddress.IPv6Address:
    return host.locator.network.network_address + 0x100
