# SPDX-License-Identifier: Apache-2.0
"""One installation, two ways to render it, and the settings in it are such that our programs take them."""

from __future__ import annotations

import ipaddress
import json
import tomllib
from pathlib import Path

import pytest
import yaml

from agent.config import AgentConfig
from controller.config import ControllerConfig
from controller.etcd_member import MemberConfig
from ila import settings
from ila.annotations import ENFORCES, NETWORK_POLICIES
from lab.kubernetes.build_image import version
from lab.kubernetes.enforcer import IMAGE, PLACE, TABLE
from tests.deploy.manifests import CHART, DEPLOY, FOLDERS, HELM_VALUES, NAMESPACE, Renderers, containers, plain

ENVIRONMENT = {
    "NODE_NAME": "node-1",
    "HOST_IPS": "2001:db8::1",
    "POD_NAME": "ilanet-etcd-0",
    "POD_NAMESPACE": "ilanet-system",
    "ILANET_CONTROLLER_SERVICE_HOST": "fd00:10:96::7",
    "ILANET_ETCD_SERVICE_HOST": "fd00:10:96::8",
}
"""What the manifests and the kubelet give every container."""


@pytest.mark.parametrize("name", HELM_VALUES)
def test_helm_renders_the_overlay(name: str, renderers: Renderers) -> None:
    """Object by object the chart makes what kustomize makes."""
    ours = plain(renderers.kustomize(DEPLOY / name))
    theirs = plain(renderers.helm({"createNamespace": True, **HELM_VALUES[name]}))
    assert sorted(theirs) == sorted(ours)
    for key, tree in ours.items():
        assert theirs[key] == tree, key


def test_chart_without_namespace(renderers: Renderers) -> None:
    """By default the chart makes no Namespace: Helm wants it before it reads the chart."""
    assert not [tree for tree in renderers.helm({}) if tree["kind"] == "Namespace"]


def test_chart_makes_podmonitors(renderers: Renderers) -> None:
    """The chart's PodMonitors are those of the component."""
    component = list(yaml.safe_load_all((DEPLOY / "podmonitor/podmonitor.yaml").read_text()))
    made = [tree for tree in renderers.helm({"podMonitor": True}) if tree["kind"] == "PodMonitor"]
    assert plain(made) == plain(component)


@pytest.mark.parametrize("name", HELM_VALUES)
def test_settings_are_read(name: str, renderers: Renderers, tmp_path: Path) -> None:
    """Controller, agent and etcd member take the settings that they are given."""
    [texts] = [tree["data"] for tree in renderers.kustomize(DEPLOY / name) if tree["kind"] == "ConfigMap"]
    kinds = {"controller.toml": ControllerConfig, "agent.toml": AgentConfig, "etcd.toml": MemberConfig}
    assert set(texts) == set(kinds) - ({"etcd.toml"} if name == "external-etcd" else set())
    for file, text in texts.items():
        (tmp_path / file).write_text(text)
        settings.read(kinds[file], tmp_path / file, ENVIRONMENT)


def test_further_settings(renderers: Renderers, tmp_path: Path) -> None:
    """Further keys of the chart's values arrive as what they are."""
    more = {"reserve": 12, "next_hop": "gateway", "resync": 1.5, "edge": ["eth1"], "reject_mark": 0x0200_0000}
    more |= {"cni_chain": ["tuning"], "cni_sysctls": ["net.core.somaxconn=4096"]}
    trees = renderers.helm({"agent": {"settings": more}, "networkPoliciesEnforced": True})
    [texts] = [tree["data"] for tree in trees if tree["kind"] == "ConfigMap"]
    assert more.items() <= tomllib.loads(texts["agent.toml"]).items()
    assert tomllib.loads(texts["controller.toml"])["kubernetes"]["policies_enforced"] is True
    (tmp_path / "agent.toml").write_text(texts["agent.toml"])
    config = settings.read(AgentConfig, tmp_path / "agent.toml", ENVIRONMENT)
    assert (config.reserve, config.next_hop, config.edge) == (12, "gateway", ("eth1",))
    assert config.cni_sysctls == (("net.core.somaxconn", "4096"),)


def test_versions(renderers: Renderers) -> None:
    """Images and chart have the version of pyproject.toml."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version(), version())
    for name in HELM_VALUES:
        for where, _, _, container in containers(renderers.kustomize(DEPLOY / name)):
            assert container["image"] in {f"ilanet/{part}:{version()}" for part in ("ilanet", "etcd")}, where


def test_the_enforcer_is_the_tested_one(renderers: Renderers) -> None:
    """The component runs the version that the test cluster builds, by its path, and controllers know its pods."""
    trees = renderers.kustomize(FOLDERS["components"])
    [found] = [tree for tree in trees if (tree["kind"], tree["metadata"]["name"]) == ("DaemonSet", TABLE)]
    template = found["spec"]["template"]
    [container] = template["spec"]["containers"]
    assert container["image"] == IMAGE
    assert container["command"] == [f"/{PLACE}"]
    assert template["metadata"]["labels"][ENFORCES] == NETWORK_POLICIES
    assert found["metadata"]["namespace"] == NAMESPACE


def test_kind_cluster() -> None:
    """Kind's own configuration fits the overlay: no other CNI, pods told by interface, podCIDRs in locator space."""
    cluster = yaml.safe_load((DEPLOY / "kind/kind.yaml").read_text())
    [proxy] = [yaml.safe_load(patch) for patch in cluster["kubeadmConfigPatches"]]
    network = cluster["networking"]
    domain = tomllib.loads((DEPLOY / "kind/controller.toml").read_text())["domain"]
    assert network["disableDefaultCNI"] is True
    assert network["ipFamily"] == "ipv6"
    assert proxy["detectLocalMode"] == "InterfaceNamePrefix"
    assert proxy["detectLocal"] == {"interfaceNamePrefix": "ila"}
    pod_subnet = ipaddress.IPv6Network(network["podSubnet"])
    assert any(pod_subnet.subnet_of(ipaddress.IPv6Network(space)) for space in domain["locator_space"])
    sir_prefix = ipaddress.IPv6Network(domain["sir_prefix"])
    assert not any(
        sir_prefix.overlaps(ipaddress.IPv6Network(network[other])) for other in ("podSubnet", "serviceSubnet")
    )


def test_schema_knows_every_value() -> None:
    """Each value that values.yaml documents is described by the schema, and the other way round."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(schema["properties"]) - {"global"} == set(values) == set(schema["required"])
