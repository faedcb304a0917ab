# SPDX-License-Identifier: Apache-2.0
"""`make bench-scale`: a hundred pods on one node of a real Kubernetes: from the scaling to the last one Ready.

One cluster of one node (lab/kubernetes) for all rounds; each round scales a Deployment from nothing to all pods and
back, once with ilanet and once with Debian's ptp and host-local, whose configuration is put before ilanet's for that
time.  For ptp duplicate address detection is off too: a shell script sets two sysctls in the pod before it calls it.
Everything shares the machine's cores: API server, etcd, scheduler, kubelet, containerd and the pods.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from bench.results import Results, clean_ups, main
from lab.kubernetes.cluster import TEST_IMAGE, KubernetesCluster

PODS = 100
PATIENCE = 600.0

SUBNET = "fd00:99::/112"
NO_DETECTION = """#!/bin/sh
if [ -n "$CNI_NETNS" ]; then
  nsenter --net="$CNI_NETNS" sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
fi
exec "${0%/*}/ptp"
"""

PTP = {
    "cniVersion": "1.0.0",
    "name": "ptp",
    "plugins": [
        {
            "type": "ptp-without-detection",
            "ipam": {"type": "host-local", "ranges": [[{"subnet": SUBNET}]], "routes": [{"dst": "::/0"}]},
        }
    ],
}


def bench() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="bench.scale", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pods", type=int, default=PODS)
    options = parser.parse_args()
    results = Results(name="scale", options=vars(options))
    with clean_ups() as stack:
        cluster = KubernetesCluster(name="scale", nodes=1, say=results.say)
        stack.callback(cluster.close)
        cluster.start()
        node = Node(cluster, options.pods)
        found: dict[str, list[float]] = {"ilanet": [], "ptp": []}
        for number in range(options.rounds + 1):
            for case in sorted(found, reverse=bool(number % 2)):
                node.use(case)
                seconds = node.scale()
                results.say(f"round {number}: {case}: {seconds:.1f} s{' (not counted)' if not number else ''}")
                if number:
                    found[case].append(seconds)
    results.head()
    for case, values in found.items():
        results.row(case, f"{options.pods} pods Ready", "s", values)
    ratios = [ours / theirs for ours, theirs in zip(found["ilanet"], found["ptp"], strict=True)]
    results.limit("ilanet_vs_ptp", ratios, "")
    return results.finish()


class Node:
    """The one node, and the Deployment that fills it."""

    def __init__(self, cluster: KubernetesCluster, pods: int) -> None:
        self._cluster = cluster
        self._pods = pods
        root = cluster.nodes[0].runtime.machine.root
        self._plugins = root / "opt/cni/bin"
        self._networks = root / "etc/cni/net.d"
        for name in ("ptp", "host-local"):
            (self._plugins / name).write_bytes((Path("/usr/lib/cni") / name).read_bytes())
            (self._plugins / name).chmod(0o755)
        script = self._plugins / "ptp-without-detection"
        script.write_text(NO_DETECTION)
        script.chmod(0o755)
        container = {"name": "pause", "image": TEST_IMAGE, "imagePullPolicy": "Never", "args": ["pause"]}
        template = {
            "metadata": {"labels": {"app": "many"}},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
        }
        deployment = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "many"},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "many"}}, "template": template},
        }
        cluster.kubectl("apply", "-f", "-", stdin=json.dumps(deployment))

    def use(self, case: str) -> None:
        """Make the runtime use one or the other: it takes the first file by its name."""
        first = self._networks / "05-ptp.conflist"
        if case == "ptp":
            first.write_text(json.dumps(PTP))
        else:
            first.unlink(missing_ok=True)
        time.sleep(2.0)  # containerd watches the folder

    def scale(self) -> float:
        """Return the seconds until all pods are Ready; then wait until they are gone."""
        started = time.monotonic()
        self._to(self._pods, "readyReplicas")
        seconds = time.monotonic() - started
        self._to(0, "replicas")
        while self._cluster.kubectl("get", "pods", "-l", "app=many", "-o", "name"):
            self._check(started)
            time.sleep(0.5)
        return seconds

    def _to(self, count: int, field: str) -> None:
        self._cluster.kubectl("scale", "deployment/many", f"--replicas={count}")
        started = time.monotonic()
        while True:
            text = self._cluster.kubectl("get", "deployment/many", "-o", f"jsonpath={{.status.{field}}}")
            if int(text or 0) == count:
                return
            self._check(started)
            time.sleep(0.2)

    @staticmethod
    def _check(started: float) -> None:
        if time.monotonic() - started > PATIENCE:
            raise TimeoutError(f"the pods are not there after {PATIENCE} s")


if __name__ == "__main__":
    raise SystemExit(main(bench))
