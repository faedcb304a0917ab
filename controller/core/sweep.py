# SPDX-License-Identifier: Apache-2.0
"""Which owners and nodes in etcd nobody has any more, since when, and whether too many of them at once; pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from controller.core.pods import Pods
from ila.mapping import Owner, OwnerName

_ORDINAL = re.compile(r"(.+)-(\d+)")

K = TypeVar("K")


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFacts:
    """What matters of a StatefulSet: which ordinals its pods have."""

    namespace: str
    name: str
    start: int
    replicas: int


def parse_set(tree: Mapping[str, Any]) -> SetFacts:
    """Return what matters of a StatefulSet as the API server writes it."""
    metadata, spec = tree["metadata"], tree.get("spec", {})
    return SetFacts(
        namespace=metadata["namespace"],
        name=metadata["name"],
        start=(spec.get("ordinals") or {}).get("start", 0),
        replicas=spec.get("replicas", 1),
    )


def is_wanted(
    name: OwnerName, pods: Pods, sets: Mapping[tuple[str, str], SetFacts], nodes: Collection[tuple[str, str]]
) -> bool:
    """Tell whether Kubernetes has the pod of that uid, or one that keeps this address, or will have one again.

    Or the node, where it is a node's own.
    """
    if name.node:
        return ("", name.node) in nodes
    if not name.keeps_address:
        return pods.of_uid(name.text.removeprefix("uid/")) is not None
    if pods.of_owner(name):
        return True
    kind, namespace, pod = name.text.split("/")
    found = _ORDINAL.fullmatch(pod)
    facts = sets.get((namespace, found[1])) if found and kind == "name" else None
    return facts is not None and found is not None and facts.start <= int(found[2]) < facts.start + facts.replicas


def is_used(owner: Owner, name: OwnerName, *, there: Callable[[str], bool], used: Mapping[str, frozenset[str]]) -> bool:
    """Tell whether the node that holds it may still have the pod: it says so, or says nothing and is there.

    `there` tells whether Kubernetes has a node; `used` are the owners that each node has reported of late.
    """
    reported = used.get(owner.node)
    return there(owner.node) if reported is None else name.text in reported


class Waiting(Generic[K]):
    """Since when each of some things is as it is; what is so for long enough is due."""

    def __init__(self) -> None:
        self._since: dict[K, float] = {}

    def see(self, present: Iterable[K], now: float) -> None:
        """Note what is so now; whatever is not begins anew when it is again."""
        self._since = {key: self._since.get(key, now) for key in present}

    def due(self, now: float, grace: Callable[[K], float]) -> list[K]:
        """Return what has been so for its grace, in seconds."""
        return [key for key, since in self._since.items() if now - since >= grace(key)]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._since)


def braked(due: int, total: int, *, share: float, least: int) -> str:
    """Return why so many may not be freed at once; '' if they may.

    least: so many always may; share: of all, between 0 and 1.
    """
    most = max(least, int(total * share))
    if due <= most:
        return ""
    return (
        f"{due} of {total} identifiers belong to nobody whom Kubernetes shows, more than {most}: none is freed, since "
        "the API server may have lost its records; if they are really gone, raise sweep_share for a while"
    )
