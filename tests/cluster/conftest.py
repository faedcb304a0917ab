# SPDX-License-Identifier: Apache-2.0
"""A real Kubernetes with ilanet: of KUBECONFIG, or one that is brought up here, once, and always removed."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from lab.kubernetes.cluster import KubernetesCluster
from lab.kubernetes.node import PROXY_MODES
from tests.cluster.kubectl import Kubectl


@pytest.fixture(scope="session", params=["of KUBECONFIG"] if os.environ.get("KUBECONFIG") else PROXY_MODES)
def door(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Yield the words of kubectl, for each of kube-proxy's modes where the cluster is ours."""
    if os.environ.get("KUBECONFIG"):
        yield ["kubectl"]
        return
    cluster = KubernetesCluster(name=f"k{os.getpid()}", proxy_mode=request.param, say=print)
    try:
        cluster.start()
        yield cluster.control.words
    finally:
        cluster.close()
        assert cluster.lab.leftovers() == []


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
        kube("delete", "namespace", kube.namespace, "--wait=true", "--timeout=90s")
