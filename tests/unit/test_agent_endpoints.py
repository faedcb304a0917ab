# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import pytest

from agent.assembly import Assembly
from agent.core.datapath import DatapathError, EndpointEntry
from agent.core.endpoint import RecordError, State
from agent.core.ipv4 import Ipv4Pool
from agent.core.mappings import MappingTable
from agent.core.network import InterfaceExists, NetworkError, host_name
from agent.core.ports import ControllerError, Refused
from agent.core.status import Status
from agent.endpoint_table import EndpointTable
from agent.endpoints import Endpoints
from agent.publications import Publications
from agent.releases import Releases
from agent.reserve import Reserve
from agent.upkeep import Upkeep
from cni.plugin import AddRequest, CheckRequest, DelRequest, GcRequest
from cni.spec import Attached, CniError, Code, PodName
from ila.address import Identifier
from ila.mapping import Generation
from tests.fakes import (
    DOMAIN,
    NODE_ADDRESS,
    REGISTRATION,
    THERE,
    FakeController,
    FakeDatapath,
    FakeRecords,
    FakeTimings,
    FakeWiring,
)


@dataclass
class Node:
    """The endpoints of a node, with everything around them faked."""

    pool: ThreadPoolExecutor
    controller: FakeController
    datapath: FakeDatapath
    wiring: FakeWiring
    records: FakeRecords
    table: MappingTable
    endpoints: Endpoints = field(init=False)
    kept: EndpointTable = field(init=False)
    releases: Releases = field(init=False)
    publications: Publications = field(init=False)
    reserve: Reserve = field(init=False)
    reserve_records: FakeRecords = field(default_factory=FakeRecords)
    reserve_size: int = 0
    ipv4: Ipv4Pool | None = None
    status: Status = field(init=False)
    upkeep: Upkeep = field(init=False)

    def restart(self) -> None:
        """Begin anew with what the kernel and the disk hold, as after a kill."""
        status = Status()
        status.registered(REGISTRATION)
        status.host_ready(mtu=1500)
        records = EndpointTable(records=self.records, pool=self.pool)
        records.load()
        self.kept = records
        self.reserve = Reserve(
            controller=self.controller,
            records=self.reserve_records,
            table=records,
            status=status,
            size=self.reserve_size,
            pool=self.pool,
        )
        self.reserve.load()
        self.publications = Publications(controller=self.controller, table=records, status=status)
        self.releases = Releases(
            controller=self.controller,
            table=records,
            status=status,
            settled=self.publications.settled,
            forget=self.reserve.forget,
        )
        self.status = status
        self.upkeep = Upkeep(
            address=NODE_ADDRESS,
            datapath=self.datapath,
            wiring=self.wiring,
            table=records,
            locate=self.table.locate,
            status=status,
            pool=self.pool,
        )
        assembly = Assembly(
            address=NODE_ADDRESS,
            controller=self.controller,
            datapath=self.datapath,
            wiring=self.wiring,
            table=records,
            releases=self.releases,
            reserve=self.reserve,
            ipv4=self.ipv4,
            timings=FakeTimings(),
            pool=self.pool,
            wire_pool=self.pool,
        )
        self.endpoints = Endpoints(
            address=NODE_ADDRESS,
            assembly=assembly,
            datapath=self.datapath,
            wiring=self.wiring,
            table=records,
            publications=self.publications,
            releases=self.releases,
            status=status,
            pool=self.pool,
            forget_queued=lambda *_: None,
        )

    def nothing_left(self) -> bool:
        """Tell whether no trace of any pod is in the kernel."""
        return not self.wiring.pods and not self.datapath.endpoints


@pytest.fixture
def node() -> Iterator[Node]:
    """Yield a node that is registered and has no pods."""
    with ThreadPoolExecutor(1) as pool:
        made = Node(pool, FakeController(), FakeDatapath(), FakeWiring(), FakeRecords(), MappingTable(domain=DOMAIN))
        made.restart()
        yield made


def add(
    name: str,
    container: str = "",
    *,
    keep: bool = False,
    interface: str = "eth0",
    network: str = "ilanet",
    limited: bool = False,
    forwarded: bool = False,
) -> AddRequest:
    return AddRequest(
        container_id=container or f"c-{name}",
        interface=interface,
        netns=f"/run/netns/{name}",
        netns_fd=0,
        network=network,
        pod=PodName(namespace="default", name=name, uid=f"uid-{name}"),
        keep_address=keep,
        limited=limited,
        forwarded=forwarded,
    )


def delete(container: str) -> DelRequest:
    return DelRequest(container_id=container, interface="eth0")


async def test_add_then_delete_leaves_nothing(node: Node) -> None:
    """What ADD makes in kernel, controller and disk, DEL takes away."""
    attachment = await node.endpoints.add(add("web"))
    name = host_name("c-web", "eth0")
    assert str(attachment.address).startswith("fd00:10:244:")
    assert node.datapath.endpoints[int(attachment.address) & (1 << 64) - 1].interface_index == node.wiring.pods[name][1]
    assert node.records.files.keys() == {name}
    await node.endpoints.delete(delete("c-web"))
    assert node.nothing_left()
    assert not node.records.files
    assert not node.controller.holders


async def test_add_repeats(node: Node) -> None:
    """A second ADD of the same attachment gives the same answer and makes nothing new."""
    first = await node.endpoints.add(add("web"))
    assert await node.endpoints.add(add("web")) == first
    assert len(node.wiring.pods) == 1
    assert node.controller.calls.count("assign") == 1


async def test_add_mends_a_broken_attachment(node: Node) -> None:
    """An ADD for a record whose link is gone builds it anew, with the same address."""
    first = await node.endpoints.add(add("web"))
    node.wiring.pods.clear()
    assert (await node.endpoints.add(add("web"))).address == first.address
    assert len(node.wiring.pods) == 1


@pytest.mark.parametrize(
    ("where", "method", "error", "code"),
    [
        ("controller", "assign", ControllerError("down"), Code.TRY_AGAIN_LATER),
        ("controller", "assign", Refused("no such node"), Code.REFUSED),
        ("controller", "assign", Refused("held", held=True), Code.TRY_AGAIN_LATER),
        ("wiring", "wire", NetworkError("no memory"), Code.IO_FAILURE),
        ("wiring", "wire", InterfaceExists("eth0 exists"), Code.INTERFACE_EXISTS),
        ("wiring", "settle", NetworkError("link does not come up"), Code.IO_FAILURE),
        ("datapath", "attach_pod", DatapathError("no link"), Code.IO_FAILURE),
        ("datapath", "write_endpoint", DatapathError("full"), Code.IO_FAILURE),
    ],
)
async def test_add_that_fails_leaves_nothing(node: Node, where: str, method: str, error: Exception, code: Code) -> None:
    """Whichever step fails: no link, no entry, no identifier stays, the runtime gets a code, a retry works."""
    getattr(node, where).fail_next[method] = error
    with pytest.raises(CniError) as caught:
        await node.endpoints.add(add("web"))
    assert caught.value.code is code
    assert node.nothing_left()
    assert await node.releases.step()
    assert not node.controller.holders
    assert not node.records.files
    await node.endpoints.add(add("web"))


async def test_add_whose_record_cannot_be_written_leaves_nothing(node: Node) -> None:
    """A full disk fails the ADD; link and entry are gone."""
    node.records.fail_next["save"] = OSError(28, "No space left on device")
    with pytest.raises(CniError, match="default/web cannot be written") as error:
        await node.endpoints.add(add("web"))
    assert error.value.details == "[Errno 28] No space left on device"
    assert node.nothing_left()
    assert not node.controller.holders


async def test_delete_of_the_unknown_succeeds(node: Node) -> None:
    """DEL of a container that was never here, or twice, is no error."""
    await node.endpoints.delete(delete("never"))
    await node.endpoints.add(add("web"))
    await node.endpoints.delete(delete("c-web"))
    await node.endpoints.delete(delete("c-web"))


async def test_delete_without_a_controller_is_released_later(node: Node) -> None:
    """DEL succeeds while the controller is away; the release survives a restart of the agent."""
    await node.endpoints.add(add("web"))
    node.controller.fail_next["release"] = ControllerError("down")
    await node.endpoints.delete(delete("c-web"))
    assert node.nothing_left()
    assert node.controller.holders
    node.restart()
    assert await node.releases.step()
    assert not node.controller.holders
    assert not node.records.files


@pytest.mark.parametrize("published", [False, True])
async def test_late_delete_of_an_old_sandbox_spares_the_new_one(node: Node, *, published: bool) -> None:
    """R17: the new sandbox takes the pod's identifier over; the old one's DEL comes later and does no harm."""
    first = await node.endpoints.add(add("web", "old"))
    second = await node.endpoints.add(add("web", "new"))
    assert second.address == first.address
    if published:
        assert await node.publications.step()
    await node.endpoints.delete(delete("old"))
    assert await node.releases.step()
    assert await node.publications.step()
    identifier = int(second.address) & (1 << 64) - 1
    assert node.datapath.endpoints[identifier].interface_index == node.wiring.pods[host_name("new", "eth0")][1]
    assert node.controller.holders["default/web"][1] == "new"


async def test_restart_restores_what_is_missing_and_removes_strays(node: Node) -> None:
    """After a kill the kernel is brought to the records: entries written again, half-made links removed."""
    await node.endpoints.add(add("web"))
    await node.endpoints.add(add("stray"))
    wanted = dict(node.datapath.endpoints)
    name = host_name("c-stray", "eth0")
    del node.records.files[name]
    node.datapath.endpoints = {1234: EndpointEntry(interface_index=9, pod_mac=bytes(6), host_mac=bytes(6))}
    node.datapath.roles.clear()
    node.restart()
    await node.upkeep.step()
    assert name not in node.wiring.pods
    assert len(node.wiring.pods) == 1
    index = node.wiring.pods[host_name("c-web", "eth0")][1]
    assert node.datapath.roles == {index: "pod"}
    assert list(node.datapath.endpoints.values()) == [e for e in wanted.values() if e.interface_index == index]


async def test_a_half_made_link_gets_no_route(node: Node) -> None:
    """An ADD was killed before its link was up: no route, which the kernel would refuse; the other pods have theirs."""
    await node.endpoints.add(add("web"))
    half = await node.endpoints.add(add("half"))
    node.wiring.down.add(host_name("c-half", "eth0"))
    node.restart()
    routes = await node.upkeep.routes()
    assert len(routes) == 1
    assert routes[0].address != half.address


async def test_a_claim_that_moved_away_ends_here(node: Node) -> None:
    """Invariant 2: a newer mapping elsewhere closes the endpoint here; older news does not."""
    attachment = await node.endpoints.add(add("web"))
    identifier = int(attachment.address) & (1 << 64) - 1
    node.table.upsert(1, [identifier], [THERE.value], [3])
    await node.upkeep.step()
    assert identifier in node.datapath.endpoints
    node.table.upsert(1, [identifier], [THERE.value], [50])
    await node.upkeep.step()
    assert identifier not in node.datapath.endpoints
    assert f"pod default/web: {Identifier(identifier)}" in node.status.problems["claims"]
    await node.endpoints.delete(delete("c-web"))
    await node.upkeep.step()
    assert "claims" not in node.status.problems


async def test_check_names_what_is_missing(node: Node) -> None:
    """CHECK passes on a whole attachment and fails on each broken part."""
    request = CheckRequest(container_id="c-web", interface="eth0", netns_fd=0)
    with pytest.raises(CniError, match="c-web"):
        await node.endpoints.check(request)
    attachment = await node.endpoints.add(add("web"))
    assert await node.endpoints.check(request) == attachment
    node.datapath.endpoints.clear()
    with pytest.raises(CniError, match="datapath"):
        await node.endpoints.check(request)
    node.wiring.pods.clear()
    with pytest.raises(CniError, match="not as it was made"):
        await node.endpoints.check(request)


async def test_a_second_interface_is_refused(node: Node) -> None:
    """One identifier a pod: a second attachment of the same container is refused before anything is made."""
    await node.endpoints.add(add("web"))
    with pytest.raises(CniError, match="attached as 'eth0'"):
        await node.endpoints.add(add("web", interface="eth1"))
    assert len(node.wiring.pods) == 1


async def test_a_record_that_does_not_parse_stops_the_agent(node: Node) -> None:
    """A broken record is an error that quotes it: skipping it would lose a pod."""
    node.records.files["ila000000000000"] = b'{"version": 1, "container_id": 7'
    with pytest.raises(RecordError, match="container_id"):
        node.restart()


async def test_nothing_is_released_while_wired(node: Node) -> None:
    """The release loop leaves attached pods alone."""
    await node.endpoints.add(add("web"))
    assert await node.releases.step()
    assert [endpoint.state for endpoint in node.kept.wired()] == [State.WIRED]
    assert "release" not in node.controller.calls


async def test_gc_frees_what_the_runtime_no_longer_has(node: Node) -> None:
    """R23: links, datapath, records and identifiers of this network, and nothing of what is listed or another's."""
    for name in ("kept", "gone", "lost"):
        await node.endpoints.add(add(name))
    await node.endpoints.add(add("other", network="second"))
    await node.endpoints.gc(GcRequest(network="ilanet", keep=frozenset({Attached("c-kept", "eth0")})))
    assert await node.releases.step()
    left = {host_name(container, "eth0") for container in ("c-kept", "c-other")}
    assert node.wiring.pods.keys() == left
    assert node.records.files.keys() == left
    assert len(node.datapath.endpoints) == 2
    assert node.controller.holders.keys() == {"default/kept", "default/other"}


async def test_gc_goes_on_after_a_failure_and_tells_of_it(node: Node) -> None:
    """R23: the rest is freed, the error names the one that was not, and the next GC frees it."""
    for name in ("one", "two"):
        await node.endpoints.add(add(name))
    node.wiring.fail_next["unwire"] = NetworkError("busy")
    with pytest.raises(CniError, match="1 of 2") as error:
        await node.endpoints.gc(GcRequest(network="ilanet", keep=frozenset()))
    assert error.value.details == "default/one: busy"
    assert node.wiring.pods.keys() == {host_name("c-one", "eth0")}
    await node.endpoints.gc(GcRequest(network="ilanet", keep=frozenset()))
    assert node.nothing_left()


async def test_gc_leaves_alone_what_is_being_worked_on(node: Node) -> None:
    """R23, most commonly missed 19: an ADD under way is not in the runtime's list."""
    await node.endpoints.add(add("web"))
    async with node.kept.exclusively("c-web", host_name("c-web", "eth0")):
        await node.endpoints.gc(GcRequest(network="ilanet", keep=frozenset()))
    assert node.wiring.pods.keys() == {host_name("c-web", "eth0")}


async def test_gc_frees_what_is_being_published(node: Node) -> None:
    """Work on the record alone is no reason to leave an attachment, nor that the record has changed by it."""
    await node.endpoints.add(add("web"))
    name = host_name("c-web", "eth0")
    async with node.kept.locked("c-web"):
        freeing = asyncio.create_task(node.endpoints.gc(GcRequest(network="ilanet", keep=frozenset())))
        await asyncio.sleep(0)
        (endpoint,) = node.kept.all()
        await node.kept.save(replace(endpoint, generation=Generation(1, 99)))
        assert name in node.wiring.pods
    await freeing
    assert node.nothing_left()


async def test_gc_spares_what_was_added_meanwhile(node: Node) -> None:
    """The runtime listed its attachments before it added this one."""
    await node.endpoints.add(add("one"))
    await node.endpoints.add(add("two"))
    node.wiring.pods.pop(host_name("c-two", "eth0"))
    async with node.kept.locked("c-one"):
        freeing = asyncio.create_task(node.endpoints.gc(GcRequest(network="ilanet", keep=frozenset())))
        await asyncio.sleep(0)
        await node.endpoints.add(add("two"))
    await freeing
    assert node.wiring.pods.keys() == {host_name("c-two", "eth0")}


async def test_pods_that_later_plugins_work_on(node: Node) -> None:
    """One with a limit or a host port takes the stack, one with a limit has no qdisc of ours; so after a restart."""
    await node.endpoints.add(add("slow", limited=True))
    await node.endpoints.add(add("port", forwarded=True))
    await node.endpoints.add(add("fast"))
    slow, port, fast = (node.wiring.pods[host_name(f"c-{name}", "eth0")][1] for name in ("slow", "port", "fast"))

    def by_stack() -> dict[int, bool]:
        return {entry.interface_index: entry.by_stack for entry in node.datapath.endpoints.values()}

    assert node.datapath.limited == {slow: True, port: False, fast: False}
    assert by_stack() == {slow: True, port: True, fast: False}
    for known in (node.datapath.roles, node.datapath.endpoints, node.datapath.limited):
        known.clear()
    node.restart()
    await node.upkeep.step()
    assert node.datapath.limited == {slow: True, port: False, fast: False}
    assert by_stack() == {slow: True, port: True, fast: False}


async def test_no_route_over_a_link_that_is_down(node: Node) -> None:
    """An ADD killed half way leaves such a link, and the kernel refuses its route: others get theirs all the same."""
    await node.endpoints.add(add("web"))
    await node.endpoints.add(add("db"))
    half, whole = (host_name(f"c-{name}", "eth0") for name in ("web", "db"))
    node.wiring.down = {half}
    node.restart()
    assert [route.device for route in await node.upkeep.routes()] == [node.wiring.pods[whole][1]]
    node.wiring.down = set()
    assert len(await node.upkeep.routes()) == 2


NETWORK = ipaddress.IPv4Network("169.254.172.0/29")


def ipv4_of(node: Node, name: str) -> str:
    """Return the address of IPv4 that a pod is wired with, '' if it has none."""
    link = node.wiring.pods[host_name(f"c-{name}", "eth0")][0].ipv4
    return str(link.address.ip) if link else ""


async def test_pods_get_addresses_of_ipv4_that_no_other_has(node: Node) -> None:
    """Also those that start together; the runtime hears of none; records have them, so a restart keeps them."""
    node.ipv4 = Ipv4Pool(NETWORK)
    node.restart()
    answers = await asyncio.gather(*(node.endpoints.add(add(f"pod{number}")) for number in range(5)))
    given = {ipv4_of(node, f"pod{number}") for number in range(5)}
    assert given == {f"169.254.172.{last}" for last in range(2, 7)}
    assert all(answer.address.version == 6 for answer in answers)
    node.ipv4 = Ipv4Pool(NETWORK)
    node.restart()
    with pytest.raises(CniError, match="no IPv4 address for pod default/more") as caught:
        await node.endpoints.add(add("more"))
    assert caught.value.code is Code.TRY_AGAIN_LATER
    assert "all 5 addresses of 169.254.172.0/29 are in use" in caught.value.details
    freed = ipv4_of(node, "pod3")
    await node.endpoints.delete(delete("c-pod3"))
    await node.endpoints.add(add("more"))
    assert ipv4_of(node, "more") == freed


async def test_an_add_that_fails_keeps_no_address_of_ipv4(node: Node) -> None:
    """It is free again, and comes last."""
    node.ipv4 = Ipv4Pool(ipaddress.IPv4Network("169.254.172.0/30"))
    node.restart()
    node.wiring.fail_next["wire"] = NetworkError("no memory")
    with pytest.raises(CniError):
        await node.endpoints.add(add("web"))
    await node.endpoints.add(add("web"))
    assert ipv4_of(node, "web") == "169.254.172.2"


async def test_the_host_s_ways_to_both_addresses(node: Node) -> None:
    """What reconciling puts back; and pods of before the setting, or after it, stay as they are."""
    await node.endpoints.add(add("before"))
    node.ipv4 = Ipv4Pool(NETWORK)
    node.restart()
    await node.endpoints.add(add("web"))
    index = node.wiring.pods[host_name("c-web", "eth0")][1]
    ways = {str(way.address): way.device for way in await node.upkeep.routes() if way.device in (index, 1000 + index)}
    assert ways["169.254.172.2"] == 1000 + index
    assert len(ways) == 2
    assert ipv4_of(node, "before") == ""
    node.ipv4 = None
    node.restart()
    assert len(await node.upkeep.routes()) == 3


@pytest.mark.parametrize(
    ("where", "error", "words"),
    [
        ("records", OSError(28, "No space left on device"), "the record of a pod could not be written"),
        ("datapath", DatapathError("/sys/fs/bpf is no bpffs"), "a pod would get no way through the datapath"),
    ],
)
async def test_status_names_what_an_add_would_lack(node: Node, where: str, error: Exception, words: str) -> None:
    """R24: a full disk, a datapath that takes nothing; code 50 for as long as it lasts."""
    await node.endpoints.status()
    getattr(node, where).fail_next["check"] = error
    with pytest.raises(CniError, match=words) as caught:
        await node.endpoints.status()
    assert (caught.value.code, caught.value.details) == (Code.NOT_AVAILABLE, str(error))
    await node.endpoints.status()


async def test_status_of_a_node_that_is_not_set_up(node: Node) -> None:
    """Code 50 with what is wrong."""
    node.status._host_ready = False
    node.status.problem("host", "no such device")
    with pytest.raises(CniError, match="not ready") as caught:
        await node.endpoints.status()
    assert (caught.value.code, caught.value.details) == (Code.NOT_AVAILABLE, "host: no such device")


async def test_status_without_an_address_of_ipv4(node: Node) -> None:
    """The pool counts as what an ADD takes."""
    node.ipv4 = Ipv4Pool(ipaddress.IPv4Network("169.254.172.0/30"))
    node.restart()
    await node.endpoints.status()
    await node.endpoints.add(add("web"))
    with pytest.raises(CniError, match="no IPv4 address is left for a pod") as caught:
        await node.endpoints.status()
    assert caught.value.code is Code.NOT_AVAILABLE
    await node.endpoints.delete(delete("c-web"))
    await node.endpoints.status()


async def test_an_add_over_what_cannot_be_removed_is_tried_again(node: Node) -> None:
    """What is left of a broken attachment stands in the way: the error names the pod."""
    await node.endpoints.add(add("web"))
    node.wiring.fail_next["check"] = NetworkError("no address")
    node.wiring.fail_next["unwire"] = NetworkError("is not ours")
    with pytest.raises(CniError, match="what is left of pod default/web") as caught:
        await node.endpoints.add(add("web"))
    assert (caught.value.code, caught.value.details) == (Code.TRY_AGAIN_LATER, "is not ours")
