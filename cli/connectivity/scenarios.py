# SPDX-License-Identifier: Apache-2.0
"""The ways in which pods reach and are reached, a small function each; SCENARIOS is the order in which they run.

A scenario returns what it has seen, in a few words, or raises Failed or Skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cli.cluster import ClusterError, Tree, path_of
from cli.connectivity.objects import (
    BACKENDS,
    DOOR,
    EVERY,
    KEEPER,
    KEEPER_POD,
    OWN,
    PORT,
    SERVICE,
    SERVICE_PORT,
    one_of,
)
from cli.connectivity.world import Failed, Skipped, TestPod, World, normal, parse_pod

PASSED, FAILED, SKIPPED = "passed", "failed", "not asked"

_KUBELET = 10250


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a scenario ended."""

    test: str
    outcome: str
    """'passed', 'failed' or 'not asked'."""

    seconds: float
    reason: str
    """What was seen."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A row of the table."""

    name: str
    run: Callable[[World], Awaitable[str]]


async def one_node(world: World) -> str:
    """See that each node's two pods reach each other, and who asks."""
    pairs = [(one, other) for one in _all(world) for other in _all(world) if one.node == other.node and one != other]
    return f"{await world.each(pairs, lambda pair: _reaches(world, *pair))} pairs"


async def across_nodes(world: World) -> str:
    """See that a pod of each node reaches one of each other node, and is seen with its own address."""
    askers = world.some("first-")
    if len(askers) < 2:
        raise Skipped("there is one node")
    pairs = [(one, other) for one in askers for other in askers if one != other]
    return f"{await world.each(pairs, lambda pair: _reaches(world, *pair))} pairs"


def _all(world: World) -> list[TestPod]:
    return [*world.some("first-"), *world.some("second-")]


async def _reaches(world: World, one: TestPod, other: TestPod) -> None:
    answered = await world.ask(one, other.address, "/hostname", PORT)
    if answered != other.name:
        raise Failed(f"{one} asks {other} and {answered!r} answers")
    await _is_seen(world, one, other.address, PORT)


async def _is_seen(world: World, pod: TestPod, host: str, port: int) -> None:
    seen = await world.seen_as(pod, host, port)
    if seen != normal(pod.address):
        raise Failed(
            f"{pod} asks [{host}]:{port} and is seen as {seen}, not as {pod.address}: "
            "is it masqueraded (kube-proxy's detectLocalMode, or a table of the node)?"
        )


async def to_service(world: World) -> str:
    """See that a ClusterIP leads to every backend, and that they see the address of the pod that asks."""
    host = (await world.service(SERVICE))["clusterIP"]
    wanted = {pod.name for pod in world.some("backend-")}

    async def from_one(pod: TestPod) -> None:
        seen: set[str] = set()

        async def look() -> None:
            seen.add(await world.ask(pod, host, "/hostname", SERVICE_PORT))
            if seen != wanted:
                raise Failed(f"{pod} asks the Service at {host} and {sorted(seen)} answer, not {sorted(wanted)}")

        await world.eventually(look)
        await _is_seen(world, pod, host, SERVICE_PORT)

    count = await world.each(world.some("first-"), from_one)
    return f"from {count} nodes, {len(wanted)} backends, which see who asks"


async def own_service(world: World) -> str:
    """See that a pod reaches itself by its Service."""
    pod = world.pod(BACKENDS[0])
    host = (await world.service(OWN))["clusterIP"]
    await world.eventually(lambda: _answers(world, pod, host, SERVICE_PORT, {pod.name}))
    return f"{pod} by {host}"


async def _answers(world: World, pod: TestPod, host: str, port: int, wanted: set[str]) -> None:
    answered = await world.ask(pod, host, "/hostname", port)
    if answered not in wanted:
        raise Failed(f"{pod} asks [{host}]:{port} and {answered!r} answers")


async def name(world: World) -> str:
    """See that a Service's name resolves, on every node, to its address."""
    host = normal((await world.service(SERVICE))["clusterIP"])
    return await _resolves(world, SERVICE, {host})


async def headless_name(world: World) -> str:
    """See that a headless Service's name resolves, on every node, to the addresses of its pods."""
    return await _resolves(world, EVERY, {normal(pod.address) for pod in world.some("backend-")})


async def _resolves(world: World, service: str, wanted: set[str]) -> str:
    async def from_one(pod: TestPod) -> None:
        found = await world.resolve(pod, service)
        if found != wanted:
            raise Failed(f"{pod} finds {sorted(found)} for {service}, not {sorted(wanted)}")

    count = await world.each(world.some("first-"), from_one)
    return f"from {count} nodes, to {', '.join(sorted(wanted))}"


async def to_node(world: World) -> str:
    """See that a pod of each node reaches every node's kubelet."""
    pairs = [(pod, node.address) for pod in world.some("first-") for node in world.nodes]
    count = await world.each(pairs, lambda pair: world.connect(pair[0], f"[{pair[1]}]:{_KUBELET}"))
    return f"{count} pairs, the kubelets' port {_KUBELET}"


async def node_port(world: World) -> str:
    """See that every node's port leads pods of every node to a backend."""
    number = (await world.service(SERVICE))["ports"][0]["nodePort"]
    wanted = {pod.name for pod in world.some("backend-")}
    pairs = [(pod, node.address) for pod in world.some("first-") for node in world.nodes]
    count = await world.each(pairs, lambda pair: _answers(world, *pair, number, wanted))
    return f"{count} pairs, port {number}"


async def host_port(world: World) -> str:
    """See that a pod's host port answers to pods of every node."""
    door = world.pod(DOOR)
    ask = world.some("first-")
    count = await world.each(ask, lambda pod: _answers(world, pod, door.node_address, world.host_port, {door.name}))
    return f"from {count} nodes, [{door.node_address}]:{world.host_port}"


async def to_api_server(world: World) -> str:
    """See that a pod of each node reaches the API server by its Service."""
    spec = (await world.cluster.read(path_of("default", "services", "kubernetes")))["spec"]
    endpoint = f"[{spec['clusterIP']}]:{spec['ports'][0]['port']}"
    return f"from {await world.each(world.some('first-'), lambda pod: world.connect(pod, endpoint))} nodes, {endpoint}"


async def to_outside(world: World) -> str:
    """See that a pod of each node reaches what the operator names."""
    endpoint = world.outside
    if endpoint is None:
        raise Skipped("name something with --outside ADDRESS:PORT")
    return f"from {await world.each(world.some('first-'), lambda pod: world.connect(pod, endpoint))} nodes, {endpoint}"


async def comes_back(world: World) -> str:
    """See that a StatefulSet's pod comes back on another node with its address, and is reached there at once."""
    before = world.pod(KEEPER_POD)
    others = [node.name for node in world.nodes if node.name != before.node]
    peers = world.some("first-")
    if not others:
        raise Skipped("there is one node")
    await world.each(peers, lambda pod: _answers(world, pod, before.address, PORT, {before.name}))
    await _send_to(world, others)
    await world.cluster.remove(path_of(world.namespace, "pods", KEEPER_POD))
    after = await world.eventually(lambda: _back(world, before))
    back = asyncio.get_running_loop().time()
    if after.node == before.node:
        raise Failed(f"it came back on {after.node}, where it had been")
    if after.address != before.address:
        raise Failed(f"it came back with {after.address}, not {before.address}")
    now = [_answers(world, pod, after.address, PORT, {after.name}) for pod in peers]  # no second try: at once
    await asyncio.gather(*now)
    took = asyncio.get_running_loop().time() - back
    return f"{before.node} -> {after.node}, {after.address} answers {len(peers)} peers within {took:.1f} s of Ready"


async def _send_to(world: World, nodes: list[str]) -> None:
    """Make the StatefulSet's next pod start on one of some nodes; no other pod's node is touched for that."""
    path = path_of(world.namespace, "statefulsets", KEEPER, group="apis/apps/v1")
    changed = await world.cluster.patch(path, {"spec": {"template": {"spec": {"affinity": one_of(nodes)}}}})

    async def observed() -> None:
        tree: Tree = await world.cluster.read(path)
        if tree["status"].get("observedGeneration", 0) < changed["metadata"]["generation"]:
            raise Failed("the StatefulSet's controller does not follow")

    await world.eventually(observed)


async def _back(world: World, before: TestPod) -> TestPod:
    pod = parse_pod(await world.cluster.read(path_of(world.namespace, "pods", KEEPER_POD)))
    if pod is None or pod.uid == before.uid:
        raise Failed(f"{KEEPER_POD} does not come back Ready: kubectl describe it with --keep")
    return pod


SCENARIOS = (
    Scenario("pod to pod, one node", one_node),
    Scenario("pod to pod, across nodes", across_nodes),
    Scenario("pod to Service", to_service),
    Scenario("pod to its own Service", own_service),
    Scenario("name of a Service", name),
    Scenario("name of a headless Service", headless_name),
    Scenario("pod to node", to_node),
    Scenario("NodePort", node_port),
    Scenario("host port", host_port),
    Scenario("pod to API server", to_api_server),
    Scenario("pod to outside", to_outside),
    Scenario("StatefulSet comes back", comes_back),
)


async def judged(scenario: Scenario, world: World) -> Result:
    """Run a scenario; whatever the network does is a result."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        outcome, reason = PASSED, await scenario.run(world)
    except Skipped as error:
        outcome, reason = SKIPPED, str(error)
    except (Failed, ClusterError) as error:
        outcome, reason = FAILED, str(error)
    return Result(test=scenario.name, outcome=outcome, seconds=round(loop.time() - began, 2), reason=reason)
