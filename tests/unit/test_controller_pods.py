# SPDX-License-Identifier: Apache-2.0
"""Who may have what, as far as pods and nodes as Kubernetes shows them decide it."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

import pytest

from controller.core import nodes
from controller.core.decision import Reason, Refused
from controller.core.kubernetes import parse_node, parse_review
from controller.core.pods import ASK_FIRST, Pods, judge, parse_pod, wanted_address
from controller.core.registration import Registration
from ila.address import Locator
from ila.domain import Domain
from ila.mapping import Generation
from tests.fakes_kubernetes import node, of_set, pod

ONE = Registration(
    node="n1", address=ipaddress.IPv6Address("fd00:a::1"), port=7444, declared=None, highest=Generation(0, 0)
)


STATIC = "0123456789abcdef0123456789abcdef"
"""The uid of a static pod of n1."""


def mirror(
    name: str, *, hash_: str = STATIC, said: str = "", node: str = "n1", controller: bool = True, **more: str
) -> dict[str, Any]:
    """Return the mirror of a static pod of n1, or what pretends to be one."""
    return pod(
        name,
        node=node,
        annotations={"kubernetes.io/config.hash": hash_, "kubernetes.io/config.mirror": said or hash_},
        ownerReferences=[{"kind": "Node", "name": "n1", "uid": "uid-n1", "controller": controller}],
        **more,
    )


@pytest.mark.parametrize(
    ("tree", "owner"),
    [
        (pod("web-5f7c9"), "uid/uid-web-5f7c9"),
        (pod("web-0", ownerReferences=of_set("web")), "name/ns/web-0"),
        (pod("web-0", ownerReferences=[{**of_set("web")[0], "controller": False}]), "uid/uid-web-0"),
        (pod("one", annotations={"ilanet.io/keep-address": "true"}), "name/ns/one"),
        (pod("one", annotations={"ilanet.io/keep-address": "false"}), "uid/uid-one"),
        (pod("one", annotations={"ilanet.io/address": "fd00::1"}), "name/ns/one"),
        (
            pod("virt-launcher-vm-x2", ownerReferences=[{"kind": "VirtualMachineInstance", "name": "vm"}]),
            "machine/ns/vm",
        ),
        (mirror("etcd-n1"), f"uid/{STATIC}"),
        (mirror("evil", hash_="uid-victim"), "uid/uid-evil"),
        (mirror("evil", said="another"), "uid/uid-evil"),
        (mirror("evil", node="n2"), "uid/uid-evil"),
        (mirror("evil", controller=False), "uid/uid-evil"),
        (pod("evil", annotations={"kubernetes.io/config.hash": STATIC}), "uid/uid-evil"),
    ],
)
def test_whose_an_identifier_is(tree: dict[str, Any], owner: str) -> None:
    """A pod's own, or that of whoever keeps it under its name; a static pod's uid is not its mirror's, only there."""
    assert str(parse_pod(tree).owner) == owner


def pods(*trees: dict[str, Any]) -> Pods:
    found = Pods()
    for tree in trees:
        found.put(parse_pod(tree))
    return found


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"node": "n2"}, "is bound to node 'n1', not to 'n2'"),
        ({"name": "other"}, "is ns/web, not ns/other"),
        ({"namespace": "theirs"}, "is ns/web, not theirs/web"),
    ],
)
def test_a_node_speaks_for_its_own_pods_only(asked: dict[str, str], reason: str) -> None:
    """A captured node gets nothing of another's pod, and a uid is worth nothing under another name."""
    known = pods(pod("web"))
    request = {"node": "n1", "namespace": "ns", "name": "web", "uid": "uid-web"}
    assert judge(known, **request) is known.of_uid("uid-web")
    with pytest.raises(Refused, match=reason):
        judge(known, **{**request, **asked})


@pytest.mark.parametrize("uid", ["uid-web", STATIC])
@pytest.mark.parametrize("first", [True, False])
def test_nobody_takes_a_uid_by_writing_it(uid: str, first: bool) -> None:  # noqa: FBT001 - of the table
    """Its pod is still found, another node gets nothing of it, and a thief that goes takes nothing along."""
    victim = pod("web") if uid == "uid-web" else mirror("web", creationTimestamp="2026-01-01T00:00:00Z")
    thief = mirror("thief", hash_=uid, namespace="a", node="n2", creationTimestamp="2026-01-02T00:00:00Z")
    thief["metadata"]["ownerReferences"][0]["name"] = "n2"
    known = pods(*((thief, victim) if first else (victim, thief)))
    found = judge(known, node="n1", namespace="ns", name="web", uid=uid)
    assert found == parse_pod(victim)
    with pytest.raises(Refused, match=f"the pod with uid '{uid}' is ns/web, not a/thief"):
        judge(known, node="n2", namespace="a", name="thief", uid=uid)
    known.put(parse_pod({**victim, "status": {"phase": "Failed"}}))
    assert str(known.of_uid(uid)) == "ns/web"
    known.remove("a", "thief")
    assert known.of_uid(uid) is not None
    assert [str(one) for one in known.of_owner(found.owner)] == ["ns/web"]


def test_what_is_not_there_yet() -> None:
    """A pod that is not heard of, or not bound: perhaps a moment later."""
    known = pods(pod("new", node=""))
    assert judge(known, node="n1", namespace="ns", name="new", uid="uid-new") is None
    assert judge(known, node="n1", namespace="ns", name="web", uid="uid-web") is None


def test_pods_by_their_owner() -> None:
    """Two pods of one virtual machine; one that is replaced under its name leaves nothing behind."""
    reference = [{"kind": "VirtualMachineInstance", "name": "vm"}]
    known = pods(pod("a", ownerReferences=reference), pod("b", ownerReferences=reference))
    owner = parse_pod(pod("a", ownerReferences=reference)).owner
    assert {item.name for item in known.of_owner(owner)} == {"a", "b"}
    known.put(parse_pod(pod("a", uid="second")))
    assert [item.name for item in known.of_owner(owner)] == ["b"]
    assert known.of_uid("uid-a") is None
    known.remove("ns", "a")
    known.remove("ns", "b")
    known.remove("ns", "b")
    assert (len(known), known.of_owner(owner), known.of_uid("second")) == (0, [], None)


def test_an_address_that_is_none() -> None:
    """The pod, the annotation and its text are named."""
    assert wanted_address(parse_pod(pod("web"))) is None
    facts = parse_pod(pod("web", annotations={"ilanet.io/address": "10.0.0.300"}))
    with pytest.raises(Refused, match=r"pod ns/web: annotation ilanet\.io/address '10\.0\.0\.300'"):
        wanted_address(facts)


def test_a_node_cannot_say_another_address() -> None:
    """Nor speak where Kubernetes has no such node."""
    assert nodes.checked(ONE, parse_node(node("n1")), by_pod_cidr=False) == ONE
    with pytest.raises(Refused, match="internal addresses are fd00:a::2"):
        nodes.checked(ONE, parse_node(node("n1", "fd00:a::2")), by_pod_cidr=False)
    with pytest.raises(Refused, match="internal addresses are none of IPv6"):
        nodes.checked(ONE, parse_node(node("n1", "10.0.0.1")), by_pod_cidr=False)
    with pytest.raises(Refused, match="does not show node 'n1'"):
        nodes.checked(ONE, None, by_pod_cidr=False)


@pytest.mark.parametrize(
    ("cidrs", "reason"),
    [
        ([], "no podCIDR of IPv6: run the controller manager"),
        (["10.0.0.0/24"], "no podCIDR of IPv6"),
        (["10.0.0.0/24", "fd00:c0de:0:4::/80"], "podCIDR fd00:c0de:0:4::/80 of node 'n1' is no /64"),
    ],
)
def test_pod_cidrs_that_are_no_locator(cidrs: list[str], reason: str) -> None:
    """The refusal says what to do."""
    with pytest.raises(Refused, match=reason):
        nodes.checked(ONE, parse_node(node("n1", podCIDRs=cidrs)), by_pod_cidr=True)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("fd00:10:244::1", "SIR prefix fd00:10:244::/64 overlaps with what the cluster uses: fd00:10:244::1 is it's"),
        ("fd00:c0de:0:96::1", "locator space fd00:c0de::/48 overlaps"),
        ("fd00:10:96::1", ""),
        ("10.96.0.1", ""),
        ("None", ""),
    ],
)
def test_prefixes_must_be_free(address: str, reason: str) -> None:
    """Before anything is given to anybody."""
    domain = Domain.parse(sir_prefix="fd00:10:244::/64", locator_space=["fd00:c0de::/48"], checksum_mode="neutral-map")
    if not reason:
        nodes.check_free(domain, {"it": address})
        return
    with pytest.raises(Refused, match=reason) as refused:
        nodes.check_free(domain, {"another": "fd00::1", "it": address})
    assert refused.value.reason is Reason.MISCONFIGURED


def test_services_are_in_the_environment() -> None:
    """That of the API server, and our own, which are of IPv6 also where Services are of IPv4 first."""
    environment = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "ILANET_ETCD_SERVICE_HOST": "fd00::1", "HOME": "/"}
    assert nodes.addresses_of_services(environment) == {
        "Service kubernetes": "10.0.0.1",
        "Service ilanet-etcd": "fd00::1",
    }


def test_a_pod_cidr_is_the_locator() -> None:
    """That of IPv6 among both families."""
    there = parse_node(node("n1", podCIDRs=["10.0.0.0/24", "fd00:c0de:0:4::/64"]))
    assert nodes.checked(ONE, there, by_pod_cidr=True).declared == Locator.parse("fd00:c0de:0:4::/64")


@pytest.mark.parametrize(
    ("name", "asks"), [("web-0", True), ("web-12", True), ("web-5f7c9d-x2x4k", False), ("0", False)]
)
def test_names_that_ask_first(name: str, asks: bool) -> None:  # noqa: FBT001 - of the table
    """Those of StatefulSets' pods, not those of Deployments'."""
    assert any(re.fullmatch(pattern, name) for pattern in ASK_FIRST) is asks


def test_whose_a_token_is() -> None:
    """A service account's with its node, or nobody's."""
    user = {
        "username": "system:serviceaccount:ilanet-system:ilanet-agent",
        "extra": {"authentication.kubernetes.io/node-name": ["n1"]},
    }
    status = {"authenticated": True, "audiences": ["ilanet"], "user": user}
    review = parse_review({"status": status}, "ilanet")
    assert review is not None
    assert (review.namespace, review.account, review.node) == ("ilanet-system", "ilanet-agent", "n1")
    assert parse_review({"status": {**status, "authenticated": False}}, "ilanet") is None
    assert parse_review({"status": {**status, "user": {"username": "admin"}}}, "ilanet") is None


@pytest.mark.parametrize("audiences", [{}, {"audiences": None}, {"audiences": ["https://kubernetes.default.svc"]}])
def test_a_token_for_somebody_else_is_nobody_s(audiences: dict[str, Any]) -> None:
    """The API server's word that it is good does not say for whom."""
    user = {"username": "system:serviceaccount:ilanet-system:ilanet-agent"}
    assert parse_review({"status": {"authenticated": True, "user": user, **audiences}}, "ilanet") is None
