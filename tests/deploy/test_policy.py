# SPDX-License-Identifier: Apache-2.0
"""What no manifest of ours may do, and what each must."""

from __future__ import annotations

import itertools
import tomllib

import pytest

from tests.deploy.manifests import DEPLOY, HELM_VALUES, Renderers, Tree, containers, pods

PRIVILEGED = {"apps/v1 DaemonSet ilanet-system/ilanet-agent bpffs"}
"""The one container that Kubernetes allows nothing less: only a privileged one may mount for its host."""

CAPABILITIES = {
    "apps/v1 DaemonSet ilanet-system/ilanet-agent agent": {"NET_ADMIN", "SYS_ADMIN", "BPF", "PERFMON"},
    "apps/v1 StatefulSet ilanet-system/ilanet-etcd owner": {"CHOWN"},
    "apps/v1 DaemonSet ilanet-system/kube-network-policies kube-network-policies": {"NET_ADMIN"},
}
"""Who has any; the others have none."""

ROOT = {*PRIVILEGED, *CAPABILITIES}
"""Who may be user 0."""

WITH_TOKEN = {
    "apps/v1 Deployment ilanet-system/ilanet-controller",
    "apps/v1 DaemonSet ilanet-system/kube-network-policies",
}
"""Who speaks to the API server."""

RIGHTS = {
    "ClusterRole pods": {"list", "watch"},
    "ClusterRole nodes": {"get", "list", "watch", "patch"},
    "ClusterRole nodes/status": {"patch"},
    "ClusterRole events": {"create"},
    "ClusterRole statefulsets.apps": {"list", "watch"},
    "ClusterRole networkpolicies.networking.k8s.io": {"list", "watch"},
    "ClusterRole tokenreviews.authentication.k8s.io": {"create"},
    "Role secrets": {"create"},
    "Role secrets ilanet-ca": {"get"},
    "Role configmaps": {"create"},
    "Role configmaps ilanet-ca": {"get", "update"},
    "Role leases.coordination.k8s.io": {"create"},
    "Role leases.coordination.k8s.io ilanet-controller": {"get", "update"},
}
"""What controllers may do: the calls of controller/kube.py, and nothing else."""

WRITABLE = {
    "apps/v1 DaemonSet ilanet-system/ilanet-agent": {
        "/sys/fs/bpf",
        "/run/netns",
        "/run/ilanet",
        "/var/lib/ilanet",
        "/opt/cni/bin",
        "/etc/cni/net.d",
        "/proc/sys/net",
    },
    "apps/v1 StatefulSet ilanet-system/ilanet-etcd": {"/var/lib/ilanet-etcd"},
}
"""Folders of the host by workload."""

PRIORITY = {
    "ilanet-agent": "system-node-critical",
    "ilanet-controller": "system-cluster-critical",
    "ilanet-etcd": "system-cluster-critical",
    "kube-network-policies": "system-node-critical",
}
"""What is evicted last, by workload."""

READ_BY_PODS = {9475, 9476}
"""Metrics and health, of agents and controllers."""

CONTROL_PORT = 7444
"""Of UDP, where agents answer each other; in no manifest, since nothing there asks for it."""

OWN_ETCD = {2379, 2380, 2381}
"""Closed too where the operator brings an etcd, which may run on a node as well."""


def test_rbac_names_everything(objects: list[Tree]) -> None:
    """No wildcard, no right to escalate, and Secrets only by name but for their creation."""
    for tree in objects:
        for rule in tree.get("rules", []) if tree["kind"] in {"Role", "ClusterRole"} else []:
            for part in ("apiGroups", "resources", "verbs"):
                assert rule[part], (tree["metadata"]["name"], rule)
                assert not [word for word in rule[part] if "*" in word], (tree["metadata"]["name"], rule)
            assert not {"escalate", "bind", "impersonate", "deletecollection"} & set(rule["verbs"])
            if "secrets" in rule["resources"]:
                assert tree["kind"] == "Role"
                assert rule["verbs"] == ["create"] or rule["resourceNames"] == ["ilanet-ca"]


def test_rights_of_controllers(objects: list[Tree]) -> None:
    """As many as they use; nobody else of ours has any but who enforces policies."""
    found: dict[str, set[str]] = {}
    for tree in objects:
        if tree["kind"] in {"Role", "ClusterRole"} and tree["metadata"]["name"] == "ilanet-controller":
            for rule in tree["rules"]:
                places = itertools.product(rule["resources"], rule["apiGroups"], rule.get("resourceNames", [""]))
                for resource, group, name in places:
                    where = f"{resource}.{group}".rstrip(".")
                    found.setdefault(f"{tree['kind']} {where} {name}".rstrip(), set()).update(rule["verbs"])
    roles = {tree["metadata"]["name"] for tree in objects if tree["kind"] in {"Role", "ClusterRole"}}
    assert roles <= {"ilanet-controller", "ilanet-kube-network-policies"}
    assert found == (RIGHTS if "ilanet-controller" in roles else {})


def test_images_are_pinned(objects: list[Tree]) -> None:
    """Every image has a tag that says what it is, and is fetched only if it is not there."""
    for where, _, _, container in containers(objects):
        name, colon, tag = container["image"].rpartition(":")
        assert colon, where
        assert name, where
        assert tag != "latest", where
        assert container["imagePullPolicy"] == "IfNotPresent", where


def test_probes(objects: list[Tree]) -> None:
    """What serves has probes, and etcd waits for its sidecar by one."""
    for where, kind, _, container in containers(objects):
        wanted = {"main": {"livenessProbe", "readinessProbe"}, "sidecar": {"startupProbe"}, "init": set()}[kind]
        assert wanted <= container.keys(), where


def test_resources(objects: list[Tree]) -> None:
    """Every container asks for something and is bounded."""
    for where, _, _, container in containers(objects):
        for part in ("requests", "limits"):
            assert container["resources"][part].keys() == {"cpu", "memory"}, where


def test_least_privilege(objects: list[Tree]) -> None:
    """Capabilities are dropped but for those listed here, roots are read-only, seccomp is on."""
    for where, _, pod, container in containers(objects):
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True, where
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert "seccompProfile" not in security, where
        assert security.get("privileged", False) is (where in PRIVILEGED), where
        if where in PRIVILEGED:
            continue
        assert security["allowPrivilegeEscalation"] is False, where
        assert security["capabilities"]["drop"] == ["ALL"], where
        assert set(security["capabilities"].get("add", [])) == CAPABILITIES.get(where, set()), where


def test_who_is_root(objects: list[Tree]) -> None:
    """Every container but the listed ones runs as another user, and says so to the kubelet."""
    for where, _, pod, container in containers(objects):
        user = container["securityContext"].get("runAsUser", pod["securityContext"].get("runAsUser"))
        must = container["securityContext"].get("runAsNonRoot", pod["securityContext"].get("runAsNonRoot", False))
        assert (bool(user) and must) or where in ROOT, where


def test_tokens(objects: list[Tree]) -> None:
    """Only who speaks to the API server gets a token for it, and no account gives one by itself."""
    for name, pod in pods(objects):
        assert pod["automountServiceAccountToken"] is (name in WITH_TOKEN), name
    for tree in objects:
        if tree["kind"] == "ServiceAccount":
            assert tree["automountServiceAccountToken"] is False, tree["metadata"]["name"]


def test_folders_of_the_host(objects: list[Tree]) -> None:
    """A pod sees those folders of the host that are listed here, none above them."""
    for name, pod in pods(objects):
        seen = {volume["hostPath"]["path"] for volume in pod.get("volumes", []) if "hostPath" in volume}
        assert seen == WRITABLE.get(name, set()), name
        assert not pod.get("hostPID", False), name
        assert not pod.get("hostIPC", False), name


def test_starts_without_a_pod_network(objects: list[Tree]) -> None:
    """Nothing of ours waits for what it brings: host network, every taint tolerated, no cluster DNS."""
    for name, pod in pods(objects):
        assert pod["hostNetwork"] is True, name
        assert pod["tolerations"] == [{"operator": "Exists"}], name
        assert pod.get("dnsPolicy", "Default") == "Default", name
        assert pod["priorityClassName"] == PRIORITY[name.rpartition("/")[2]], name


@pytest.mark.parametrize("name", HELM_VALUES)
def test_how_many_run_and_how_they_are_replaced(name: str, renderers: Renderers) -> None:
    """Agents are replaced by tenths, of two controllers one is there, and etcd has as many members as is said."""
    trees = renderers.kustomize(DEPLOY / name)
    specs = {tree["metadata"]["name"]: tree["spec"] for tree in trees if "template" in tree.get("spec", {})}
    [data] = [tree["data"] for tree in trees if tree["kind"] == "ConfigMap"]
    members = tomllib.loads(data["controller.toml"])["kubernetes"].get("etcd_members", 0)
    assert specs["ilanet-agent"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": "10%"}
    assert specs["ilanet-controller"]["replicas"] == 2
    assert specs["ilanet-controller"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}
    assert ("ilanet-etcd" in specs) is (members > 0)
    if members:
        assert specs["ilanet-etcd"]["replicas"] == members


@pytest.mark.parametrize("name", HELM_VALUES)
def test_what_mounts_pass_on(name: str, renderers: Renderers) -> None:
    """The bpffs that the init container mounts becomes the host's; pods' namespaces come in while the agent runs."""
    passed = {
        f"{where.rpartition(' ')[2]} {mount['mountPath']}": mount["mountPropagation"]
        for where, _, _, container in containers(renderers.kustomize(DEPLOY / name))
        for mount in container.get("volumeMounts", [])
        if "mountPropagation" in mount
    }
    assert passed == {
        "bpffs /sys/fs/bpf": "Bidirectional",
        "agent /sys/fs/bpf": "HostToContainer",
        "agent /run/netns": "HostToContainer",
    }


def test_environment(objects: list[Tree]) -> None:
    """Every container of ours knows its node, its addresses and its pod: settings may name them."""
    for where, _, _, container in containers(objects):
        if container["image"].startswith("ilanet/"):
            names = {entry["name"] for entry in container["env"]}
            assert names == {"NODE_NAME", "HOST_IPS", "POD_NAME", "POD_NAMESPACE"}, where


@pytest.mark.parametrize("name", HELM_VALUES)
def test_host_ports_do_not_meet(name: str, renderers: Renderers) -> None:
    """All share the host's ports, so none is declared twice, and each but metrics and health is closed to pods."""
    trees = renderers.kustomize(DEPLOY / name)
    ports = [port for *_, container in containers(trees) for port in container.get("ports", [])]
    numbers = [port["hostPort"] for port in ports]
    assert len(numbers) == len(set(numbers))
    assert all(port["hostPort"] == port["containerPort"] for port in ports)
    [data] = [tree["data"] for tree in trees if tree["kind"] == "ConfigMap"]
    agent, controller = (tomllib.loads(data[f"{part}.toml"]) for part in ("agent", "controller"))
    here = {*numbers, agent.get("control_port", CONTROL_PORT)} - READ_BY_PODS
    elsewhere = OWN_ETCD if name == "external-etcd" else set()
    assert set(controller["closed_ports"]) == here | elsewhere
    assert here & OWN_ETCD == OWN_ETCD - elsewhere
