# SPDX-License-Identifier: Apache-2.0
"""The shapes of the lab's clusters, by kube-proxy's mode; and where a test runs that needs no more than one of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest

from lab.kubernetes.cluster import KubernetesCluster
from lab.process import SOURCE

NFTABLES, IPTABLES = "nftables", "iptables"

SHAPES: dict[str, dict[str, Any]] = {
    NFTABLES: {"deploy": SOURCE / "deploy/own-etcd-ha", "control_planes": 3, "firewall": True},
    IPTABLES: {"deploy": SOURCE / "deploy/kind"},
}
"""A pool of locators, three members of etcd and hosts with a firewall; or podCIDRs and one member."""

ON_POOL = pytest.mark.parametrize("cluster", [NFTABLES], indirect=True, scope="session")
"""Run it once, with the pool and several members."""

ON_POD_CIDRS = pytest.mark.parametrize("cluster", [IPTABLES], indirect=True, scope="session")
"""Run it once, with podCIDRs.  What could run with either is spread so that both take about as long."""


@contextlib.contextmanager
def lab_cluster(initial: str, **shape: Any) -> Iterator[KubernetesCluster]:
    """Yield a cluster of the lab that is not up yet, and remove every trace of it; `initial` begins its name."""
    cluster = KubernetesCluster(name=f"{initial}{os.getpid()}", say=print, **shape)
    try:
        yield cluster
    finally:
        cluster.close()
        assert cluster.lab.leftovers() == []
