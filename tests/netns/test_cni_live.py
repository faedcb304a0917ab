# SPDX-License-Identifier: Apache-2.0
"""The executable against a running agent: what a runtime may do, and every wrong kind of it, with nothing half done."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lab.fabric import Shape
from lab.listing import listing
from lab.namespace import Namespace
from lab.runtime import EXECUTABLE, CniError, Pod
from tests.netns.conftest import Net, built, ping
from tests.netns.test_faults import links, mappings


@pytest.fixture(scope="module")
def live() -> Iterator[Net]:
    """Yield a cluster."""
    with built(Shape.ROUTED, "stack") as found:
        yield found


@pytest.fixture
def fresh(live: Net) -> Iterator[Pod]:
    """Yield a pod that is not attached yet, on the first host; whatever it got is taken away."""
    pod = Pod(
        namespace=Namespace.create(f"{live.cluster.name}-fresh"),
        name="fresh",
        uid="uid-fresh",
        container_id="fresh",
        socket=live.cluster.socket(live.hosts[0]),
        queue=live.cluster.queue(live.hosts[0]),
    )
    yield pod
    pod.delete()
    pod.namespace.close()


def test_the_life_of_an_attachment(live: Net, fresh: Pod) -> None:
    """ADD, ADD again, CHECK, DEL, DEL again, CHECK: the same answer twice, and code 3 once it is gone."""
    fresh.add()
    first = fresh.result
    fresh.add()
    assert fresh.result == first
    fresh.check()
    live.cluster.wait_published(fresh, live.hosts[0])
    ping(fresh.namespace, live.pod("c1").address)
    fresh.delete()
    fresh.delete()
    with pytest.raises(CniError) as caught:
        fresh.check()
    assert caught.value.code == 3


def settled(live: Net, before: object) -> None:
    """Wait until links and mappings are as they were."""
    deadline = time.monotonic() + 20
    while (links(live), mappings(live)) != before:
        assert time.monotonic() < deadline, (links(live), mappings(live), before)
        time.sleep(0.05)


def test_check_takes_milliseconds(fresh: Pod) -> None:
    """R22: CRI-O runs it after every ADD; the quickest of twenty shows what it costs where the processor is free."""
    fresh.add()
    took = []
    for _ in range(20):
        started = time.perf_counter()
        fresh.check()
        took.append(time.perf_counter() - started)
    print(f"CHECK: {min(took) * 1e3:.1f} ms at best")
    assert min(took) < 0.02


def test_dels_while_the_agent_is_down_are_made_good(live: Net, fresh: Pod) -> None:
    """R19: pods end although nobody hears of it; the agent, once back, frees links, records and identifiers."""
    before = links(live), mappings(live)
    host = live.hosts[0]
    fresh.add()
    others = [live.cluster.pod(f"ends{number}", host) for number in range(3)]
    live.cluster.agents[host.name].kill()
    for pod in (fresh, *others):
        pod.delete()
        pod.delete()
    assert len(list(fresh.queue.iterdir())) == 4
    for pod in others:
        live.cluster.pods.pop(pod.name).namespace.close()
    live.cluster.start_agent(host)
    settled(live, before)
    assert list(fresh.queue.iterdir()) == []
    fresh.add()
    fresh.check()


def test_the_runtime_s_configuration_outlives_the_agent(live: Net) -> None:
    """The agent that serves has written it; one that is killed or stopped leaves it there (uninstall does not)."""
    host = live.hosts[2]
    path = live.cluster.conflist(host)
    before = path.stat().st_ino, path.read_bytes()
    live.cluster.agents[host.name].kill()
    live.cluster.start_agent(host)
    live.cluster.wait_ready()
    live.cluster.agents[host.name].stop()
    assert (path.stat().st_ino, path.read_bytes()) == before
    live.cluster.start_agent(host)
    live.cluster.wait_ready()


def test_another_user_of_the_host_cannot_connect(live: Net) -> None:
    """It sees the socket, and the kernel lets root alone connect."""
    path = live.cluster.socket(live.hosts[0])
    words = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    connecting = ["/usr/bin/python3", "-c", words, str(path)]
    nobody: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []}
    subprocess.run(connecting, check=True)
    subprocess.run(["stat", str(path)], check=True, **nobody)
    refused = subprocess.run(connecting, stderr=subprocess.PIPE, text=True, check=False, **nobody)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1] == "PermissionError: [Errno 13] Permission denied"


def test_gc_frees_what_the_runtime_has_forgotten(live: Net, fresh: Pod) -> None:
    """R23: of this network name only; what is listed keeps its connections."""
    before = links(live), mappings(live)
    host = live.hosts[0]
    fresh.add()
    forgotten = live.cluster.pod("forgotten", host)
    listed = [
        {"containerID": pod.container_id, "ifname": "eth0"}
        for pod in live.cluster.pods.values()
        if pod.socket == fresh.socket and pod is not forgotten
    ]
    config = {"cniVersion": "1.1.0", "cni.dev/valid-attachments": [*listed, {"containerID": "fresh", "ifname": "eth0"}]}
    fresh.call("GC", config={**config, "name": "another"})
    forgotten.check()
    fresh.call("GC", config=config)
    with pytest.raises(CniError):
        forgotten.check()
    fresh.check()
    live.cluster.wait_published(fresh, live.hosts[0])
    ping(fresh.namespace, live.pod("c1").address)
    fresh.delete()
    settled(live, before)
    live.cluster.pods.pop("forgotten").namespace.close()


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0", "1.1.0"])
def test_the_result_is_in_the_version_of_the_configuration(fresh: Pod, version: str) -> None:
    """R8: cniVersion is the configuration's; 1.1.0 adds the MTU."""
    result = fresh.call("ADD", config={"cniVersion": version})
    assert result["cniVersion"] == version
    assert ("mtu" in result["interfaces"][1]) == (version == "1.1.0")
    assert result["interfaces"][1]["sandbox"] == str(fresh.namespace.path)
    assert result["ips"][0]["address"].endswith("/128")


@pytest.mark.parametrize(
    ("environment", "config", "code"),
    [
        ({"CNI_COMMAND": "DANCE"}, {}, 4),
        ({"CNI_CONTAINERID": "../../etc/passwd"}, {}, 4),
        ({"CNI_CONTAINERID": "c" * 300}, {}, 4),
        ({"CNI_CONTAINERID": ""}, {}, 4),
        ({"CNI_IFNAME": "eth0/../x"}, {}, 4),
        ({"CNI_IFNAME": "e" * 300}, {}, 4),
        ({"CNI_NETNS": "/run/netns/not-there"}, {}, 8),
        ({"CNI_NETNS": "/etc/hostname"}, {}, 8),
        ({"CNI_ARGS": "K8S_POD_NAMESPACE=a/b;K8S_POD_NAME=x;K8S_POD_UID=u"}, {}, 4),
        ({"CNI_ARGS": "K8S_POD_NAME=only"}, {}, 4),
        ({}, {"cniVersion": "0.3.1"}, 1),
        ({}, {"cniVersion": 7}, None),
        ({}, {"name": ""}, 7),
        ({}, {"name": "a/b"}, 7),
    ],
)
def test_wrong_requests_are_refused_whole(
    live: Net, fresh: Pod, environment: dict[str, str], config: dict[str, object], code: int | None
) -> None:
    """Each wrong request gets the specification's code and leaves no link and no mapping."""
    before = links(live), mappings(live)
    with pytest.raises(CniError) as caught:
        fresh.call("ADD", config=config, **environment)
    assert caught.value.code == code or (code is None and caught.value.code in (6, 7))
    assert (links(live), mappings(live)) == before


@pytest.mark.parametrize("stdin", [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b'{"name": NaN}'])
def test_a_configuration_that_is_no_json_object_is_code_6(live: Net, fresh: Pod, stdin: bytes) -> None:
    """Malformed standard input of every kind is a decoding failure, answered on standard output."""
    before = links(live), mappings(live)
    done = subprocess.run(
        [EXECUTABLE],
        input=stdin,
        env={
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": "fresh",
            "CNI_NETNS": str(fresh.namespace.path),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni/bin",
            "ILANET_SOCKET": str(fresh.socket),
            "ILANET_QUEUE": str(fresh.queue),
        },
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert done.returncode != 0
    assert json.loads(done.stdout)["code"] == 6
    assert (links(live), mappings(live)) == before


def test_an_interface_that_exists_is_refused_and_left_alone(live: Net, fresh: Pod) -> None:
    """A foreign eth0 in the pod fails ADD; it is still there afterwards, and nothing of ours is."""
    before = links(live), mappings(live)
    fresh.namespace.ip("link", "add", "eth0", "type", "veth", "peer", "name", "other")
    with pytest.raises(CniError, match="eth0") as caught:
        fresh.add()
    assert caught.value.code == 101
    assert "other" in fresh.namespace.ip("-br", "link")
    deadline = time.monotonic() + 5
    while (links(live), mappings(live)) != before:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_sixteen_pods_at_once(live: Net) -> None:
    """Concurrent ADDs for different containers all succeed, with different addresses; concurrent DELs free them all."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    before = links(live), mappings(live)
    host = live.hosts[0]
    with ThreadPoolExecutor(16) as pool:
        pods = list(pool.map(lambda number: live.cluster.pod(f"many{number}", host), range(16)))
        assert len({pod.address for pod in pods}) == 16
        for pod in pods:
            ping(pod.namespace, live.pod("b1").address)
        list(pool.map(Pod.delete, pods))
    assert (links(live), mappings(live)) == before
    for pod in pods:
        live.cluster.pods.pop(pod.name).namespace.close()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_uninstall_restores_what_was_there(live: Net, end: str) -> None:
    """Links, addresses, routes, neighbours, rules and sysctls are as before the agent, however that one ended."""
    from lab.cluster import Cluster  # noqa: PLC0415

    cluster = Cluster(name=f"{live.cluster.name}-u", hosts=1, controllers=1)
    try:
        cluster.start_underlay()
        host = cluster.hosts[0]
        host.namespace.sysctl(net__ipv6__conf__eth0__accept_ra=1)
        before = listing(host.namespace)
        cluster.start_processes()
        cluster.pod("p1", host)
        assert listing(host.namespace) != before
        getattr(cluster.agents["host1"], end)()
        cluster.uninstall(host)
        assert listing(host.namespace) == before
        assert not (cluster.directory / "host1/bpf/ilanet").exists()
        assert not list((cluster.directory / "host1/state").iterdir())
        assert not cluster.socket(host).exists()
    finally:
        cluster.close()
