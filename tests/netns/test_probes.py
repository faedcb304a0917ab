# SPDX-License-Identifier: Apache-2.0
"""Agents name what an underlay does that kills ILA while nodes can ping each other, and say when it is over."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from agent.core.network import host_name
from agent.core.probes import Message, Say
from agent.kernel.probe_place import ProbeNamespace
from ila.address import Identifier
from ila.mapping import OwnerName, mapping_key, owner_key, probe_identifier
from lab.cluster import Cluster
from lab.fabric import Host, Shape
from lab.namespace import run
from tests.netns.conftest import connect, inside, ping

PERIOD = 3.0
"""Seconds between two rounds of the agents here."""

LINK = host_name("probe", "eth0")

_NUMBERS = itertools.count(1)

_GUARD = """
table ip6 underlay {{
  chain forward {{
    type filter hook forward priority 0; policy accept;
    {rule}
  }}
}}
"""


@contextlib.contextmanager
def probing(shape: Shape, host_path: str) -> Iterator[Cluster]:
    """Bring a cluster up that probes often, and remove it whatever happens."""
    cluster = Cluster(
        name=f"p{os.getpid()}-{next(_NUMBERS)}",
        shape=shape,
        agent_settings={"host_path": host_path, "epoch_grace": 5, "probe_seconds": PERIOD},
    )
    try:
        cluster.start()
        until(cluster, all_well)
        yield cluster
    finally:
        cluster.close()
        assert cluster.leftovers() == []


@pytest.fixture(scope="module")
def routed() -> Iterator[Cluster]:
    """Yield a routed underlay, whose router can do harm."""
    with probing(Shape.ROUTED, "stack") as cluster:
        yield cluster


Said = dict[str, dict[str, Any]]


def probes(cluster: Cluster) -> Said:
    """Return what each agent that answers says of the others."""
    said = {}
    for host in cluster.hosts:
        with contextlib.suppress(OSError):
            said[host.name] = cluster.status(host)["probes"]
    return said


def all_well(said: Said) -> bool:
    """Tell whether every agent finds that every other one is well."""
    names = {"host1", "host2", "host3"}
    return said == {one: {other: {"ok": True, "problem": ""} for other in names - {one}} for one in names}


def until(cluster: Cluster, true: Callable[[Said], bool], patience: float = 40) -> Said:
    """Wait until something is true of what agents say."""
    deadline = time.monotonic() + patience
    while not true(said := probes(cluster)):
        problems = {host.name: cluster.agents[host.name].tail() for host in cluster.hosts}
        assert time.monotonic() < deadline, f"{json.dumps(said, indent=1)}\n{problems}"
        time.sleep(0.2)
    return said


def word(said: Said, one: str, other: str) -> str:
    """Return what one says of another; '' if that is well, or nothing yet."""
    return str(said.get(one, {}).get(other, {}).get("problem", ""))


@contextlib.contextmanager
def rule(cluster: Cluster, text: str) -> Iterator[None]:
    """Have the router do something to what it forwards."""
    cluster.fabric.router.run("nft", "-f", "-", stdin=_GUARD.format(rule=text))
    try:
        yield
    finally:
        cluster.fabric.router.run("nft", "delete", "table", "ip6", "underlay")


def problem(cluster: Cluster, host: Host) -> str:
    """Return what an agent says is wrong with the underlay."""
    return str(cluster.status(host)["problems"].get("underlay", ""))


@pytest.mark.parametrize(("shape", "host_path"), [("routed", "bpf"), ("layer2", "stack"), ("layer2", "bpf")])
def test_all_is_well_where_it_is(shape: str, host_path: str) -> None:
    """Every node finds every other one well, has no problem, and shows no endpoint that is no pod."""
    with probing(Shape(shape), host_path) as cluster:
        for host in cluster.hosts:
            status = cluster.status(host)
            assert (status["problems"], status["endpoints"]) == ({}, {})
            metrics = cluster.ask(host.namespace, "/metrics")
            assert 'ilanet_probe_nodes{found="well"} 2.0' in metrics
            assert "ilanet_endpoints 0.0" in metrics
        assert not any(
            count
            for host in cluster.hosts
            for (_, verdict), count in cluster.verdicts(host).items()
            if verdict in ("spoofed_source", "closed_port", "no_endpoint")
        )


def test_an_end_has_one_namespace_however_many_ask_at_once() -> None:
    """Probes and the look at Services begin together: a socket in another namespace than the link's hears nothing."""
    for _ in range(20):
        place, together = ProbeNamespace(), threading.Barrier(6)

        def ask(place: ProbeNamespace = place, together: threading.Barrier = together) -> int:
            together.wait()
            return place.descriptor

        with ThreadPoolExecutor(6) as threads:
            found = {asked.result() for asked in [threads.submit(ask) for _ in range(6)]}
        place.close()
        assert len(found) == 1


def test_a_strict_source_check_is_named(routed: Cluster) -> None:
    """The router has the SIR prefix behind host1 only: what others send is dropped, and each end says whose it is."""
    with rule(routed, "fib saddr . iif oif missing drop"):
        ping(routed.hosts[0].namespace, routed.hosts[1].address)
        said = until(routed, lambda said: all(word(said, one, "host3") for one in ("host1", "host2")))
        assert "drops what host3 sends here from an address under the SIR prefix" in word(said, "host1", "host3")
        assert "drops what this node sends to host3 from an address under the SIR" in word(said, "host2", "host3")
        assert "source check" in word(said, "host1", "host3")
        said = until(routed, lambda said: bool(word(said, "host1", "host2")))
        assert "drops what host2 sends here from an address under the SIR prefix" in problem(routed, routed.hosts[0])
    until(routed, all_well)
    assert problem(routed, routed.hosts[0]) == ""


def test_a_stateful_filter_is_named(routed: Cluster) -> None:
    """The router drops what conntrack calls invalid: answers to SYNs, whose SYN had other addresses."""
    with rule(routed, "ct state invalid drop"):
        ping(routed.hosts[0].namespace, routed.hosts[1].address)
        said = until(routed, lambda said: bool(word(said, "host1", "host2") and word(said, "host2", "host1")))
        assert "UDP passes to host2 and back, TCP does not" in word(said, "host1", "host2")
        assert "ct state invalid" in problem(routed, routed.hosts[0])
    until(routed, all_well)


def test_a_way_that_eats_long_packets_is_named(routed: Cluster) -> None:
    """Without a word, as a tunnel does that nobody told of; where the router tells, all is well."""
    ends = ((routed.fabric.router, "h2"), (routed.hosts[1].namespace, "eth0"))
    try:
        for namespace, device in ends:
            namespace.ip("link", "set", device, "mtu", "1400")
        time.sleep(3 * PERIOD)
        assert all_well(probes(routed))
        assert mtu(routed.hosts[1]) == 1400
    finally:
        for namespace, device in ends:
            namespace.ip("link", "set", device, "mtu", "1500")
    with rule(routed, "meta length > 1400 drop"):
        said = until(routed, lambda said: bool(word(said, "host1", "host3") and word(said, "host3", "host1")))
        assert "packets of 1500 bytes do not pass to host3 and back, short ones do" in word(said, "host1", "host3")
    until(routed, all_well)


def test_a_locator_that_is_not_routed_is_named(routed: Cluster) -> None:
    """The node answers, its locator does not; towards the others nothing is wrong."""
    host = routed.hosts[2]
    way = (str(host.locator), "via", host.address, "dev", "h3")
    routed.fabric.router.ip("route", "del", *way)
    try:
        said = until(routed, lambda said: bool(word(said, "host1", "host3") and word(said, "host2", "host3")))
        assert f"nothing arrives that is sent to its locator {host.locator}" in word(said, "host1", "host3")
        assert word(said, "host1", "host2") == ""
        said = until(routed, lambda said: bool(word(said, "host3", "host1")))
        assert "nothing arrives that it sends to the locator of this node" in word(said, "host3", "host1")
    finally:
        routed.fabric.router.ip("route", "add", *way)
    until(routed, all_well)


def test_a_node_that_is_cut_off_is_no_finding_about_the_underlay(routed: Cluster) -> None:
    """It does not answer at all: that is said of the link, and is no problem of this node."""
    routed.fabric.unplug(routed.hosts[2])
    try:
        said = until(routed, lambda said: bool(word(said, "host1", "host3") and word(said, "host2", "host3")))
        assert word(said, "host1", "host3").startswith("node host3 does not answer at all")
        assert problem(routed, routed.hosts[0]) == ""
    finally:
        routed.fabric.plug(routed.hosts[2])
    until(routed, all_well)


def test_two_faults_in_either_order_are_named_and_heal(routed: Cluster) -> None:
    """The graver one is named while both last; the one that is left is named after it."""
    for first, then in (("source", "state"), ("state", "source")):
        rules = {"source": "fib saddr . iif oif missing drop", "state": "ct state invalid drop"}
        with rule(routed, f"{rules['source']}\n    {rules['state']}"):
            until(routed, lambda said: "source check" in word(said, "host1", "host2"))
        with rule(routed, rules[then]):
            wanted = "source check" if then == "source" else "ct state invalid"
            until(routed, lambda said, wanted=wanted: wanted in word(said, "host1", "host2"))  # type: ignore[misc]
        assert first != then
    until(routed, all_well)


def marked(host: Host) -> list[dict[str, Any]]:
    """Return the links of a host that bear our mark."""
    listed = json.loads(run("ip", "-n", host.namespace.name, "-j", "link"))
    return [link for link in listed if link.get("ifalias", "").startswith("ilanet:")]


def links(host: Host) -> list[str]:
    """Return their names."""
    return [str(link["ifname"]) for link in marked(host)]


def mtu(host: Host) -> int:
    """Return that of the end of probes."""
    return int(marked(host)[0]["mtu"])


def test_a_killed_agent_s_end_goes_and_comes_back(routed: Cluster) -> None:
    """The kernel takes the links with the namespace; the next agent makes them anew, with the same identifier."""
    host, seen = routed.hosts[1], set()
    for _ in range(3):
        routed.agents[host.name].kill()
        deadline = time.monotonic() + 5
        while links(host):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        routed.start_agent(host)
        routed.wait_ready()
        while not (found := links(host)):
            assert time.monotonic() < deadline + 15
            time.sleep(0.05)
        seen.update(found)
    assert seen == {LINK}
    until(routed, all_well)
    assert stored(routed, host) == {str(probe_identifier(host.name))}


def test_a_killed_agent_that_comes_back_at_once_finds_its_end(routed: Cluster) -> None:
    """The old link may still be there, leading to a namespace that is ending."""
    host = routed.hosts[1]
    for _ in range(3):
        routed.agents[host.name].kill()
        routed.start_agent(host)
        routed.wait_ready()
        time.sleep(0.5)
    until(routed, all_well)
    assert links(host) == [LINK]


def stored(cluster: Cluster, host: Host) -> set[str]:
    """Return the identifiers that etcd says are a host's own; each has a mapping."""
    assert cluster.etcd is not None
    key = owner_key(OwnerName.of_node(host.name)).decode()
    raw = cluster.etcd.ctl("get", "--print-value-only", key).strip()
    if not raw:
        return set()
    identifier = str(json.loads(raw)["identifier"])
    where = cluster.etcd.ctl("get", "--print-value-only", mapping_key(Identifier.parse(identifier)).decode())
    assert json.loads(where)["locator"] == str(host.locator)
    return {identifier}


def test_pods_do_not_reach_an_end(routed: Cluster) -> None:
    """They may know its address, and it answers pings; neither port lets them in, so no pod keeps an agent busy."""
    pod = routed.pod("stranger", routed.hosts[0])
    end = str(routed.domain.sir_prefix.address(probe_identifier("host2")))
    try:
        ping(pod.namespace, end)
        with pytest.raises(TimeoutError):
            connect(pod.namespace, end, 7444, timeout=1)
        question = Message(say=Say.ASK_END, token=1).pack()
        with inside(pod.namespace, lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as asks:
            asks.settimeout(1)
            asks.sendto(question, (end, 7444))
            with pytest.raises(TimeoutError):
                asks.recv(100)
    finally:
        pod.delete()
        pod.namespace.close()
    assert all_well(probes(routed))


def test_who_does_not_probe_has_no_end(routed: Cluster) -> None:
    """Switched off, it goes, from etcd too, and nobody asks that node; switched on, it is back."""
    host = routed.hosts[2]
    routed.agents[host.name].stop()
    routed.start_agent(host, probe_seconds=0)
    said = until(routed, lambda said: "host3" not in said["host1"] and said.get("host3", {}) is None)
    assert said["host1"].keys() == {"host2"}
    assert links(host) == []
    assert stored(routed, host) == set()
    routed.agents[host.name].stop()
    routed.start_agent(host, probe_seconds=PERIOD)
    until(routed, all_well)


def test_uninstall_removes_it(routed: Cluster) -> None:
    """Links, record, everything: and the node can be installed again."""
    host = routed.hosts[2]
    routed.agents[host.name].stop()
    routed.uninstall(host)
    assert links(host) == []
    assert not (routed.state(host) / "endpoints").exists()
    routed.start_agent(host)
    until(routed, all_well)
