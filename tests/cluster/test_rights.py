# SPDX-License-Identifier: Apache-2.0
"""Who may have what: a captured node, an author of pods in another namespace, a pod that dials everything."""

from __future__ import annotations

import ipaddress
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ila.annotations import ADDRESS
from lab.kubernetes.cluster import SYSTEM, TEST_IMAGE
from tests.cluster.kubectl import Kubectl, deployment, eventually, pod_spec, stateful_set
from tests.cluster.operating import agent_of, asked

pytestmark = pytest.mark.timeout(300)

CAPTURED = Path(__file__).parent / "captured_node.py"
IMAGE = "ilanet/ilanet:0.1.0"

OF_UDP = {7444}
"""Closed ports at which nobody listens for TCP."""


def described(pod: dict[str, Any]) -> dict[str, str]:
    """Return what a runtime tells of a pod."""
    metadata = pod["metadata"]
    return {name: metadata[name] for name in ("namespace", "name", "uid")}


def identifier(pod: dict[str, Any]) -> int:
    """Return who a pod is."""
    return int(ipaddress.IPv6Address(pod["status"]["podIP"])) & (1 << 64) - 1


def node_pod(name: str, node: str, told: dict[str, Any]) -> dict[str, object]:
    """Return a pod with all that an agent's pod on this node has: its account, its token, its network."""
    tokens = [{"path": "token", "audience": "ilanet"}, {"path": "api"}]
    fields = {"HOST_IPS": "status.hostIPs", "NODE_NAME": "spec.nodeName"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": SYSTEM},
        "spec": {
            "nodeName": node,
            "hostNetwork": True,
            "restartPolicy": "Never",
            "serviceAccountName": "ilanet-agent",
            "automountServiceAccountToken": False,
            "tolerations": [{"operator": "Exists"}],
            "containers": [
                {
                    "name": "captured",
                    "image": IMAGE,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python", "-c", CAPTURED.read_text(), json.dumps(told)],
                    "env": [
                        {"name": key, "valueFrom": {"fieldRef": {"fieldPath": path}}} for key, path in fields.items()
                    ],
                    "volumeMounts": [
                        {"name": "authority", "mountPath": "/etc/ilanet-ca"},
                        {"name": "token", "mountPath": "/var/run/secrets/ilanet"},
                    ],
                }
            ],
            "volumes": [
                {"name": "authority", "configMap": {"name": "ilanet-ca"}},
                {"name": "token", "projected": {"sources": [{"serviceAccountToken": one} for one in tokens]}},
            ],
        },
    }


def test_a_captured_node(kube: Kubectl) -> None:
    """Its account and certificates are worth its own pods, and nothing of another node's."""
    nodes = kube.get("nodes")["items"]
    kube.apply(deployment("web", replicas=len(nodes)))
    pods = {pod["spec"]["nodeName"]: pod for pod in kube.ready("web", len(nodes))}
    here, there = sorted(pods)[-2:]
    address = next(node for node in nodes if node["metadata"]["name"] == there)["status"]["addresses"][0]["address"]
    told = {
        "self": here,
        "other": there,
        "mine": described(pods[here]),
        "theirs": described(pods[there]),
        "identifier": identifier(pods[there]),
        "address": address,
    }
    name = f"captured-{kube.namespace}"
    system = Kubectl(kube.words, SYSTEM)
    system.apply(node_pod(name, here, told))
    try:

        def ended() -> dict[str, str]:
            pod = system.get("pod", name)
            assert pod["status"]["phase"] in ("Succeeded", "Failed"), pod["status"]
            found: dict[str, str] = json.loads(system("logs", name).splitlines()[-1])
            return found

        said = eventually(ended)
    finally:
        system("delete", "pod", name, "--wait=false", "--grace-period=0")
    wanted = {
        "the API server, with this token": "401",
        "a member's certificate": "PERMISSION_DENIED: a certificate PURPOSE_ETCD_MEMBER is for",
        "any certificate, with no token": "PERMISSION_DENIED: the token is no service account's",
        "any certificate, with a token for the API server": "PERMISSION_DENIED: the token is no service account's",
        "registering the other node": f"PERMISSION_DENIED: the certificate of 'ilanet:node:{here}' may not act for",
        "another node's address": f"PERMISSION_DENIED: address {address} is none of node '{here}'",
        "the other node's pod, as that node": f"PERMISSION_DENIED: the certificate of 'ilanet:node:{here}'",
        "the other node's pod": f"PERMISSION_DENIED: pod {kube.namespace}/{pods[there]['metadata']['name']} is bound",
        "its identifier, for a pod of ours": "ALREADY_EXISTS: identifier",
        "a pod that is not there": "FAILED_PRECONDITION: Kubernetes does not show pod x/x",
        "a pod of ours under another name": "PERMISSION_DENIED: the pod with uid",
        "the other node's reserve": "PERMISSION_DENIED",
        "the other node's report": "PERMISSION_DENIED",
        "a release of the other's pod": "PERMISSION_DENIED",
        "reading mappings": "OK",
        "writing a mapping": "PERMISSION_DENIED: etcdserver: permission denied",
        "reading owners": "PERMISSION_DENIED: etcdserver: permission denied",
        "writing to etcd as the node": "PERMISSION_DENIED",
    }
    assert said.keys() == wanted.keys()
    assert {name: said[name] for name in wanted if not said[name].startswith(wanted[name])} == {}
    for pod in pods.values():
        assert kube.ask(pods[here]["metadata"]["name"], pod["status"]["podIP"], "/hostname") == pod["metadata"]["name"]


def test_an_address_belongs_to_its_namespace(kube: Kubectl, other: Kubectl) -> None:
    """Another namespace's author gets an Event instead of the address; the own one gets it, once it is released."""
    kube.apply(stateful_set("db", 1))
    (pod,) = kube.ready("db", 1)
    address = pod["status"]["podIP"]
    kube("delete", "statefulset", "db", "--wait=true")
    eventually(lambda: _gone(kube, "db-0"))
    thief = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "thief", "labels": {"app": "thief"}, "annotations": {ADDRESS: address}},
        "spec": pod_spec(),
    }
    other.apply(thief)

    def refused() -> str:
        events = other.get("events", "--field-selector=involvedObject.name=thief,reason=IlanetRefused")["items"]
        assert events
        return str(events[0]["message"])

    assert f"is not kept in namespace '{other.namespace}'" in eventually(refused)
    assert other.pods("thief") == []
    kube.apply({**thief, "metadata": {**thief["metadata"], "name": "heir", "labels": {"app": "heir"}}})  # type: ignore[dict-item]
    (heir,) = kube.ready("heir", 1)
    assert heir["status"]["podIP"] == address


def test_a_uid_is_not_had_by_writing_it(kube: Kubectl, other: Kubectl) -> None:
    """A pod that says it shows a static pod, with another's uid, is one of its own; the other stays what it was."""
    kube.apply(deployment("web", replicas=1))
    (pod,) = kube.ready("web", 1)
    told = {"kubernetes.io/config.hash": pod["metadata"]["uid"]}
    metadata = {"name": "thief", "labels": {"app": "thief"}, "annotations": told}
    other.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod_spec()})
    (thief,) = other.ready("thief", 1)
    assert thief["status"]["podIP"] != pod["status"]["podIP"]
    assert other.ask("thief", pod["status"]["podIP"], "/hostname") == pod["metadata"]["name"]


def _gone(kube: Kubectl, name: str) -> None:
    assert name not in [pod["metadata"]["name"] for pod in kube.get("pods")["items"]]


def test_a_pod_that_dials_everything(kube: Kubectl) -> None:
    """Nothing of ilanet answers a pod: not by Services, not on any node; and the CNI socket is not there."""
    kube.apply(deployment("web", replicas=1), host_pod("host"))
    (pod,), (host,) = kube.ready("web", 1), kube.ready("host", 1)
    name, node = pod["metadata"]["name"], pod["status"]["hostIP"]
    system = Kubectl(kube.words, SYSTEM)
    services = [item["spec"]["clusterIP"] for item in system.get("services")["items"]]
    nodes = [item["status"]["addresses"][0]["address"] for item in kube.get("nodes")["items"]]
    assert services
    closed = closed_ports(system)
    assert opened(kube, name, [*services, *nodes], closed) == set()
    assert opened(kube, host["metadata"]["name"], nodes, closed) == closed - OF_UDP
    before = refused(system, pod["spec"]["nodeName"])
    words = [f"/agnhost connect [{node}]:{port} --protocol=udp --timeout=1s 2>&1 &" for port in closed]
    kube.shell(name, " ".join(words) + " wait")
    assert refused(system, pod["spec"]["nodeName"]) >= before + len(closed)
    assert kube.shell(name, f"nc -w 5 {nodes[0]} 10250 </dev/null && echo open").strip() == "open"
    assert kube.shell(name, "ls /run/ilanet 2>&1 || :").strip().endswith("No such file or directory")


def closed_ports(system: Kubectl) -> set[int]:
    """Return what the controllers' settings close to pods."""
    volumes = system.get("deployment", "ilanet-controller")["spec"]["template"]["spec"]["volumes"]
    (settings,) = [volume["configMap"]["name"] for volume in volumes if volume["name"] == "settings"]
    return set(tomllib.loads(system.get("configmap", settings)["data"]["controller.toml"])["closed_ports"])


def opened(kube: Kubectl, pod: str, hosts: list[str], ports: set[int]) -> set[int]:
    """Return the ports of TCP that a pod can connect to at any of these addresses."""
    words = [f"(nc -w 3 {host} {port} </dev/null && echo {port}) &" for host in hosts for port in ports]
    return set(map(int, kube.shell(pod, " ".join(words) + " wait").split()))


def refused(system: Kubectl, node: str) -> int:
    """Return how many packets of its pods to closed ports a node has dropped."""
    told = asked(system, agent_of(system, node), 9475, "/metrics")
    assert "ilanet_verdict_packets_total" in told
    return sum(int(float(count)) for count in re.findall(r'verdict_packets_total\{.*"closed_port".*\} (\S+)', told))


def host_pod(name: str) -> dict[str, object]:
    """Return a pod that sees a host's network and listens nowhere."""
    container = {"name": "host", "image": TEST_IMAGE, "imagePullPolicy": "Never", "args": ["pause"]}
    spec = {"hostNetwork": True, "terminationGracePeriodSeconds": 0, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}
