# SPDX-License-Identifier: Apache-2.0
"""What the controller asks of Kubernetes, and nodes and tokens as Kubernetes shows them; pure."""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ila.certificates import Authority

TAINT = "ilanet.io/agent-not-ready"
"""Key of the start-up taint that a node may come with: taken off once its agent can serve."""

_ACCOUNT = "system:serviceaccount:"
_NODE_OF_TOKEN = "authentication.kubernetes.io/node-name"  # noqa: S105 - the name of a claim


class KubernetesError(Exception):
    """The API server did not do what it was asked; the message says what that was, and its reason."""


class Kind(enum.Enum):
    """Kinds of objects that are followed."""

    POD = "pods"
    NODE = "nodes"
    STATEFUL_SET = "statefulsets"
    NETWORK_POLICY = "networkpolicies"


@dataclass(frozen=True, slots=True)
class Listed:
    """Every object of a kind at one version."""

    objects: Sequence[Mapping[str, Any]]
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """Whose token it is."""

    namespace: str
    account: str

    node: str
    """Of the pod that the token is bound to; '' if the API server does not say (before Kubernetes 1.30)."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Who holds a Lease, and the version in which that was said: another one whenever it is renewed."""

    holder: str
    version: str


class Kubernetes(Protocol):
    """The API server; every call raises KubernetesError."""

    async def list(self, kind: Kind) -> Listed:
        """Return every object of a kind, as trees, and the version to watch from."""

    def watch(self, kind: Kind, version: str) -> AsyncGenerator[tuple[str, Mapping[str, Any]], None]:
        """Yield changes after a version, as (type of event, tree), until the server ends it."""

    async def review(self, token: str, audience: str) -> Review | None:
        """Return whose token it is; None if it is nobody's."""

    async def read_authority(self, namespace: str) -> Authority | None:
        """Return the authority that a Secret holds; None if there is no such Secret."""

    async def write_authority(self, namespace: str, authority: Authority) -> bool:
        """Make the Secret; False if somebody else was first."""

    async def publish_authorities(self, namespace: str, bundle: str) -> None:
        """Make the ConfigMap say by what certificates are checked."""

    async def read_lease(self, namespace: str, name: str) -> Lease | None:
        """Return a Lease; None if there is none."""

    async def write_lease(self, namespace: str, name: str, *, holder: str, seconds: int, after: str) -> bool:
        """Take or renew a Lease that is still at version `after` ('': there is none); False if it is not."""

    async def network_available(self, node: str, why: str) -> None:
        """Clear a node's NetworkUnavailable condition."""

    async def remove_taint(self, node: str, key: str) -> None:
        """Take the taints of that key off a node."""

    async def event(self, about: Mapping[str, str], *, reason: str, message: str, warning: bool, reporter: str) -> None:
        """Write an Event about an object, given as a reference (kind, namespace, name, uid)."""


def parse_review(tree: Mapping[str, Any], audience: str) -> Review | None:
    """Return whose token a TokenReview says it is; None if it is no service account's, or not for this audience.

    An API server that knows no audiences names none, and says of every token that it is good.
    """
    status = tree.get("status") or {}
    user = status.get("user") or {}
    name = user.get("username", "")
    if not status.get("authenticated") or audience not in (status.get("audiences") or ()):
        return None
    if not name.startswith(_ACCOUNT):
        return None
    namespace, _, account = name.removeprefix(_ACCOUNT).partition(":")
    nodes = (user.get("extra") or {}).get(_NODE_OF_TOKEN) or [""]
    return Review(namespace=namespace, account=account, node=nodes[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What matters of a node."""

    name: str
    uid: str
    addresses: tuple[ipaddress.IPv6Address, ...]
    """Of type InternalIP."""

    pod_cidrs: tuple[str, ...]
    tainted: bool
    """It has our start-up taint."""

    unavailable: bool
    """Its condition NetworkUnavailable is true."""


def parse_node(tree: Mapping[str, Any]) -> NodeFacts:
    """Return what matters of a node as the API server writes it."""
    metadata, spec, status = tree["metadata"], tree.get("spec", {}), tree.get("status", {})
    addresses = [item["address"] for item in status.get("addresses") or () if item.get("type") == "InternalIP"]
    return NodeFacts(
        name=metadata["name"],
        uid=metadata["uid"],
        addresses=tuple(ipaddress.IPv6Address(address) for address in addresses if ":" in address),
        pod_cidrs=tuple(spec.get("podCIDRs") or ()),
        tainted=any(taint.get("key") == TAINT for taint in spec.get("taints") or ()),
        unavailable=any(
            item.get("type") == "NetworkUnavailable" and item.get("status") == "True"
            for item in status.get("conditions") or ()
        ),
    )
