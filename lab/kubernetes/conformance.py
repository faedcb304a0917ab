# SPDX-License-Identifier: Apache-2.0
"""`make conformance`: Kubernetes' own network tests against a cluster with ilanet; writes docs/conformance.md."""

from __future__ import annotations

import argparse
import subprocess
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from lab.kubernetes.cluster import KubernetesCluster
from lab.kubernetes.images import made
from lab.kubernetes.programs import E2E, KUBERNETES, built
from lab.progress import progress

FOCUS = r"\[sig-network\].*\[Conformance\]"
"""The network's part of what every Kubernetes must pass."""

REPORT = Path("build/conformance")
"""Where e2e.test writes what it says and its report."""

DOCUMENT = Path("docs/conformance.md")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one spec."""

    name: str
    status: str
    seconds: float
    reason: str


def run(cluster: KubernetesCluster, focus: str) -> list[Outcome]:
    """Bring the cluster up with the tests' images, run the specs that match, and return what became of each."""
    programs = built(progress, tests=True)
    archives = made(progress)
    cluster.start()
    for node in cluster.nodes:
        progress(f"the tests' images to {node.host.name}")
        for name, archive in archives.items():
            node.runtime.take(archive, name)
    REPORT.mkdir(parents=True, exist_ok=True)
    words = [
        *(*cluster.lab.hosts[0].namespace.prefix, str(programs / E2E), "--provider=skeleton"),
        *(f"--kubeconfig={cluster.control.admin}", f"--ginkgo.focus={focus}", f"--report-dir={REPORT}"),
        *("--ginkgo.no-color", "--ginkgo.timeout=2h", "--disable-log-dump", "--num-nodes=3"),
    ]
    progress(f"e2e.test, specs that match {focus}; its words go to {REPORT / 'log'}")
    with (REPORT / "log").open("wb") as log:
        subprocess.run(words, stdout=log, stderr=log, check=False)
    return parse(REPORT / "junit_01.xml")


def parse(report: Path) -> list[Outcome]:
    """Return the specs of a JUnit report that ran, by name."""
    found = []
    for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314 - our own e2e.test has written it
        status = case.get("status", "")
        if status == "skipped" or not case.get("name", "").startswith("[It]"):
            continue
        failure = case.find("failure")
        words = "" if failure is None else (failure.get("message") or failure.text or "").strip()
        name = case.get("name", "").removeprefix("[It] ").removeprefix("[sig-network] ")
        found.append(Outcome(name, status, float(case.get("time", "0")), " ".join(words.splitlines()[:2])))
    return sorted(found, key=lambda outcome: outcome.name)


def document(outcomes: list[Outcome], focus: str) -> str:
    """Return the page that shows them."""
    passed = sum(outcome.status == "passed" for outcome in outcomes)
    rows = [
        f"| {outcome.name} | {outcome.status} | {outcome.seconds:.0f} s | {outcome.reason} |".replace("\n", " ")
        for outcome in outcomes
    ]
    head = [
        "# Kubernetes' own network tests",
        "",
        f"`make conformance` runs the specs of `e2e.test` {KUBERNETES.version} that match `{focus}`, on three nodes.",
        "Their network is ilanet, their Services are kube-proxy's; all of it runs on one machine.",
        f"{passed} of {len(outcomes)} passed.",
        "",
        "| spec | outcome | time | reason |",
        "| --- | --- | --- | --- |",
    ]
    return "\n".join([*head, *rows, ""])


def main() -> int:
    """Run the command line; return the exit status: 0 if every spec has passed."""
    parser = argparse.ArgumentParser(prog="lab.kubernetes.conformance", description="Kubernetes' own network tests.")
    parser.add_argument("--focus", default=FOCUS, help="regular expression of specs")
    parser.add_argument("--document", type=Path, default=DOCUMENT, help="where the table goes")
    options = parser.parse_args()
    cluster = KubernetesCluster(name="conform", say=progress)
    try:
        outcomes = run(cluster, options.focus)
    finally:
        cluster.close()
    options.document.write_text(document(outcomes, options.focus))
    failed = [outcome for outcome in outcomes if outcome.status != "passed"]
    for outcome in failed:
        print(f"{outcome.status}: {outcome.name}: {outcome.reason}", flush=True)
    progress(f"{len(outcomes) - len(failed)} of {len(outcomes)} passed: {options.document}")
    return int(bool(failed) or not outcomes)


if __name__ == "__main__":
    raise SystemExit(main())
