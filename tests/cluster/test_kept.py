# SPDX-License-Identifier: Apache-2.0
"""Pods that keep their address: a StatefulSet's pod comes back on another node and is reached where it was."""

from __future__ import annotations

from typing import Any

import pytest

from lab.kubernetes.cluster import KubernetesCluster
from tests.cluster.kubectl import Kubectl, deployment, eventually, pod_spec, service, stateful_set

pytestmark = pytest.mark.timeout(300)


def test_comes_back_on_another_node_with_its_address(kube: Kubectl) -> None:
    """Deleted while its node takes no pods: it has its address elsewhere, where peers reach it, by its names too."""
    headless = service("db", clusterIP="None")
    kube.apply(stateful_set("db", 1), headless, deployment("web", replicas=len(kube.get("nodes")["items"])))
    (before,) = kube.ready("db", 1)
    peers = kube.ready("web", len(kube.get("nodes")["items"]))
    node, address = before["spec"]["nodeName"], before["status"]["podIP"]
    for peer in peers:
        assert kube.ask(peer["metadata"]["name"], address, "/hostname") == "db-0"
    kube("cordon", node)
    try:
        kube("delete", "pod", "db-0", "--wait=true")
        after = eventually(lambda: _come_back(kube, before))
    finally:
        kube("uncordon", node)
    assert after["spec"]["nodeName"] != node
    assert after["status"]["podIP"] == address
    for peer in peers:
        for host in (address, "db", "db-0.db"):  # its names need not wait for a TTL: they lead where they did
            assert kube.ask(peer["metadata"]["name"], host, "/hostname") == "db-0"


def at_node(pod: dict[str, Any], node: str) -> dict[str, Any]:
    """Return a pod with its node; whoever writes one without an owner says so."""
    return {**pod, "spec": {**pod["spec"], "nodeSelector": {"kubernetes.io/hostname": node}}}


def test_an_annotated_pod_comes_back_with_its_address(kube: Kubectl) -> None:
    """A pod that nobody owns, deleted and made again on another node: peers reach it where it was."""
    first, second, *_ = (node["metadata"]["name"] for node in kube.get("nodes")["items"])
    metadata = {"name": "kept", "labels": {"app": "kept"}, "annotations": {"ilanet.io/keep-address": "true"}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod_spec()}
    kube.apply(at_node(pod, first), deployment("web", replicas=1))
    (before,), (peer,) = kube.ready("kept", 1), kube.ready("web", 1)
    assert kube.ask(peer["metadata"]["name"], before["status"]["podIP"], "/hostname") == "kept"
    kube("delete", "pod", "kept", "--wait=true")
    kube.apply(at_node(pod, second))
    (after,) = kube.ready("kept", 1)
    assert (after["spec"]["nodeName"], after["status"]["podIP"]) == (second, before["status"]["podIP"])
    eventually(lambda: _is_at(kube, peer, before["status"]["podIP"], after))


MACHINES = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "virtualmachineinstances.kubevirt.io"},
    "spec": {
        "group": "kubevirt.io",
        "scope": "Namespaced",
        "names": {
            "plural": "virtualmachineinstances",
            "singular": "virtualmachineinstance",
            "kind": "VirtualMachineInstance",
        },
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
"""KubeVirt's kind of virtual machines, as far as Kubernetes' garbage collector asks for it."""


def test_a_virtual_machine_keeps_its_address(kube: Kubectl) -> None:
    """KubeVirt starts it again in another pod on another node: it is the owner that counts, not the pod's name."""
    first, second, *_ = (node["metadata"]["name"] for node in kube.get("nodes")["items"])
    kube.apply(MACHINES)
    kube("wait", "--for=condition=Established", f"crd/{MACHINES['metadata']['name']}", namespaced=False)  # type: ignore[index]
    machine = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance"}
    eventually(lambda: kube.apply({**machine, "metadata": {"name": "vm"}}))
    uid = kube.get("virtualmachineinstances", "vm")["metadata"]["uid"]
    kube.apply(deployment("web", replicas=1))
    (peer,) = kube.ready("web", 1)
    addresses = set()
    for number, node in enumerate((first, second)):
        metadata = {
            "name": f"virt-launcher-vm-{number}",
            "labels": {"app": "vm"},
            "ownerReferences": [{**machine, "name": "vm", "uid": uid, "controller": True}],
        }
        kube.apply(at_node({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod_spec()}, node))
        (pod,) = kube.ready("vm", 1)
        assert pod["spec"]["nodeName"] == node
        addresses.add(pod["status"]["podIP"])
        eventually(lambda pod=pod: _is_at(kube, peer, pod["status"]["podIP"], pod))  # type: ignore[misc]
        kube("delete", "pod", pod["metadata"]["name"], "--wait=true")
    assert len(addresses) == 1


def test_a_cut_off_node_does_not_win(ours: KubernetesCluster, kube: Kubectl) -> None:
    """Its pod, deleted by force, comes up elsewhere: peers reach that one, also once the node is back."""
    last = ours.lab.hosts[-1]
    others = [host.name for host in ours.lab.hosts[:-1]]
    for name in others:
        kube("cordon", name)
    try:
        kube.apply(stateful_set("db", 1))
        (before,) = kube.ready("db", 1)
    finally:
        for name in others:
            kube("uncordon", name)
    assert before["spec"]["nodeName"] == last.name
    kube("cordon", last.name)
    try:
        kube.apply(deployment("web", replicas=1))
        (peer,) = kube.ready("web", 1)
        address = before["status"]["podIP"]
        assert kube.ask(peer["metadata"]["name"], address, "/hostname") == "db-0"
        ours.lab.fabric.unplug(last)
        try:
            kube("delete", "pod", "db-0", "--force", "--grace-period=0")
            after = eventually(lambda: _come_back(kube, before))
            assert after["status"]["podIP"] == address
            eventually(lambda: _is_at(kube, peer, address, after))
        finally:
            ours.lab.fabric.plug(last)
        kube("wait", "--for=condition=Ready", f"node/{last.name}", "--timeout=90s")
        for _ in range(20):
            _is_at(kube, peer, address, after)
    finally:
        kube("uncordon", last.name)


def _is_at(kube: Kubectl, peer: dict[str, Any], address: str, pod: dict[str, Any]) -> None:
    """See that a pod, and no other of its name, answers a peer at an address.

    A peer's agent that had its mappings from an etcd on the node that is cut off hears of the new one only once its
    connection counts as dead.
    """
    said = kube.ask(peer["metadata"]["name"], address, "/shell?cmd=echo+$POD_UID")
    assert pod["metadata"]["uid"] in said


def _come_back(kube: Kubectl, before: dict[str, Any]) -> dict[str, Any]:
    pods = kube.pods("db")
    assert [pod["metadata"]["uid"] for pod in pods] != [before["metadata"]["uid"]]
    assert len(pods) == 1
    return pods[0]
