# SPDX-License-Identifier: Apache-2.0
"""What was read of a cluster, as values: nodes, pods of ilanet and what they say of themselves; pure, for cli.

Everything is parsed here once; ValueError, KeyError or TypeError say that a tree is not what was expected.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

from cli.cluster import Tree
from ila.mapping import Generation

COMPONENT = "app.kubernetes.io/component"

AGENT_PORT = 9475
CONTROLLER_PORT = 9476
"""Where each serves HTTP on its node's address."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node of Kubernetes."""

    name: str
    ready: bool
    reason: str = ""
    """What its Ready condition says if it is not."""

    address: str = ""
    network_unavailable: bool = False

    @classmethod
    def parse(cls, tree: Tree) -> Self:
        """Return the node of a tree."""
        conditions = {one["type"]: one for one in tree["status"].get("conditions", [])}
        ready = conditions.get("Ready", {"status": "Unknown", "message": "it has no Ready condition"})
        addresses = [one["address"] for one in tree["status"].get("addresses", []) if one["type"] == "InternalIP"]
        is_ready = ready["status"] == "True"
        return cls(
            name=tree["metadata"]["name"],
            ready=is_ready,
            reason="" if is_ready else ready.get("message", ready["status"]),
            address=next((one for one in addresses if ":" in one), addresses[0] if addresses else ""),
            network_unavailable=conditions.get("NetworkUnavailable", {}).get("status") == "True",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod of ilanet."""

    name: str
    component: str
    node: str
    running: bool
    """Whether it can be asked: none of its main containers waits."""

    ready: bool
    restarts: int = 0
    trouble: str = ""
    """Why it is not ready, as far as Kubernetes knows."""

    crashed: str = ""
    """The container that has failed and does not run now."""

    starting: bool = False
    """It is on a node, and no container of it has run yet: Events say what it waits for."""

    @classmethod
    def parse(cls, tree: Tree) -> Self:
        """Return the pod of a tree."""
        status = tree["status"]
        conditions = {one["type"]: one for one in status.get("conditions", [])}
        main = status.get("containerStatuses", [])
        ready = conditions.get("Ready", {}).get("status") == "True"
        return cls(
            name=tree["metadata"]["name"],
            component=tree["metadata"].get("labels", {}).get(COMPONENT, ""),
            node=tree["spec"].get("nodeName", ""),
            running=bool(main) and all("running" in one.get("state", {}) for one in main),
            ready=ready,
            restarts=sum(one.get("restartCount", 0) for one in [*status.get("initContainerStatuses", []), *main]),
            trouble="" if ready else _trouble(status, conditions),
            crashed=next((one["name"] for one in _containers(status) if _has_ended(one.get("state", {}))), ""),
            starting=any(_waits_for_node(one.get("state", {})) for one in _containers(status)),
        )


def _containers(status: Tree) -> list[Tree]:
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def _waits_for_node(state: Tree) -> bool:
    return (state.get("waiting") or {}).get("reason") in ("ContainerCreating", "PodInitializing")


def last_warning(events: Sequence[Tree]) -> str:
    """Return what the newest of a pod's Events that warn says; '' if none does."""
    warnings = [one for one in events if one.get("type") == "Warning" and one.get("message")]
    newest = max(warnings, key=lambda one: str(one.get("lastTimestamp") or one.get("eventTime") or ""), default=None)
    return "" if newest is None else f"{newest.get('reason', '')}: {newest['message']}"


_CRASHES = "CrashLoopBackOff"
_FRAME = " \t|+-"
"""What Python draws around the tracebacks of a group of exceptions."""

_NO_LOG = "unable to retrieve container logs"
"""What a kubelet writes instead of a log that it does not have any more."""


def _has_ended(state: Tree) -> bool:
    """Whether a container has failed and does not run now."""
    waits = (state.get("waiting") or {}).get("reason") == _CRASHES
    return waits or bool((state.get("terminated") or {}).get("exitCode"))


def last_word(log: str) -> str:
    """Return the message of the last line of a container's log, which may be JSON (ila/log.py)."""
    lines = [line for line in (line.strip(_FRAME) for line in log.splitlines()) if line]
    if not lines or lines[-1].startswith(_NO_LOG):
        return ""
    try:
        fields = json.loads(lines[-1])
        traceback = str(fields.get("traceback", "")).strip().splitlines()
        return " ".join([str(fields["message"]), *traceback[-1:]])
    except (ValueError, KeyError, TypeError, AttributeError):
        return lines[-1]


def _trouble(status: Tree, conditions: Mapping[str, Tree]) -> str:
    """Return the most telling reason: a container's, then the scheduler's, then a condition's, then the phase."""
    for one in _containers(status):
        state = one.get("state", {})
        waiting, ended = state.get("waiting"), state.get("terminated")
        if waiting and waiting.get("reason") == _CRASHES:
            code = one.get("lastState", {}).get("terminated", {}).get("exitCode", "?")
            return f"container {one['name']} ends again and again, with {code}"
        if waiting and waiting.get("reason") != "PodInitializing":
            return f"container {one['name']}: {waiting.get('reason', 'waits')} {waiting.get('message', '')}".strip()
        if ended and ended.get("exitCode"):
            return f"container {one['name']} ended with {ended['exitCode']} {ended.get('message', '')}".strip()
    for kind in ("PodScheduled", "Ready"):
        condition = conditions.get(kind, {})
        if condition.get("status") == "False" and condition.get("message"):
            return str(condition["message"])
    return str(status.get("phase", "its state is unknown"))


@dataclass(frozen=True, slots=True)
class Probe:
    """What an agent found when it probed the underlay towards another node."""

    ok: bool
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """What an agent says of itself."""

    node: str
    version: str
    locator: str | None
    address: str | None
    serving: bool
    mappings: int
    complete: bool
    """Whether it has heard all mappings since it started."""

    generation: Generation
    """The highest it has heard of."""

    published: Generation
    """The highest of its own endpoints: every other agent must have heard of that."""

    endpoints: int
    nodes: tuple[str, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)
    probes: Mapping[str, Probe] | None = None
    """None: this version does not probe."""

    @classmethod
    def parse(cls, tree: Tree) -> Self:
        """Return the agent of its /status."""
        probes = tree.get("probes")
        endpoints = tree["endpoints"].values()
        return cls(
            node=tree["node"],
            version=str(tree.get("version") or ""),
            locator=tree["locator"],
            address=tree["address"],
            serving=bool(tree["serving"]),
            mappings=int(tree["mappings"]),
            complete=bool(tree["mappings_complete"]),
            generation=_generation(tree["generation"]),
            published=max((_generation(one["generation"]) for one in endpoints), default=NEVER),
            endpoints=len(endpoints),
            nodes=tuple(tree["nodes"]),
            problems={str(part): str(why) for part, why in tree["problems"].items()},
            probes=None if probes is None else {to: _probe(found) for to, found in probes.items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """What a controller says of itself."""

    version: str
    serving: bool
    reason: str = ""
    leader: bool | None = None
    """None: it does not say."""

    warnings: tuple[str, ...] = ()

    @classmethod
    def parse(cls, tree: Tree) -> Self:
        """Return the controller of its /status."""
        return cls(
            version=str(tree.get("version") or ""),
            serving=bool(tree["serving"]),
            reason=str(tree["reason"] or ""),
            leader=tree.get("leader"),
            warnings=tuple(str(one) for one in tree.get("warnings") or ()),
        )


@dataclass(frozen=True, slots=True)
class Asked(Generic[T]):
    """A pod and what it says, or why nothing is known of that."""

    pod: Pod
    says: T | None = None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that `ilanet status` judges."""

    namespace: str
    nodes: tuple[Node, ...]
    agents: tuple[Asked[Agent], ...] = ()
    controllers: tuple[Asked[Controller], ...] = ()
    etcd: tuple[Pod, ...] = ()
    newest: Generation | None = None
    """The highest that any agent had published when all were asked first; an agent that was behind was asked again."""


NEVER = Generation(0, 0)


def newest(agents: tuple[Asked[Agent], ...]) -> Generation:
    """Return the highest generation that any agent has published."""
    return max((one.says.published for one in agents if one.says), default=NEVER)


def _generation(text: Any) -> Generation:  # noqa: ANN401 - a leaf of a tree
    if text is None:
        return NEVER
    epoch, slash, revision = str(text).partition("/")
    if not slash:
        raise ValueError(f"generation {text!r} is not 'epoch/revision'")
    return Generation(int(epoch), int(revision))


def _probe(tree: Tree) -> Probe:
    return Probe(ok=bool(tree["ok"]), problem=str(tree.get("problem") or ""))
