# SPDX-License-Identifier: Apache-2.0
"""The chart is sound, and its schema refuses values that would give an installation that does not work."""

from __future__ import annotations

import json

import pytest

from lab.namespace import CommandError
from tests.deploy.manifests import HELM_VALUES, Renderers, Tree


@pytest.mark.parametrize("name", HELM_VALUES)
def test_lint(name: str, renderers: Renderers) -> None:
    """`helm lint --strict` finds no fault with any set of values that an overlay stands for."""
    assert "0 chart(s) failed" in renderers.lint(HELM_VALUES[name])


EXTERNAL = {"endpoints": ["etcd.example.org:2379"], "authority": "etcd.example.org"}

BAD: list[tuple[Tree, str]] = [
    ({"unknown": 1}, "unknown"),
    ({"image": {"tag": "latest"}}, "/image/tag"),
    ({"image": {"repository": "ilanet/ilanet:0.1.0 "}}, "/image/repository"),
    ({"createNamespace": "yes"}, "/createNamespace"),
    ({"domain": {"sirPrefix": "fd00:10:244::/56"}}, "/domain/sirPrefix"),
    ({"domain": {"sirPrefix": "10.0.0.0/8"}}, "/domain/sirPrefix"),
    ({"domain": {"sirPrefix": None}}, "/domain"),
    ({"domain": {"locatorSpace": []}}, "/domain/locatorSpace"),
    ({"domain": {"locatorSpace": "fd00:c0de::/48"}}, "/domain/locatorSpace"),
    ({"domain": {"locatorSpace": ["fd00:c0de::/80"]}}, "/domain/locatorSpace/0"),
    ({"locators": {"from": "nodes"}}, "/locators/from"),
    ({"locators": {"pool": ""}}, "/locators/pool"),
    ({"locators": {"pools": "fd00:c0de::/48"}}, "pools"),
    ({"controller": {"replicas": 0}}, "/controller/replicas"),
    ({"controller": {"replicas": "2"}}, "/controller/replicas"),
    ({"controller": {"settings": {"etcd_members": 3}}}, "/controller/settings/etcd_members"),
    ({"controller": {"settings": {"sweep_grace": {"seconds": 3}}}}, "/controller/settings/sweep_grace"),
    ({"controller": {"resources": {"limits": None}}}, "/controller/resources"),
    ({"agent": {"resources": {"limits": {"memory": "1GB"}}}}, "/agent/resources/limits/memory"),
    ({"agent": {"resources": {"limits": {"cpu": 2}}}}, "/agent/resources/limits/cpu"),
    ({"agent": {"maxUnavailable": "0%"}}, "/agent/maxUnavailable"),
    ({"agent": {"settings": {"node": "me"}}}, "/agent/settings/node"),
    ({"agent": {"settings": {"next-hop": "auto"}}}, "/agent/settings"),
    ({"agent": {"settings": {"edge": [1]}}}, "/agent/settings/edge"),
    ({"etcd": {"replicas": 2}}, "/etcd/replicas"),
    ({"etcd": {"own": False}}, "/etcd/external/endpoints"),
    ({"etcd": {"own": False, "external": {**EXTERNAL, "authority": ""}}}, "/etcd/external/authority"),
    (
        {"etcd": {"own": False, "external": {**EXTERNAL, "endpoints": ["https://etcd.example.org:2379"]}}},
        "/etcd/external/endpoints/0",
    ),
    ({"etcd": {"own": False, "external": {**EXTERNAL, "endpoints": ["fd00::1:2379"]}}}, "/etcd/external/endpoints/0"),
    ({"etcd": {"own": False, "external": {**EXTERNAL, "endpoints": ["a.example:1", "b.example:1"]}}}, "/endpoints"),
    ({"etcd": {"own": False, "external": {**EXTERNAL, "endpoints": ["[fd00::1]:1", "10.0.0.1:1"]}}}, "/endpoints"),
    ({"etcd": {"own": False, "external": {**EXTERNAL, "secretName": "Etcd"}}}, "/etcd/external/secretName"),
    ({"podMonitor": {"enabled": True}}, "/podMonitor"),
    ({"networkPoliciesEnforced": 1}, "/networkPoliciesEnforced"),
]


@pytest.mark.parametrize(("values", "named"), BAD, ids=[json.dumps(values) for values, _ in BAD])
def test_bad_values(values: Tree, named: str, renderers: Renderers) -> None:
    """A wrong value is refused with the place where it stands."""
    with pytest.raises(CommandError) as refused:
        renderers.helm(values)
    assert "values don't meet the specifications of the schema" in str(refused.value)
    assert named in str(refused.value)


@pytest.mark.parametrize("values", [{"etcd": {"own": False, "external": EXTERNAL}}, {"etcd": {"replicas": 5}}])
def test_good_values(values: Tree, renderers: Renderers) -> None:
    """What the table's cases differ from is accepted."""
    assert renderers.helm(values)
