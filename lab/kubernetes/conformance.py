# SPDX-License-Identifier: Apache-2.0
"""`make conformance`: Kubernetes' own network tests against a cluster with ilanet; writes docs/conformance*.md."""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lab.kubernetes import specs
from lab.kubernetes.cluster import KubernetesCluster
from lab.kubernetes.images import made
from lab.kubernetes.programs import E2E, KUBERNETES, built
from lab.kubernetes.specs import CONFORMANCE, Outcome
from lab.namespace import run
from lab.progress import progress

REPORT = Path("build/conformance")
"""Where e2e.test writes what it says and its reports."""

DOCUMENT, OTHERS = Path("docs/conformance.md"), Path("docs/conformance-others.md")

_AT_ONCE = 2
"""Specs at the same time, of those that allow it: they mostly wait."""


def names() -> list[str]:
    """Return all specs of the network that are not among those of conformance."""
    program = built(progress, tests=True) / E2E
    with tempfile.TemporaryDirectory() as directory:
        words = ("--ginkgo.dry-run", r"--ginkgo.focus=\[sig-network\]", r"--ginkgo.skip=\[Conformance\]")
        run(str(program), *words, f"--report-dir={directory}", "--provider=skeleton", timeout=300)
        return [outcome.name for outcome in specs.parse((Path(directory) / "junit_01.xml").read_text())]


def bring_up(cluster: KubernetesCluster) -> None:
    """Bring the cluster up with the tests' images."""
    built(progress, tests=True)
    archives = made(progress)
    cluster.start()
    for node in cluster.nodes:
        progress(f"the tests' images to {node.host.name}")
        for name, archive in archives.items():
            node.runtime.take(archive, name)


class Run:
    """One e2e.test that runs."""

    def __init__(self, cluster: KubernetesCluster, focus: str, name: str) -> None:
        """Start it on the specs that match."""
        self._report = REPORT / name
        self._report.mkdir(parents=True, exist_ok=True)
        words = [
            *(*cluster.lab.hosts[0].namespace.prefix, str(built(progress, tests=True) / E2E), "--provider=skeleton"),
            *(f"--kubeconfig={cluster.control.admin}", f"--ginkgo.focus={focus}", f"--report-dir={self._report}"),
            *("--ginkgo.no-color", "--ginkgo.timeout=2h", "--disable-log-dump", "--num-nodes=3"),
        ]
        with (self._report / "log").open("wb") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log)

    def outcomes(self) -> list[Outcome]:
        """Wait for its end, and return what became of each spec."""
        self._process.wait()
        return specs.parse((self._report / "junit_01.xml").read_text())

    def stop(self) -> None:
        """End it, if it still runs."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait()


def conformance(cluster: KubernetesCluster, focus: str) -> list[Outcome]:
    """Run the specs that match, one after the other."""
    bring_up(cluster)
    progress(f"e2e.test, specs that match {focus}; its words go to {REPORT}")
    return side_by_side(cluster, [focus])


def others(cluster: KubernetesCluster) -> list[Outcome]:
    """Run what else can run here: those that may side by side, then those that must alone."""
    wanted, left_out = specs.chosen(names())
    bring_up(cluster)
    *shares, alone = specs.shares(wanted, _AT_ONCE)
    progress(f"e2e.test, {len(wanted)} specs, of which {len(alone)} alone; its words go to {REPORT}")
    found = side_by_side(cluster, [specs.focus(share) for share in shares])
    found += side_by_side(cluster, [specs.focus(alone)])
    missing = set(wanted) - {outcome.name for outcome in found}
    lost = [Outcome(name, "lost", 0, "e2e.test said nothing of it") for name in missing]
    return sorted([*specs.explained(found), *left_out, *lost], key=lambda outcome: outcome.name)


def side_by_side(cluster: KubernetesCluster, focuses: Sequence[str]) -> list[Outcome]:
    """Run one e2e.test for each."""
    runs = [Run(cluster, focus, f"part{number}") for number, focus in enumerate(focuses)]
    try:
        return [outcome for one in runs for outcome in one.outcomes()]
    finally:
        for one in runs:
            one.stop()


def document(outcomes: Sequence[Outcome], title: str, what: str) -> str:
    """Return the page that shows them."""
    ran = [outcome for outcome in outcomes if outcome.status != "not run"]
    passed = sum(outcome.status == "passed" for outcome in ran)
    left_out = f"; {len(outcomes) - len(ran)} were not run" if len(ran) < len(outcomes) else ""
    return "\n".join(
        [
            f"# {title}",
            "",
            f"{what}, of `e2e.test` {KUBERNETES.version}, on three nodes.",
            "Their network is ilanet, their Services are kube-proxy's; all of it runs on one machine.",
            f"{passed} of {len(ran)} passed{left_out}.",
            "",
            *specs.table(outcomes),
            "",
        ]
    )


def main() -> int:
    """Run the command line; return the exit status: 0 if every spec has passed, or fails for a reason that is known."""
    parser = argparse.ArgumentParser(prog="lab.kubernetes.conformance", description="Kubernetes' own network tests.")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--focus", default=CONFORMANCE, help="regular expression of specs")
    which.add_argument("--others", action="store_true", help="all that can run here and are not of conformance")
    parser.add_argument("--document", type=Path, help="where the table goes")
    options = parser.parse_args()
    cluster = KubernetesCluster(name=f"c{os.getpid()}", say=progress)
    try:
        outcomes = others(cluster) if options.others else conformance(cluster, options.focus)
    finally:
        cluster.close()
    if options.others:
        title, what = (
            "Kubernetes' other network tests",
            "`make conformance-others` runs what else can run here",
        )
    else:
        title, what = "Kubernetes' own network tests", f"`make conformance` runs the specs that match `{options.focus}`"
    place = options.document or (OTHERS if options.others else DOCUMENT)
    place.write_text(document(outcomes, title, what))
    failed = specs.unexplained(outcomes)
    for outcome in failed:
        print(f"{outcome.status}: {outcome.name}: {outcome.reason}", flush=True)
    ran = [outcome for outcome in outcomes if outcome.status != "not run"]
    progress(f"{sum(outcome.status == 'passed' for outcome in ran)} of {len(ran)} passed: {place}")
    return int(bool(failed) or not ran)


if __name__ == "__main__":
    raise SystemExit(main())
