# SPDX-License-Identifier: Apache-2.0
"""Deploys the test's objects, runs its scenarios and removes everything again, however it ends; for cli.__main__."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

from cli.cluster import Absent, Cluster, ClusterError, Refused, Tree, path_of
from cli.connectivity import objects
from cli.connectivity.scenarios import FAILED, PASSED, SCENARIOS, Result, Scenario, judged
from cli.connectivity.world import PAUSE, Failed, TestPod, World, parse_pod
from cli.facts import Node, Pod

_REMOVAL = 120.0
"""Seconds that a namespace may take to go."""

_HOST_PORTS = (20000, 30000)
"""Below the ports of NodePorts and of outgoing connections."""

NODE_TO_POD = "node to pod"
"""The first row: a pod is Ready when its node's kubelet has reached it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an operator chooses."""

    image: str
    outside: str | None = None
    nodes: tuple[str, ...] = ()
    """Empty: all that are Ready."""

    patience: float = 60.0
    """Seconds of each scenario."""

    keep: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How the test ended."""

    well: bool
    """Whether nothing failed."""

    namespace: str
    nodes: tuple[str, ...]
    results: tuple[Result, ...]
    left: str | None
    """The namespace, if it is still there."""


async def connectivity(
    cluster: Cluster,
    settings: Settings,
    *,
    show: Callable[[Result], None],
    say: Callable[[str], None],
    scenarios: Sequence[Scenario] = SCENARIOS,
) -> Summary:
    """Make the whole test; ClusterError if it cannot be made. `show` hears of each result as it comes."""
    nodes = await _nodes(cluster, settings.nodes, say)
    results: list[Result] = []

    def done(result: Result) -> None:
        results.append(result)
        show(result)

    gone = _Gone()
    async with _namespace(cluster, settings.keep, gone, say) as namespace:
        say(f"namespace {namespace}, nodes {', '.join(node.name for node in nodes)}")
        world = World(
            cluster=cluster,
            namespace=namespace,
            nodes=nodes,
            pods={},
            outside=settings.outside,
            host_port=random.randrange(*_HOST_PORTS),  # noqa: S311 - no secret
        )
        pods, result = await _deployed(world, settings)
        done(result)
        world = replace(world, pods=pods)
        for scenario in scenarios:
            until = asyncio.get_running_loop().time() + settings.patience
            done(await judged(scenario, replace(world, until=until)))
    return Summary(
        well=all(result.outcome != FAILED for result in results) and any(one.outcome == PASSED for one in results),
        namespace=namespace,
        nodes=tuple(node.name for node in nodes),
        results=tuple(results),
        left=None if gone.gone else namespace,
    )


async def _nodes(cluster: Cluster, wanted: Sequence[str], say: Callable[[str], None]) -> tuple[Node, ...]:
    """Return the nodes to test: those named, or all; only Ready ones."""
    found = [Node.parse(tree) for tree in (await cluster.read("/api/v1/nodes"))["items"]]
    if unknown := set(wanted) - {node.name for node in found}:
        raise ClusterError(f"no node is named {', '.join(sorted(unknown))}")
    chosen = [node for node in sorted(found, key=lambda node: node.name) if not wanted or node.name in wanted]
    for node in chosen:
        if not node.ready:
            say(f"node {node.name} is left out: not Ready: {node.reason}")
    ready = tuple(node for node in chosen if node.ready)
    if not ready:
        raise ClusterError("no node is Ready")
    return ready


# --- to deploy ---


async def _deployed(world: World, settings: Settings) -> tuple[dict[str, TestPod], Result]:
    """Create everything and wait for the pods; return those that are Ready, and the first row."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    names = [node.name for node in world.nodes]
    pods = objects.pods(names, image=settings.image, host_port=world.host_port)
    services = path_of(world.namespace, "services")
    await asyncio.gather(*(world.cluster.create(services, tree) for tree in objects.services()))
    collection = path_of(world.namespace, "pods")
    await _first_pod(world, pods[0], began + settings.patience)
    await asyncio.gather(*(world.cluster.create(collection, tree) for tree in pods[1:]))
    sets = path_of(world.namespace, "statefulsets", group="apis/apps/v1")
    await world.cluster.create(sets, objects.keeper(names, image=settings.image))
    wanted = [*(tree["metadata"]["name"] for tree in pods), objects.KEEPER_POD]
    ready: dict[str, TestPod] = {}

    async def all_ready() -> str:
        items = (await world.cluster.read(collection))["items"]
        ready.clear()
        ready.update({pod.name: pod for pod in map(parse_pod, items) if pod})
        if missing := [name for name in wanted if name not in ready]:
            trouble = {
                pod.name: f"{pod.name} on {pod.node or 'no node'}: {pod.trouble}" for pod in map(Pod.parse, items)
            }
            raise Failed(f"{len(missing)} not Ready: {'; '.join(trouble.get(one, one) for one in missing[:3])}")
        return f"{len(wanted)} pods are Ready: their nodes' kubelets reach them"

    waiting = replace(world, until=began + settings.patience)
    result = await judged(Scenario(NODE_TO_POD, lambda one: one.eventually(all_ready)), waiting)
    return ready, replace(result, seconds=round(loop.time() - began, 2))


async def _first_pod(world: World, tree: Tree, until: float) -> None:
    """Create a pod as soon as the namespace has its service account."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            await world.cluster.create(path_of(world.namespace, "pods"), tree)
        except Refused as error:
            if "serviceaccount" not in str(error) or loop.time() > until:
                raise
            await asyncio.sleep(PAUSE)
        else:
            return


# --- to remove ---


@dataclass(slots=True)
class _Gone:
    """Whether the namespace has gone."""

    gone: bool = False


@contextlib.asynccontextmanager
async def _namespace(cluster: Cluster, keep: bool, state: _Gone, say: Callable[[str], None]) -> AsyncIterator[str]:  # noqa: FBT001
    """Make a namespace; remove it with all that is in it, whatever happens meanwhile."""
    name = f"ilanet-connectivity-{uuid.uuid4().hex[:6]}"
    remove = f"kubectl delete namespace {name}"
    try:
        await cluster.create("/api/v1/namespaces", objects.namespace(name))
        yield name
    finally:
        if keep:
            say(f"namespace {name} stays: {remove}")
        else:
            say(f"removing namespace {name}")
            try:
                state.gone = await _removed(cluster, name)
            except ClusterError as error:
                say(f"namespace {name} may be left behind ({error}): {remove}")
            else:
                if not state.gone:
                    say(f"namespace {name} has not gone after {_REMOVAL:g} s: kubectl get namespace {name} -o yaml")


async def _removed(cluster: Cluster, name: str) -> bool:
    """Delete a namespace and wait until it has gone; return whether it has."""
    path = f"/api/v1/namespaces/{name}"
    loop = asyncio.get_running_loop()
    until = loop.time() + _REMOVAL
    await cluster.remove(path)
    while loop.time() < until:
        try:
            await cluster.read(path)
        except Absent:
            return True
        await asyncio.sleep(PAUSE)
    return False
