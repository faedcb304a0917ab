# SPDX-License-Identifier: Apache-2.0
"""deploy/external-etcd: the mapping system is an etcd outside of the cluster, with its operator's certificates."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ila.certificates import AGENT, CONTROLLER
from lab.authority import Authority
from lab.cluster import ETCD_PORTS, InHost
from lab.etcd import NAME, Place, endpoint
from lab.fabric import OUTSIDE
from lab.kubernetes.cluster import SYSTEM, KubernetesCluster
from lab.process import SOURCE
from tests.cluster.kubectl import Kubectl, deployment, eventually
from tests.cluster.operating import is_well
from tests.cluster.shapes import ON_POD_CIDRS, lab_cluster

pytestmark = pytest.mark.timeout(300)

NODES = 2


def overlay(folder: Path) -> Path:
    """Write an operator's own overlay, as deploy/README.md says: the shipped settings with his etcd in them."""
    shipped = SOURCE / "deploy/external-etcd"
    for name in ("controller.toml", "agent.toml"):
        lines = (shipped / name).read_text().splitlines()
        etcd = lines.index("[etcd]")
        for number, line in enumerate(lines[etcd:], etcd):
            if line.startswith("endpoints = ") and "2001:db8" in line:
                lines[number] = f'endpoints = ["{endpoint(OUTSIDE, ETCD_PORTS[0])}"]'
            if line.startswith("authority = "):
                lines[number] = f'authority = "{NAME}"'
        (folder / name).write_text("\n".join(lines))
    text = (
        f"resources: [{os.path.relpath(shipped, folder.resolve())}]",
        f"namespace: {SYSTEM}",
        "configMapGenerator: [{name: ilanet, behavior: merge, files: [controller.toml, agent.toml]}]",
    )
    (folder / "kustomization.yaml").write_text("\n".join(text))
    return folder


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[tuple[KubernetesCluster, InHost]]:
    """Yield one more cluster, and the etcd on the fabric's router that it is to use."""
    with lab_cluster("e", nodes=NODES, deploy=overlay(tmp_path)) as cluster:
        cluster.begin()
        authority = Authority(cluster.lab.directory / "etcd-authority")
        authority.create()
        etcd = InHost(
            directory=cluster.lab.directory / "etcd",
            places=[Place(OUTSIDE, cluster.lab.fabric.router.prefix, *ETCD_PORTS)],
            authority=authority,
            fast=True,
        )
        with etcd:
            etcd.set_up_users()
            give(cluster, authority)
            yield cluster, etcd


def give(cluster: KubernetesCluster, authority: Authority) -> None:
    """Put the operator's certificates where the pods wait for them."""
    files = {"ca.crt": authority.ca}
    for name, user in (("controller", CONTROLLER), ("agent", AGENT)):
        made = authority.client(user, common_name=user)
        files |= {f"{name}.crt": made.certificate, f"{name}.key": made.key}
    words = [f"--from-file={name}={file}" for name, file in files.items()]
    cluster.kubectl("create", "secret", "generic", "ilanet-etcd-client", "-n", SYSTEM, *words)


@ON_POD_CIDRS
@pytest.mark.usefixtures("ours")
def test_pods_by_an_etcd_of_one_s_own(outside: tuple[KubernetesCluster, InHost]) -> None:
    """All is well, no etcd of ilanet runs, and where pods are stands in the operator's."""
    cluster, etcd = outside
    cluster.wait_ready()
    door = cluster.control.words
    eventually(lambda: is_well(door))
    system = Kubectl(door, SYSTEM)
    assert system("get", "pods", "-l", "app.kubernetes.io/component=etcd", "-o", "name") == ""
    kube = Kubectl(door, "default")
    kube.apply(deployment("web", replicas=NODES))
    pods = kube.ready("web", NODES)
    for pod in pods:
        for other in pods:
            name = other["metadata"]["name"]
            assert kube.ask(pod["metadata"]["name"], other["status"]["podIP"], "/hostname") == name
    owners = etcd.ctl("get", "--prefix", "/ilanet/v1/owners/", "--keys-only")
    assert all(pod["metadata"]["uid"] in owners for pod in pods), owners
