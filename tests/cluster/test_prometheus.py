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


def monitors() -> list[dict[str, Any]]:
    """Return the PodMonitors of deploy/podmonitor."""
    files = sorted((SOURCE / "deploy/podmonitor").glob("*.yaml"))
    trees = [tree for file in files for tree in yaml.safe_load_all(file.read_text()) if tree["kind"] == "PodMonitor"]
    assert trees
    return trees


def chosen(kube: Kubectl, monitor: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pods that one selects."""
    selector = monitor["spec"]["selector"]
    words = [f"{key}={value}" for key, value in selector["matchLabels"].items()]
    words += [f"{one['key']} in ({','.join(one['values'])})" for one in selector.get("matchExpressions", [])]
    pods: list[dict[str, Any]] = Kubectl(kube.words, SYSTEM).get("pods", "-l", ",".join(words))["items"]
    assert pods
    return pods


def monitored(kube: Kubectl) -> list[dict[str, Any]]:
    """Return what prometheus-operator would have scraped by them: each chosen pod's port of that name."""
    found = []
    for monitor in monitors():
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            for pod in chosen(kube, monitor):
                ports = [port for container in pod["spec"]["containers"] for port in container.get("ports", [])]
                number = next(port["containerPort"] for port in ports if port["name"] == endpoint["port"])
                labels = {
                    "__metrics_path__": endpoint["path"],
                    "pod": pod["metadata"]["name"],
                    "node": pod["spec"]["nodeName"],
                }
                found.append({"targets": [f"[{pod['status']['podIP']}]:{number}"], "labels": labels})
    return found


@pytest.fixture
def prometheus(ours: KubernetesCluster, kube: Kubectl, tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """Run it on the first host, and yield the words of a question to it."""
    jobs = []
    for name, found, relabel in (("pods", discovered(kube), RELABEL), ("monitors", monitored(kube), [])):
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(found))
        jobs.append({"job_name": name, "file_sd_configs": [{"files": [str(file)]}], "relabel_configs": relabel})
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}
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
    """By annotations and by PodMonitors, which have etcd too, no scrape fails; what was measured is there, by node."""
    system = Kubectl(kube.words, SYSTEM)
    pods = system.get("pods", "-l", "app.kubernetes.io/component in (agent, controller)")["items"]
    names = {pod["metadata"]["name"] for pod in pods}

    def asked(query: str) -> list[dict[str, Any]]:
        answer = json.loads(run(*prometheus, f"http://{PLACE}/api/v1/query?query={quote(query)}"))
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    members = {pod["metadata"]["name"] for pod in system.get("pods", "-l", "app.kubernetes.io/component=etcd")["items"]}
    wanted = {("pods", name): "1" for name in names} | {("monitors", name): "1" for name in names | members}

    def up(query: str = "up") -> None:
        found = [(item["metric"], item["value"][1]) for item in asked(query)]
        assert {(metric["job"], metric["pod"]): value for metric, value in found} == wanted

    eventually(up)
    nodes = {node["metadata"]["name"] for node in kube.get("nodes")["items"]}
    packets = asked('sum by (node) (ilanet_verdict_packets_total{job="pods"})')
    assert {item["metric"]["node"] for item in packets if float(item["value"][1]) > 0} == nodes
    serving = asked('ilanet_controller_serving{job="pods"}')
    assert sum(float(item["value"][1]) for item in serving) == len(names) - len(nodes)
    assert asked("etcd_server_has_leader")

    def rates() -> None:
        assert asked("rate(ilanet_controller_call_seconds_count[1m])")

    eventually(rates)  # it takes two scrapes
    up("min_over_time(up[5m])")


def test_promtool_is_content(kube: Kubectl) -> None:
    """Every metric of every agent and controller has help, unit and form as the conventions have them."""
    system = Kubectl(kube.words, SYSTEM)
    for pod in system.get("pods", "-l", "app.kubernetes.io/component in (agent, controller)")["items"]:
        port = pod["metadata"]["annotations"]["prometheus.io/port"]
        path = f"/api/v1/namespaces/{SYSTEM}/pods/{pod['metadata']['name']}:{port}/proxy/metrics"
        assert run("promtool", "check", "metrics", stdin=kube("get", "--raw", path)) == ""


def test_the_pod_monitors_name_what_is_there(kube: Kubectl) -> None:
    """Ports and paths of deploy/podmonitor are those of the pods, and the same as the annotations'."""
    for monitor in monitors():
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            for pod in chosen(kube, monitor):
                ports = {
                    port["name"]: port["containerPort"]
                    for container in pod["spec"]["containers"]
                    for port in container.get("ports", [])
                }
                assert endpoint["port"] in ports
                annotations = pod["metadata"].get("annotations", {})
                said = (annotations.get("prometheus.io/port"), annotations.get("prometheus.io/path"))
                if pod["metadata"]["labels"]["app.kubernetes.io/component"] != "etcd":
                    assert said == (str(ports[endpoint["port"]]), endpoint["path"])
                else:
                    assert said == (None, None)  # its port is closed to pods, and so to a Prometheus in one
