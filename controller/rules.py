# SPDX-License-Identifier: Apache-2.0
"""Who may have what: rules that trust every node (demo and tests), and those that Kubernetes decides."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from controller.core import nodes as core_nodes
from controller.core.decision import Reason, Refused
from controller.core.kubernetes import KubernetesError, NodeFacts
from controller.core.pods import ASK_FIRST, PodFacts, Pods, judge, wanted_address
from controller.core.registration import Registration
from controller.events import Events
from controller.informer import Informer
from ila.mapping import OwnerName
from proto import ilanet_pb2 as pb

log = logging.getLogger("controller.rules")

_PATIENCE = 1.0
"""Seconds that a call waits for its pod: the kubelet has heard of it before us, or after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a pod may have."""

    owner: OwnerName
    take_over: bool
    """From a holder that has not released it: Kubernetes shows that it is gone, or, without one, the node says so."""

    wanted: ipaddress.IPv6Address | None = None
    """The address that the pod must have."""


class Rules(Protocol):
    """Refused names the object and the reason; KubernetesError: ask another replica, or later."""

    ask_first: Sequence[str]
    """Names of pods, as regular expressions, whose Assign must come before they start."""

    async def registered(self, request: Registration) -> Registration:
        """Return the registration as it is allowed."""

    async def grant(self, node: str, pod: pb.Pod, *, take_over: bool = False) -> Grant:
        """Return what a pod on a node may have; take_over: the node says that who holds it is gone."""

    def refused(self, node: str, pod: pb.Pod | None, error: Refused) -> None:
        """Hear that a pod got nothing; None: that its node did not."""

    def is_gone(self, node: str) -> bool:
        """Tell whether a node is known to be there no more."""


def owner_of(pod: pb.Pod) -> OwnerName:
    """Return the owner that a node names."""
    if pod.owner:
        return OwnerName.parse(pod.owner)
    return OwnerName.of_name(pod.namespace, pod.name) if pod.keep_address else OwnerName.of_uid(pod.uid)


def node_itself(node: str, pod: pb.Pod) -> Grant | None:
    """Return what a node may have for itself, its end of probes, if that is what it asks for; Refused for another's."""
    if not pod.owner.startswith("node/"):
        return None
    owner = OwnerName.parse(pod.owner)
    if owner.node != node:
        raise Refused(Reason.NOT_YOURS, f"node {node!r} may not have what is node {owner.node!r}'s own")
    return Grant(owner=owner, take_over=True)


class TrustingRules:
    """Every node is believed: for the demo and for tests without Kubernetes."""

    ask_first: Sequence[str] = ()

    async def registered(self, request: Registration) -> Registration:
        """Return it as it is."""
        return request

    async def grant(self, node: str, pod: pb.Pod, *, take_over: bool = False) -> Grant:
        """Return what the node says."""
        return node_itself(node, pod) or Grant(owner=owner_of(pod), take_over=take_over)

    def refused(self, node: str, pod: pb.Pod | None, error: Refused) -> None:
        """Tell nobody: the answer and the log say it."""

    def is_gone(self, node: str) -> bool:  # noqa: ARG002 - nobody is asked
        """Tell that it may be there."""
        return False


class KubernetesRules:
    """A node speaks for the pods that Kubernetes has bound to it, and for itself."""

    ask_first: Sequence[str] = ASK_FIRST

    def __init__(
        self,
        *,
        pods: Pods,
        followed: Informer[PodFacts],
        nodes: Informer[NodeFacts],
        by_pod_cidr: bool,
        events: Events,
        patience: float = _PATIENCE,
    ) -> None:
        """Take the pods and what fills them; by_pod_cidr: a node's locator is its podCIDR."""
        self._pods = pods
        self._followed = followed
        self._nodes = nodes
        self._by_pod_cidr = by_pod_cidr
        self._events = events
        self._patience = patience

    async def registered(self, request: Registration) -> Registration:
        """Return the registration with the locator that Kubernetes gave the node."""
        key = ("", request.node)
        await self._nodes.until(lambda: key in self._nodes.objects, self._patience)
        self._check_complete(self._nodes)
        return core_nodes.checked(request, self._nodes.objects.get(key), by_pod_cidr=self._by_pod_cidr)

    async def grant(self, node: str, pod: pb.Pod, *, take_over: bool = False) -> Grant:  # noqa: ARG002 - pods tell
        """Return what the pod of that uid may have, if it is bound to that node, or for the node itself."""
        own = node_itself(node, pod)
        if own is not None:
            return own

        def found() -> PodFacts | None:
            return judge(self._pods, node=node, namespace=pod.namespace, name=pod.name, uid=pod.uid)

        await self._followed.until(lambda: found() is not None, self._patience)
        self._check_complete(self._followed)
        facts = found()
        if facts is None:
            what = f"pod {pod.namespace}/{pod.name} with uid {pod.uid!r} on node {node!r}"
            raise Refused(Reason.NOT_NOW, f"Kubernetes does not show {what}")
        others = [other for other in self._pods.of_owner(facts.owner) if other.uid != facts.uid and not other.ended]
        return Grant(owner=facts.owner, take_over=not others, wanted=wanted_address(facts))

    def refused(self, node: str, pod: pb.Pod | None, error: Refused) -> None:
        """Write an Event about the pod, if it is that node's, or about the node."""
        if pod is None:
            if (there := self._nodes.objects.get(("", node))) is not None:
                self._events.about_node(there, reason="IlanetRefused", message=str(error), warning=True)
            return
        facts = self._pods.of_uid(pod.uid)
        if facts is not None and facts.node == node:
            self._events.about_pod(facts, reason="IlanetRefused", message=str(error))

    def is_gone(self, node: str) -> bool:
        """Tell whether Kubernetes, once all nodes are known, does not show it."""
        return self._nodes.complete and ("", node) not in self._nodes.objects

    @staticmethod
    def _check_complete(informer: Informer[PodFacts] | Informer[NodeFacts]) -> None:
        if not informer.complete:
            raise KubernetesError("pods and nodes are not all known yet")
