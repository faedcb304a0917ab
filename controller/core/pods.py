# SPDX-License-Identifier: Apache-2.0
"""Pods as Kubernetes shows them, and what follows: which identifier a pod may have, and on which node; pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from controller.core.decision import Reason, Refused
from ila.annotations import ADDRESS, ENFORCES, KEEP_ADDRESS, NETWORK_POLICIES
from ila.mapping import OwnerName

_STATIC = "kubernetes.io/config.hash"
"""Annotation of the mirror of a static pod: the uid under which its kubelet runs it."""

_MIRROR = "kubernetes.io/config.mirror"
"""Annotation that says the same, and which only the mirror has: the kubelet takes no such pod for its own."""

_STATIC_UID = re.compile(r"[0-9a-f]{32}")
"""A static pod's uid, its file's MD5; the API server's have hyphens, so that no pod of its can be meant."""

K = TypeVar("K", bound=Hashable)

ASK_FIRST = (r".*-\d+", r"virt-launcher-.*")
"""Names, as regular expressions, of pods that may keep an address: a StatefulSet's, and KubeVirt's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFacts:
    """What matters of a pod."""

    namespace: str
    name: str
    uid: str
    """As its kubelet knows it: a static pod's is not that of its mirror."""

    node: str
    """Where it was bound; '' while it is not."""

    owner: OwnerName
    """Whose its identifier is: its own, or that of whoever keeps one under this name."""

    wanted: str = ""
    """Text of the address that it asks for; '': any."""

    ended: bool = False
    """All of its containers have ended for ever."""

    addresses: tuple[str, ...] = ()
    """As its status shows them."""

    created: str = ""
    """When, as the API server writes it: the earlier text is the earlier time."""

    enforces_policies: bool = False
    """It says that it enforces NetworkPolicy objects on its node, and is ready."""

    def __str__(self) -> str:
        """Return the name that logs use."""
        return f"{self.namespace}/{self.name}"


def parse_pod(tree: Mapping[str, Any]) -> PodFacts:
    """Return what matters of a pod as the API server writes it."""
    metadata, spec, status = tree["metadata"], tree.get("spec", {}), tree.get("status", {})
    annotations, labels = metadata.get("annotations") or {}, metadata.get("labels") or {}
    namespace, name = metadata["namespace"], metadata["name"]
    references = metadata.get("ownerReferences") or ()
    node = spec.get("nodeName") or ""
    uid = annotations[_STATIC] if _is_mirror(annotations, references, node) else metadata["uid"]
    return PodFacts(
        namespace=namespace,
        name=name,
        uid=uid,
        node=node,
        owner=_owner(namespace, name, uid, annotations, references),
        wanted=annotations.get(ADDRESS, ""),
        ended=status.get("phase") in ("Succeeded", "Failed"),
        addresses=tuple(item["ip"] for item in status.get("podIPs") or () if "ip" in item),
        created=metadata.get("creationTimestamp") or "",
        enforces_policies=labels.get(ENFORCES) == NETWORK_POLICIES and _is_ready(status),
    )


def _is_mirror(annotations: Mapping[str, str], references: Iterable[Mapping[str, Any]], node: str) -> bool:
    """Tell whether a kubelet may have made it to show its static pod; anybody who makes pods may pretend that."""
    mine = any(one.get("controller") and (one["kind"], one["name"]) == ("Node", node) for one in references)
    uid = annotations.get(_STATIC, "")
    return mine and uid == annotations.get(_MIRROR) and _STATIC_UID.fullmatch(uid) is not None


def _is_ready(status: Mapping[str, Any]) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions") or ())


def _owner(
    namespace: str, name: str, uid: str, annotations: Mapping[str, str], references: Iterable[Mapping[str, Any]]
) -> OwnerName:
    for reference in references:
        if reference.get("controller") and reference["kind"] == "StatefulSet":
            return OwnerName.of_name(namespace, name)
        if reference["kind"] == "VirtualMachineInstance":
            return OwnerName.of_machine(namespace, reference["name"])
    if annotations.get(KEEP_ADDRESS) == "true" or ADDRESS in annotations:
        return OwnerName.of_name(namespace, name)
    return OwnerName.of_uid(uid)


class Pods:
    """Every pod of the cluster, by what it is asked by; filled by an informer (controller/informer.py)."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, str], PodFacts] = {}
        self._by_uid: dict[str, set[tuple[str, str]]] = {}
        self._by_owner: dict[OwnerName, set[tuple[str, str]]] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._by_key)

    def put(self, pod: PodFacts) -> None:
        """Take a pod in, instead of what there was under its name."""
        self.remove(pod.namespace, pod.name)
        key = (pod.namespace, pod.name)
        self._by_key[key] = pod
        self._by_uid.setdefault(pod.uid, set()).add(key)
        self._by_owner.setdefault(pod.owner, set()).add(key)

    def remove(self, namespace: str, name: str) -> None:
        """Forget the pod of that name; none is no error."""
        key = (namespace, name)
        pod = self._by_key.pop(key, None)
        if pod is not None:
            _discard(self._by_uid, pod.uid, key)
            _discard(self._by_owner, pod.owner, key)

    def all(self) -> list[PodFacts]:
        """Return every pod."""
        return list(self._by_key.values())

    def of_uid(self, uid: str) -> PodFacts | None:
        """Return the pod of that uid: of several that claim it the first, since whoever repeats it came later."""
        found = [self._by_key[key] for key in self._by_uid.get(uid, ())]
        return min(found, key=lambda pod: (pod.created, str(pod)), default=None)

    def of_owner(self, owner: OwnerName) -> list[PodFacts]:
        """Return the pods whose identifier this owner's is: several while a virtual machine moves."""
        return [self._by_key[key] for key in self._by_owner.get(owner, ())]

    def of_name(self, namespace: str, name: str) -> PodFacts | None:
        """Return the pod of that name."""
        return self._by_key.get((namespace, name))


def _discard(index: dict[K, set[tuple[str, str]]], under: K, key: tuple[str, str]) -> None:
    index[under].discard(key)
    if not index[under]:
        del index[under]


def judge(pods: Pods, *, node: str, namespace: str, name: str, uid: str) -> PodFacts | None:
    """Return the pod for which a node asks, None if Kubernetes does not show it (yet); Refused if it is not there.

    A node speaks for the pods that are bound to it and for no other: so much a stolen certificate is worth.
    """
    pod = pods.of_uid(uid)
    if pod is None:
        return None
    if (pod.namespace, pod.name) != (namespace, name):
        raise Refused(Reason.NOT_YOURS, f"the pod with uid {uid!r} is {pod}, not {namespace}/{name}")
    if not pod.node:
        return None
    if pod.node != node:
        raise Refused(Reason.NOT_YOURS, f"pod {pod} is bound to node {pod.node!r}, not to {node!r}")
    return pod


def wanted_address(pod: PodFacts) -> ipaddress.IPv6Address | None:
    """Return the address that a pod asks for; Refused if its annotation has none."""
    if not pod.wanted:
        return None
    try:
        return ipaddress.IPv6Address(pod.wanted)
    except ValueError as error:
        raise Refused(Reason.MALFORMED, f"pod {pod}: annotation {ADDRESS} {pod.wanted!r}: {error}") from None
