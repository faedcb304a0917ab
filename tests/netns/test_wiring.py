# SPDX-License-Identifier: Apache-2.0
import ipaddress
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TypeVar

import pytest

from agent.core.network import InterfaceExists, NetworkError, NotWired, PodLink, WiredPod
from agent.kernel import rtnetlink, veth
from agent.kernel.namespace import in_namespace
from agent.kernel.netlink import Socket
from agent.kernel.wiring import KernelWiring
from lab.namespace import CommandError, Namespace

NODE = ipaddress.IPv6Address("fd00::1")
ADDRESS = ipaddress.IPv6Address("fd00:a::2000:0:0:1")

T = TypeVar("T")


@dataclass
class Host:
    """A host namespace with a node address, and pods that are made on demand."""

    namespace: Namespace
    stack: ExitStack
    wiring: KernelWiring = field(default_factory=KernelWiring)

    def inside(self, work: Callable[[], T]) -> T:
        with open(self.namespace.path) as file:  # noqa: PTH123 - a descriptor is wanted
            return in_namespace(file.fileno(), work)

    def wire(self, pod: PodLink, descriptor: int) -> WiredPod:
        """Wire a pod and wait until its links send."""
        wired = self.inside(lambda: self.wiring.wire(pod, descriptor))
        self.wiring.settle(pod.host_name)
        return wired

    def pod(self, number: int = 1) -> tuple[Namespace, int]:
        namespace = Namespace.create(f"{self.namespace.name}-pod{number}")
        self.stack.callback(namespace.close)
        descriptor = os.open(namespace.path, os.O_RDONLY | os.O_CLOEXEC)
        self.stack.callback(os.close, descriptor)
        return namespace, descriptor

    def links(self) -> list[str]:
        return self.namespace.run("ls", "/proc/sys/net/ipv6/conf").split()


@pytest.fixture
def host() -> Iterator[Host]:
    with ExitStack() as stack:
        namespace = Namespace.create(f"ilc-{os.getpid()}")
        stack.callback(namespace.close)
        namespace.ip("address", "add", f"{NODE}/128", "dev", "lo")
        while "tentative" in namespace.ip("address", "show", "dev", "lo"):  # the kernel comes to it later
            time.sleep(0.001)
        namespace.sysctl(net__ipv6__conf__all__forwarding=1)
        yield Host(namespace, stack)


def link(number: int = 1, *, mtu: int = 1500) -> PodLink:
    return PodLink(
        container_id=f"container{number}", interface="eth0", address=ADDRESS + (number - 1), mtu=mtu, source=NODE
    )


def test_a_wired_pod_has_address_route_and_neighbours_at_once(host: Host) -> None:
    """No duplicate address detection, permanent neighbours on both sides, the asked MTU, our marks."""
    namespace, descriptor = host.pod()
    pod = link(mtu=1400)
    wired = host.wire(pod, descriptor)
    with in_namespace(descriptor, Socket.open) as inside:
        end = veth.find_link(inside, "eth0")
    assert end is not None
    assert end.active
    address = namespace.ip("-oneline", "address", "show", "dev", "eth0")
    assert f"{ADDRESS}/128" in address
    assert "tentative" not in address
    assert "fe80" not in address
    assert "default via fe80::1 dev eth0" in namespace.ip("route")
    assert f"fe80::1 dev eth0 lladdr {pod.host_mac.hex(':')} PERMANENT" in namespace.ip("neigh")
    assert "mtu 1400" in namespace.ip("link", "show", "eth0")
    assert f"{ADDRESS} dev {pod.host_name} proto 158 src {NODE}" in host.namespace.ip("route")
    assert f"{ADDRESS} dev {pod.host_name} lladdr {pod.pod_mac.hex(':')} PERMANENT" in host.namespace.ip("neigh")
    shown = host.namespace.ip("-details", "link", "show", pod.host_name)
    assert "mtu 1400" in shown
    assert "alias ilanet:container1:eth0" in shown
    assert f"{wired.host_index}: {pod.host_name}" in shown
    assert (wired.host_mac, wired.pod_mac, wired.mtu) == (pod.host_mac, pod.pod_mac, 1400)
    for where, name in ((host.namespace, pod.host_name), (namespace, "eth0")):
        assert where.run("cat", f"/proc/sys/net/ipv6/conf/{name}/accept_ra").strip() == "0"


def test_a_pod_s_end_is_waited_for(host: Host) -> None:
    """What a pod sends is dropped until the kernel has seen that the host's end is up too; test_fault_run counts it."""
    namespace, descriptor = host.pod()
    pod = link()
    host.namespace.ip("link", "add", pod.host_name, "type", "veth", "peer", "name", "eth0", "netns", namespace.name)
    namespace.ip("link", "set", "eth0", "up")
    with in_namespace(descriptor, Socket.open) as inside, ThreadPoolExecutor(1) as pool:
        inside.subscribe(rtnetlink.LINKS)
        waiting = pool.submit(veth.until_ready, inside, pod, None)
        namespace.ip("link", "set", "eth0", "alias", "still without a carrier")
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.3)
        host.namespace.ip("link", "set", pod.host_name, "up")
        waiting.result(timeout=5)
        shown = veth.find_link(inside, "eth0")
        assert shown is not None
        assert shown.active


def test_a_pod_s_address_is_waited_for(host: Host) -> None:
    """What a pod is sent is dropped until its address has a local route, which the kernel gives it some time later."""
    namespace, descriptor = host.pod()
    pod = link()
    with in_namespace(descriptor, Socket.open) as inside, ThreadPoolExecutor(1) as pool:
        inside.subscribe(rtnetlink.LINKS)
        inside.subscribe(rtnetlink.IPV6_ROUTES)
        host.namespace.ip("link", "add", pod.host_name, "type", "veth", "peer", "name", "eth0", "netns", namespace.name)
        namespace.ip("link", "set", "eth0", "up")
        host.namespace.ip("link", "set", pod.host_name, "up")
        waiting = pool.submit(veth.until_ready, inside, pod, ADDRESS)
        namespace.ip("address", "add", f"{ADDRESS + 1}/128", "dev", "eth0", "nodad")
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.5)
        namespace.ip("address", "add", f"{ADDRESS}/128", "dev", "eth0", "nodad")
        waiting.result(timeout=5)
    assert f"local {ADDRESS} dev eth0" in namespace.ip("-6", "route", "show", "table", "local")


def test_host_and_pods_reach_each_other(host: Host) -> None:
    """The host's own packets come from the node address; pods of one host talk by its forwarding."""
    (one, first), (two, second) = host.pod(1), host.pod(2)
    host.wire(link(1), first)
    host.wire(link(2), second)
    host.namespace.run("ping", "-c1", "-W1", str(ADDRESS))
    one.run("ping", "-c1", "-W1", str(NODE))
    two.run("ping", "-c1", "-W1", str(ADDRESS))
    assert f"src {NODE}" in host.namespace.ip("route", "get", str(ADDRESS))


def test_errors_of_the_host_come_from_the_node_address(host: Host) -> None:
    """The made-up gateway has no address, yet a pod that runs out of hops hears from a real one."""
    one, first = host.pod(1)
    _, second = host.pod(2)
    host.wire(link(1), first)
    host.wire(link(2), second)
    with pytest.raises(CommandError, match=rf"From {NODE} .*Time exceeded"):
        one.run("ping", "-c1", "-W1", "-t1", str(ADDRESS + 1))


def test_wiring_again_changes_nothing(host: Host) -> None:
    """A repeated ADD of the same container finds its pod wired."""
    _, descriptor = host.pod()
    first = host.wire(link(), descriptor)
    assert host.wire(link(), descriptor) == first
    assert host.inside(lambda: host.wiring.check(link(), descriptor)) == first


def test_half_wired_by_an_agent_that_was_killed_is_made_whole(host: Host) -> None:
    """A link of ours without the rest, or in another namespace, is replaced."""
    namespace, descriptor = host.pod(1)
    _, other = host.pod(2)
    host.wire(link(), other)
    moved = host.wire(link(), descriptor)
    namespace.ip("route", "del", "default")
    again = host.wire(link(), descriptor)
    assert again.host_index != moved.host_index
    assert host.inside(lambda: host.wiring.check(link(), descriptor)) == again


DAMAGES = {
    "link down": (None, ["link", "set", "{host}", "down"], "up False"),
    "host route": (None, ["route", "del", "{address}"], "route to"),
    "host neighbour": (None, ["neigh", "del", "{address}", "dev", "{host}"], "neighbour"),
    "mtu": (None, ["link", "set", "{host}", "mtu", "1300"], "MTU 1300, not 1500"),
    "pod address": ("pod", ["address", "del", "{address}/128", "dev", "eth0"], "address .* is gone"),
    "pod route": ("pod", ["route", "del", "default"], "default route"),
    "pod neighbour": (
        "pod",
        ["neigh", "replace", "fe80::1", "lladdr", "02:00:00:00:00:99", "dev", "eth0"],
        "neighbour fe80::1 is not",
    ),
    "pod interface": ("pod", ["link", "set", "eth0", "down", "name", "eth7"], "gone from the pod"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_check_says_what_is_not_as_it_was_made(host: Host, damage: str) -> None:
    """R21: each part on both sides; wire() then makes it whole."""
    namespace, descriptor = host.pod()
    pod = link()
    host.wire(pod, descriptor)
    where, words, complaint = DAMAGES[damage]
    filled = [word.format(host=pod.host_name, address=pod.address) for word in words]
    (namespace if where else host.namespace).ip(*filled)
    with pytest.raises(NotWired, match=complaint):
        host.inside(lambda: host.wiring.check(pod, descriptor))
    host.wire(pod, descriptor)
    host.inside(lambda: host.wiring.check(pod, descriptor))


def test_a_foreign_interface_of_that_name_stays(host: Host) -> None:
    """R13: an error that names it, and nothing left behind."""
    namespace, descriptor = host.pod()
    namespace.ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth9")
    before = host.links()
    with pytest.raises(InterfaceExists, match="'eth0' exists in the pod's namespace"):
        host.wire(link(), descriptor)
    assert host.links() == before
    assert "eth0" in namespace.ip("link")


def test_a_foreign_link_with_our_name_stays(host: Host) -> None:
    """Name alone is no mark: neither taken over nor removed."""
    _, descriptor = host.pod()
    host.namespace.ip("link", "add", link().host_name, "type", "veth", "peer", "name", "other")
    with pytest.raises(NetworkError, match="is not ours"):
        host.wire(link(), descriptor)
    with pytest.raises(NetworkError, match="is not ours"):
        host.inside(lambda: host.wiring.unwire(link().host_name))
    assert link().host_name in host.links()


def test_a_failure_on_the_way_leaves_nothing(host: Host) -> None:
    """A source that the host does not have is refused by the last request of all; the pair goes again."""
    namespace, descriptor = host.pod()
    before = host.links()
    wrong = replace(link(), source=ipaddress.IPv6Address("fd00::99"))
    with pytest.raises(NetworkError, match=rf"route to {ADDRESS}/128: Invalid"):
        host.wire(wrong, descriptor)
    assert host.links() == before
    assert "eth0" not in namespace.ip("link")
    host.wire(link(), descriptor)


def test_a_descriptor_that_is_no_namespace_is_refused(host: Host) -> None:
    """Before anything is left behind."""
    before = host.links()
    with open(os.devnull) as file, pytest.raises(NetworkError):  # noqa: PTH123 - a descriptor is wanted
        host.inside(lambda: host.wiring.wire(link(), file.fileno()))
    assert host.links() == before


def test_links_lists_ours_only_and_unwire_repeats(host: Host) -> None:
    """A pod's name is read from the mark; a link that is gone is unwired already."""
    _, descriptor = host.pod()
    host.namespace.ip("link", "add", "other", "type", "veth", "peer", "name", "other2")
    wired = host.wire(link(), descriptor)
    (listed,) = host.inside(host.wiring.links)
    assert (listed.name, listed.index, listed.mac) == (link().host_name, wired.host_index, link().host_mac)
    assert (listed.container_id, listed.interface, listed.up) == ("container1", "eth0", True)
    for _ in range(2):
        host.inside(lambda: host.wiring.unwire(link().host_name))
    assert host.inside(host.wiring.links) == []
    assert str(ADDRESS) not in host.namespace.ip("route") + host.namespace.ip("neigh")


def test_a_pod_whose_runtime_disables_ipv6_gets_its_address(host: Host) -> None:
    """Docker makes namespaces with disable_ipv6 1 by default."""
    namespace, descriptor = host.pod()
    namespace.sysctl(net__ipv6__conf__default__disable_ipv6=1)
    host.wire(link(), descriptor)
    host.namespace.run("ping", "-c1", "-W1", str(ADDRESS))


def test_a_new_container_takes_the_address_of_the_old_one_over(host: Host) -> None:
    """R17: a kept address, the new ADD before the old DEL, on one host."""
    _, first = host.pod(1)
    _, second = host.pod(2)
    new = replace(link(1), container_id="container2")
    host.wire(link(1), first)
    host.wire(new, second)
    host.inside(lambda: host.wiring.unwire(link(1).host_name))
    host.inside(lambda: host.wiring.check(new, second))
    host.namespace.run("ping", "-c1", "-W1", str(ADDRESS))


def test_a_fresh_pod_is_silent(host: Host) -> None:
    """No router solicitation, no neighbour solicitation: the datapath drops link-local sources from pods."""
    _, descriptor = host.pod()
    host.wire(link(), descriptor)
    counted = host.namespace.run("cat", f"/proc/net/dev_snmp6/{link().host_name}")
    counters = dict(line.split() for line in counted.splitlines())
    assert counters["Icmp6InRouterSolicits"] == counters["Icmp6InNeighborSolicits"] == "0"


def test_many_pods_at_once(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """Sixteen threads wire sixteen pods; the time of one alone is printed."""
    pods = [(link(number), host.pod(number)[1]) for number in range(1, 18)]
    alone, descriptor = pods.pop()
    started = time.perf_counter()
    host.wire(alone, descriptor)
    seconds = time.perf_counter() - started

    def all_of_them() -> None:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda pair: host.wire(*pair), pods))

    started = time.perf_counter()
    all_of_them()
    with capsys.disabled():
        print(f"\nwire(): {seconds * 1e3:.2f} ms alone, {(time.perf_counter() - started) * 1e3:.1f} ms for 16 at once")
    assert len(host.inside(host.wiring.links)) == 17


def test_an_index_is_asked_for_in_the_socket_s_namespace(host: Host) -> None:
    """The loopback has the first, a name that nobody has none; what cannot be asked is an error, not a None."""
    with host.inside(Socket.open) as asking:
        assert asking.index("lo") == 1
        assert asking.index("nobody") is None
    with open(host.namespace.path) as file, pytest.raises(NetworkError, match="interface lo"):  # noqa: PTH123
        Socket(file).index("lo")  # type: ignore[arg-type]  # no socket at all
