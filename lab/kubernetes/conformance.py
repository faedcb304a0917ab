# SPDX-License-Identifier: Apache-2.0
"""`make conformance`, `make conformance-others`: Kubernetes' own network tests against a cluster with ilanet."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lab.kubernetes.cluster import KubernetesCluster
from lab.kubernetes.images import made
from lab.kubernetes.programs import E2E, KUBECTL, KUBERNETES, built
from lab.kubernetes.specs import (
    AREA,
    CONFORMANCE,
    PASSED,
    SERIAL,
    SKIPPED,
    Outcome,
    document,
    judge,
    lanes,
    parse,
    pattern,
    sort,
)
from lab.progress import progress

REPORT = Path("build/conformance")
"""Where e2e.test writes what it says and its reports, a folder for each that runs."""

_PATIENCE = "100m"
"""How long one e2e.test may take."""

_ZONE = "topology.kubernetes.io/zone"


@dataclass(frozen=True, slots=True)
class Suite:
    """Which specs a command is about, where their table goes, and how many of them run at once."""

    title: str
    command: str
    about: str
    document: Path
    conformance: bool
    lanes: int

    def holds(self, name: str) -> bool:
        """Tell whether a spec is one of them."""
        return name.startswith(AREA) and (CONFORMANCE in name) == self.conformance


MUST = Suite(
    title="Kubernetes' own network tests",
    command="make conformance",
    about="are `[sig-network]` and `[Conformance]`: what every Kubernetes must pass",
    document=Path("docs/conformance.md"),
    conformance=True,
    lanes=1,
)
OTHERS = Suite(
    title="Kubernetes' other network tests",
    command="make conformance-others",
    about="are `[sig-network]`, not `[Conformance]`, and need neither a cloud nor what else a plain cluster lacks",
    document=Path("docs/conformance-others.md"),
    conformance=False,
    lanes=3,
)


class Tests:
    """Kubernetes' own e2e.test."""

    def __init__(self, programs: Path) -> None:
        """Take the folder of the test cluster's programs."""
        self._programs = programs

    def names(self) -> list[str]:
        """Return the names of all its network specs; without a focus it would leave out whatever is a feature."""
        self._run([], "list", "--ginkgo.dry-run", f"--ginkgo.focus={re.escape(AREA.strip())}")
        return [outcome.name for outcome in self._report("list")]

    def run(self, cluster: KubernetesCluster, names: Sequence[str], lane: str) -> list[Outcome]:
        """Run specs one after the other, and return what became of those that it came to."""
        words = [f"--kubeconfig={cluster.control.admin}", f"--kubectl-path={self._programs / KUBECTL}"]
        words += [f"--ginkgo.focus={pattern(names)}", f"--ginkgo.timeout={_PATIENCE}", "--disable-log-dump"]
        self._run(cluster.lab.hosts[0].namespace.prefix, lane, f"--num-nodes={len(cluster.nodes)}", *words)
        return self._report(lane)

    def _run(self, prefix: Sequence[str], lane: str, *words: str) -> None:
        place = REPORT / lane
        place.mkdir(parents=True, exist_ok=True)
        (place / "junit_01.xml").unlink(missing_ok=True)
        command = [*prefix, str(self._programs / E2E), "--provider=skeleton", "--ginkgo.no-color"]
        with (place / "log").open("wb") as log:
            subprocess.run([*command, f"--report-dir={place}", *words], stdout=log, stderr=log, check=False)

    @staticmethod
    def _report(lane: str) -> list[Outcome]:
        report = REPORT / lane / "junit_01.xml"
        return parse(report) if report.exists() else []


def run(cluster: KubernetesCluster, tests: Tests, names: Sequence[str], count: int) -> list[Outcome]:
    """Bring the cluster up with the tests' images, run specs, and return what became of each."""
    archives = made(progress)
    cluster.start()
    for number, node in enumerate(cluster.nodes, 1):
        progress(f"the tests' images to {node.host.name}")
        for name, archive in archives.items():
            node.runtime.take(archive, name)
        cluster.kubectl("label", "node", node.host.name, f"{_ZONE}=zone{number}")
    alone = [name for name in names if SERIAL in name]
    together = lanes([name for name in names if SERIAL not in name], count)
    progress(f"{len(names)} specs, {len(alone)} of them alone at the end; e2e.test's words go to {REPORT}/*/log")
    with ThreadPoolExecutor(count) as pool:
        running = [pool.submit(tests.run, cluster, lane, str(number)) for number, lane in enumerate(together, 1)]
    outcomes = [outcome for lane in running for outcome in lane.result()]
    return outcomes + (tests.run(cluster, alone, "serial") if alone else [])


def page(suite: Suite, outcomes: Sequence[Outcome]) -> str:
    """Return the text of a suite's page."""
    introduction = [
        f"`{suite.command}` runs the specs of `e2e.test` {KUBERNETES.version} that {suite.about}.",
        "There are three nodes, each a zone; their network is ilanet, their Services are kube-proxy's, on one machine.",
    ]
    return document(suite.title, introduction, outcomes)


def main() -> int:
    """Run the command line; return the exit status: 0 if every spec has passed, or fails for a reason that is known."""
    parser = argparse.ArgumentParser(prog="lab.kubernetes.conformance", description="Kubernetes' own network tests.")
    parser.add_argument("--others", action="store_true", help="those that are not [Conformance]")
    parser.add_argument("--focus", default="", help="regular expression: of the specs only those")
    parser.add_argument("--document", type=Path, help="where the table goes")
    parser.add_argument("--lanes", type=int, help="so many specs at once")
    options = parser.parse_args()
    suite = OTHERS if options.others else MUST
    tests = Tests(built(progress, tests=True))
    names, left = sort(name for name in tests.names() if suite.holds(name) and re.search(options.focus, name))
    cluster = KubernetesCluster(name=f"c{os.getpid()}", control_planes=0, evicting=True, say=progress)
    try:
        outcomes, unexplained = judge(names, run(cluster, tests, names, options.lanes or suite.lanes))
    finally:
        cluster.close()
    place = options.document or suite.document
    place.write_text(page(suite, [*outcomes, *left]))
    for sentence in unexplained:
        print(sentence, flush=True)
    ran = [outcome for outcome in outcomes if outcome.status != SKIPPED]
    progress(f"{sum(outcome.status == PASSED for outcome in ran)} of {len(ran)} passed: {place}")
    return int(bool(unexplained) or not ran)


if __name__ == "__main__":
    raise SystemExit(main())
