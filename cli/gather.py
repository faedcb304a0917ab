# SPDX-License-Identifier: Apache-2.0
"""Asks a cluster for what `ilanet status` judges: everything at once, each question with a deadline; for cli."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from cli.cluster import Cluster, ClusterError, Refused, Tree, path_of, proxy_path
from cli.facts import (
    AGENT_PORT,
    CONTROLLER_PORT,
    NEVER,
    Agent,
    Asked,
    Controller,
    Facts,
    Node,
    Pod,
    last_warning,
    last_word,
    newest,
)

_AT_ONCE = 32
"""Pods that are asked at the same time: the API server holds a connection for each."""

_SETTLE = 1.0
"""Seconds that a mapping may take to every node: an agent that is behind is asked again after them."""

_WORD = 300
"""Characters of a log line that are shown."""

_LABEL = "app.kubernetes.io/name=ilanet"

T = TypeVar("T")


async def gather(cluster: Cluster, namespace: str, *, deadline: float, settle: float = _SETTLE) -> Facts:
    """Return what is so now; ClusterError if the nodes or the pods cannot be listed.

    A pod that does not answer within `deadline` seconds is a fact like any other.
    """
    listed, found = await asyncio.gather(
        cluster.read("/api/v1/nodes"), cluster.read(path_of(namespace, "pods"), labelSelector=_LABEL)
    )
    nodes = tuple(sorted((_parsed(Node.parse, tree) for tree in listed["items"]), key=lambda node: node.name))
    asking = _Asking(cluster, namespace, deadline)
    staying = (tree for tree in found["items"] if not _leaves(tree))
    parsed = sorted((_parsed(Pod.parse, tree) for tree in staying), key=lambda pod: (pod.node, pod.name))
    pods = await asyncio.gather(*(asking.explained(pod) for pod in parsed))
    agents, controllers = await asyncio.gather(
        asking.all((pod for pod in pods if pod.component == "agent"), AGENT_PORT, Agent.parse),
        asking.all((pod for pod in pods if pod.component == "controller"), CONTROLLER_PORT, Controller.parse),
    )
    facts = Facts(
        namespace=namespace,
        nodes=nodes,
        agents=agents,
        controllers=controllers,
        etcd=tuple(pod for pod in pods if pod.component == "etcd"),
        newest=newest(agents),
    )
    return await _again(asking, facts, settle)


async def _again(asking: _Asking, facts: Facts, settle: float) -> Facts:
    """Ask agents that are behind once more: what was published a moment ago may be on its way."""
    behind = [one.pod for one in facts.agents if one.says and one.says.generation < (facts.newest or NEVER)]
    if not behind:
        return facts
    await asyncio.sleep(settle)
    later = {one.pod.name: one for one in await asking.all(behind, AGENT_PORT, Agent.parse)}
    return replace(facts, agents=tuple(later.get(one.pod.name, one) for one in facts.agents))


class _Asking:
    """Questions to pods, through the API server."""

    def __init__(self, cluster: Cluster, namespace: str, deadline: float) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._deadline = deadline
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def all(self, pods: Iterable[Pod], port: int, parse: Callable[[Tree], T]) -> tuple[Asked[T], ...]:
        """Ask each of the pods."""
        return tuple(await asyncio.gather(*(self._ask(pod, port, parse) for pod in pods)))

    async def explained(self, pod: Pod) -> Pod:
        """Return a pod that crashes with its container's last word, and one that waits with why, if that can be had."""
        if pod.starting and not pod.ready:
            return await self._with_warning(pod)
        if not pod.crashed:
            return pod
        try:
            async with self._room:
                path = f"{path_of(self._namespace, 'pods', pod.name)}/log"
                query = {"container": pod.crashed, "tailLines": "20"}
                word = last_word(await self._cluster.text(path, deadline=self._deadline, **query))
        except ClusterError:
            return pod
        return replace(pod, trouble=f"{pod.trouble}; its last word: {word[:_WORD]}" if word else pod.trouble)

    async def _with_warning(self, pod: Pod) -> Pod:
        try:
            async with self._room:
                about = f"involvedObject.name={pod.name}"
                found = await self._cluster.read(path_of(self._namespace, "events"), fieldSelector=about)
            word = last_warning(found["items"])
        except (ClusterError, KeyError, TypeError, AttributeError):
            return pod
        return replace(pod, trouble=f"{pod.trouble}; {word[:_WORD]}" if word else pod.trouble)

    async def _ask(self, pod: Pod, port: int, parse: Callable[[Tree], T]) -> Asked[T]:
        if not pod.running:
            return Asked(pod, why=f"it does not run: {pod.trouble}")
        try:
            async with self._room:
                path = proxy_path(self._namespace, pod.name, port, "status")
                text = await self._cluster.text(path, deadline=self._deadline)
        except Refused as error:
            if error.status == 403:
                return Asked(pod, why=f"you may not ask it: get pods/proxy in {self._namespace} is forbidden to you")
            return Asked(pod, why=f"it cannot be asked: {error}")
        except ClusterError as error:
            return Asked(pod, why=str(error))
        try:
            return Asked(pod, parse(json.loads(text)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return Asked(pod, why=f"its answer does not parse: {error!r} in {text[:100]!r}")


def _leaves(tree: Tree) -> bool:
    """Whether a pod is on its way out, or ended (an eviction leaves its pod behind): another one takes its place."""
    return "deletionTimestamp" in tree["metadata"] or tree["status"].get("phase") in ("Succeeded", "Failed")


def _parsed(parse: Callable[[Tree], T], tree: Tree) -> T:
    try:
        return parse(tree)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        name = tree.get("metadata", {}).get("name")
        raise ClusterError(f"the API server's {name!r} is not what it should be: {error!r}") from error
