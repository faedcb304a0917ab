# SPDX-License-Identifier: Apache-2.0
"""A real Kubernetes with ilanet: of KUBECONFIG, or one that is brought up here, once, and always removed."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from lab.kubernetes.cluster import SYSTEM, KubernetesCluster
from tests.cluster.kubectl import Kubectl
from tests.cluster.shapes import SHAPES, lab_cluster


@pytest.fixture(scope="session", params=["of KUBECONFIG"] if os.environ.get("KUBECONFIG") else list(SHAPES))
def cluster(request: pytest.FixtureRequest) -> Iterator[KubernetesCluster | None]:
    """Yield a cluster of the lab, for each of kube-proxy's modes; None where it is somebody else's."""
    if os.environ.get("KUBECONFIG"):
        yield None
        return
    with lab_cluster("k", proxy_mode=request.param, **SHAPES[request.param]) as cluster:
        cluster.start()
        yield cluster


@pytest.fixture(scope="session")
def door(cluster: KubernetesCluster | None) -> list[str]:
    """Return the words of kubectl."""
    return ["kubectl"] if cluster is None else cluster.control.words


@pytest.fixture
def ours(cluster: KubernetesCluster | None) -> KubernetesCluster:
    """Return the lab's cluster, for tests that switch machines off."""
    if cluster is None:
        pytest.skip("KUBECONFIG is of a cluster whose machines are not ours to switch off")
    return cluster


@pytest.fixture
def system(door: list[str]) -> Kubectl:
    """Return kubectl in ilanet's own namespace."""
    return Kubectl(door, SYSTEM)


@pytest.fixture
def kube(door: list[str]) -> Iterator[Kubectl]:
    """Yield kubectl in a namespace of Kubernetes of its own, removed with all that is in it."""
    yield from in_namespace(door)


@pytest.fixture
def other(door: list[str]) -> Iterator[Kubectl]:
    """Yield kubectl in one more namespace."""
    yield from in_namespace(door)


def in_namespace(door: list[str]) -> Iterator[Kubectl]:
    """Make a namespace and remove it."""
    kube = Kubectl(door, f"test-{uuid.uuid4().hex[:8]}")
    kube("create", "namespace", kube.namespace)
    try:
        yield kube
    finally:
        kube("delete", "namespace", kube.namespace, "--wait=false")  # its name is never used again
