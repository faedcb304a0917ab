# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus finds agents and controllers by their annotations, and is content with what they say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from lab.kubernetes.cluster import SYSTEM, KubernetesCluster
from lab.namespace import run
from lab.process import SOURCE, Process
from tests.cluster.kubectl import Kubectl, eventually

pytestmark = pytest.mark.timeout(300)

PLACE = "[::1]:19090"
_ANNOTATION = "__meta_kubernetes_pod_annotation_prometheus_io"
RELABEL = [
    {"source_labels": [f"{_ANNOTATION}_scrape"], "regex": "true", "action": "keep"},
    {"source_labels": [f"{_ANNOTATION}_path"], "target_label": "__metrics_path__"},
    {
        "source_labels": ["__meta_kubernetes_pod_ip", f"{_ANNOTATION}_port"],
        "regex": "(.+);(.+)",
        "replacement": "[$1]:$2",
        "target_label": "__address__",
    },
    {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
    {"source_labels": ["__meta_kubernetes_pod_node_name"], "target_label": "node"},
]
"""What everybody's Prometheus does with these annotations."""


def discovered(kube: Kubectl) -> list[dict[str, Any]]:
    """Return every pod as Prometheus' discovery in Kubernetes describes it: Debian builds it without."""
    found = []
    for pod in kube.get("pods", "--all-namespaces")["items"]:
        labels = {
            "__meta_kubernetes_pod_ip": pod["status"]["podIP"],
            "__meta_kubernetes_pod_name": pod["metadata"]["name"],
            "__meta_kubernetes_pod_node_name": pod["spec"]["nodeName"],
        }
        for name, value in pod["metadata"].get("annotations", {}).items():
            labels["__meta_kubernetes_pod_annotation_" + re.sub(r"[^a-zA-Z0-9_]", "_", name)] = value
        found.append({"targets": [f"[{pod['status']['podIP']}]:1"], "labels": labels})
    return found


@pytest.fixture
def prometheus(ours: KubernetesCluster, kube: Kubectl, tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """Run it on the first host, and yield the words of a question to it."""
    (tmp_path / "pods.json").write_text(json.dumps(discovered(kube)))
    job = {
        "job_name": "pods",
        "file_sd_configs": [{"files": [str(tmp_path / "pods.json")]}],
        "relabel_configs": RELABEL,
    }
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))
    prefix = ours.lab.hosts[0].namespace.prefix
    command = (
        *(*prefix, "prometheus", f"--config.file={tmp_path / 'prometheus.yml'}"),
        *(f"--storage.tsdb.path={tmp_path / 'data'}", f"--web.listen-address={PLACE}"),
    )
    process = Process(name="prometheus", command=command, directory=tmp_path)
    process.start()
    try:
        yield (*prefix, "curl", "-sf", "--max-time", "5")
    finally:
        process.stop()


def test_it_scrapes_every_agent_and_controller(prometheus: tuple[str, ...], kube: Kubectl) -> None:
    """All are up; what was measured is there, by node."""
    system = Kubectl(kube.words, SYSTEM)
    pods = system.get("pods", "-l", "app.kubernetes.io/component in (agent, controller)")["items"]
    names = {pod["metadata"]["name"] for pod in pods}

    def asked(query: str) -> list[dict[str, Any]]:
        answer = json.loads(run(*prometheus, f"http://{PLACE}/api/v1/query?query={quote(query)}"))
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def up() -> None:
        assert {item["metric"]["pod"]: item["value"][1] for item in asked("up")} == dict.fromkeys(names, "1")

    eventually(up)
    nodes = {node["metadata"]["name"] for node in kube.get("nodes")["items"]}
    packets = asked("sum by (node) (ilanet_verdict_packets_total)")
    assert {item["metric"]["node"] for item in packets if float(item["value"][1]) > 0} == nodes
    assert sum(float(item["value"][1]) for item in asked("ilanet_controller_serving")) == len(names) - len(nodes)

    def rates() -> None:
        assert asked("rate(ilanet_controller_call_seconds_count[1m])")

    eventually(rates)  # it takes two scrapes


def test_promtool_is_content(kube: Kubectl) -> None:
    """Every metric of every agent and controller has help, unit and form as the conventions have them."""
    system = Kubectl(kube.words, SYSTEM)
    for pod in system.get("pods", "-l", "app.kubernetes.io/component in (agent, controller)")["items"]:
        port = pod["metadata"]["annotations"]["prometheus.io/port"]
        path = f"/api/v1/namespaces/{SYSTEM}/pods/{pod['metadata']['name']}:{port}/proxy/metrics"
        assert run("promtool", "check", "metrics", stdin=kube("get", "--raw", path)) == ""


def test_the_pod_monitors_name_what_is_there(kube: Kubectl) -> None:
    """Ports and labels of deploy/podmonitor are those of the pods."""
    system = Kubectl(kube.words, SYSTEM)
    files = sorted((SOURCE / "deploy/podmonitor").glob("*.yaml"))
    trees = [tree for file in files for tree in yaml.safe_load_all(file.read_text()) if tree["kind"] == "PodMonitor"]
    assert trees
    for tree in trees:
        selector = tree["spec"]["selector"]
        words = [f"{key}={value}" for key, value in selector["matchLabels"].items()]
        words += [f"{one['key']} in ({','.join(one['values'])})" for one in selector.get("matchExpressions", [])]
        chosen = system.get("pods", "-l", ",".join(words))["items"]
        assert chosen
        for endpoint in tree["spec"]["podMetricsEndpoints"]:
            for pod in chosen:
                ports = {port["name"] for container in pod["spec"]["containers"] for port in container.get("ports", [])}
                assert endpoint["port"] in ports
