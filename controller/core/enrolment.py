# SPDX-License-Identifier: Apache-2.0
"""Which certificate a pod of ilanet may have: decided on the reviewed token alone; pure."""

from __future__ import annotations

from collections.abc import Mapping

from controller.core.decision import Reason, Refused
from controller.core.kubernetes import NodeFacts, Review
from controller.core.pods import PodFacts
from ila.certificates import AGENT, ETCD, NODE, Leaf
from proto import ilanet_pb2 as pb

AUDIENCE = "ilanet"
"""Of the tokens that count: one that is meant for the API server, or for somebody else, does not."""

_ACCOUNTS = {
    pb.Purpose.PURPOSE_NODE: "ilanet-agent",
    pb.Purpose.PURPOSE_ETCD_READER: "ilanet-agent",
    pb.Purpose.PURPOSE_ETCD_MEMBER: "ilanet-etcd",
}


def leaf(purpose: pb.Purpose, review: Review | None, *, namespace: str, node: NodeFacts | None) -> Leaf:
    """Return what the certificate says; `node` is the one that the review names, None if Kubernetes shows none.

    Refused if the token is nobody's, its account may not have such a certificate, or it is bound to no node.
    """
    if review is None:
        raise Refused(Reason.NOT_YOURS, f"the token is no service account's, or not meant for {AUDIENCE!r}, or over")
    who = f"{review.namespace}/{review.account}"
    account = _ACCOUNTS.get(purpose)
    if account is None:
        raise Refused(Reason.MALFORMED, f"{who} asks for a certificate of unknown purpose {purpose}")
    if (review.namespace, review.account) != (namespace, account):
        what = f"a certificate {pb.Purpose.Name(purpose)} is for {namespace}/{account}"
        raise Refused(Reason.NOT_YOURS, f"{what}, not for {who}")
    if not review.node:
        raise Refused(
            Reason.NOT_YOURS, f"the token of {who} names no node: it must be of a pod, from Kubernetes 1.30 or newer"
        )
    if node is None:
        raise Refused(Reason.NOT_NOW, f"the token of {who} is of node {review.node!r}, which Kubernetes does not show")
    if purpose == pb.Purpose.PURPOSE_NODE:
        return Leaf(common_name=NODE + node.name)
    if purpose == pb.Purpose.PURPOSE_ETCD_READER:
        return Leaf(common_name=AGENT)
    return Leaf(common_name=ETCD, names=(ETCD, "localhost", "::1", *map(str, node.addresses)))


def members(pods: Mapping[str, PodFacts], nodes: Mapping[str, NodeFacts], *, count: int) -> dict[str, str]:
    """Return the address of each of etcd's `count` members, by its name; Refused while not all are on their nodes.

    `pods` are the pods `ilanet-etcd-<number>` by their names, `nodes` all nodes by theirs.
    """
    found = {}
    for number in range(count):
        name = f"{ETCD}-{number}"
        pod = pods.get(name)
        node = nodes.get(pod.node) if pod is not None else None
        if node is None or not node.addresses:
            raise Refused(Reason.NOT_NOW, f"etcd begins once all of its {count} pods are on nodes; {name} is not")
        found[name] = str(node.addresses[0])
    return found
