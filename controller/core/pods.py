# SPDX-License-Identifier: Apache-2.0
"""Pods as Kubernetes shows them, and what follows: which identifier a pod may have, and on which node; pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from controller.core.decision import Reason, Refused
from ila.annotations import ADDRESS, ENFORCES, KEEP_ADDRESS, NETWORK_POLICIES
from ila.mapping import OwnerName

_STATIC = "kubernetes.io/config.hash"
"""Annotation of the mirror of a static pod: the uid under which its kubelet runs it."""

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
    uid = annotations.get(_STATIC, metadata["uid"])
    return PodFacts(
        namespace=namespace,
        name=name,
        uid=uid,
        node=spec.get("nodeName") or "",
        owner=_owner(namespace, name, uid, annotations, metadata.get("ownerReferences") or ()),
        wanted=annotations.get(ADDRESS, ""),
        ended=status.get("phase") in ("Succeeded", "Failed"),
        addresses=tuple(item["ip"] for item in status.get("podIPs") or () if "ip" in item),
        enforces_policies=labels.get(ENFORCES) == NETWORK_POLICIES and _is_ready(status),
    )


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
        self._by_uid: dict[str, PodFacts] = {}
        self._by_owner: dict[OwnerName, set[str]] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._by_key)

    def put(self, pod: PodFacts) -> None:
        """Take a pod in, instead of what there was under its name."""
        self.remove(pod.namespace, pod.name)
        self._by_key[pod.namespace, pod.name] = pod
        self._by_uid[pod.uid] = pod
        self._by_owner.setdefault(pod.owner, set()).add(pod.uid)

    def remove(self, namespace: str, name: str) -> None:
        """Forget the pod of that name; none is no error."""
        pod = self._by_key.pop((namespace, name), None)
        if pod is None:
            return
        if self._by_uid.get(pod.uid) is pod:
            del self._by_uid[pod.uid]
        uids = self._by_owner[pod.owner]
        uids.discard(pod.uid)
        if not uids:
            del self._by_owner[pod.owner]

    def all(self) -> list[PodFacts]:
        """Return every pod."""
        return list(self._by_key.values())

    def of_uid(self, uid: str) -> PodFacts | None:
        """Return the pod of that uid."""
        return self._by_uid.get(uid)

    def of_owner(self, owner: OwnerName) -> list[PodFacts]:
        """Return the pods whose identifier this owner's is: several while a virtual machine moves."""
        return [self._by_uid[uid] for uid in self._by_owner.get(owner, ()) if uid in self._by_uid]

    def of_name(self, namespace: str, name: str) -> PodFacts | None:
        """Return the pod of that name."""
        return self._by_key.get((namespace, name))


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
