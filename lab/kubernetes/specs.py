# SPDX-License-Identifier: Apache-2.0
"""What is known of Kubernetes' own network specs: which need what a plain cluster lacks, which fail and why; pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree as ET

AREA = "[sig-network] "
"""How the name of a network spec begins."""

CONFORMANCE = "[Conformance]"
SERIAL = "[Serial]"
"""Tags in the names: what every Kubernetes must pass, and what must run alone."""

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
"""States of specs in reports that are named here; others, such as 'timedout', are failures too."""

NOT_RUN: Sequence[tuple[str, str]] = (
    (r"\[Feature:LoadBalancer\]", "needs the load balancer of a cloud"),
    (r"\[Feature:NetworkPolicy\]", "needs NetworkPolicy, which ilanet does not enforce yet"),
    (r"\[Feature:IPv6DualStack\]", "needs a cluster of both families; ilanet is IPv6 only"),
    (r"\[Feature:SCTPConnectivity\]", "needs SCTP, which the kernel of these runs was built without"),
    (r"\[Feature:Networking-IPv4\]", "needs IPv4 and the Internet"),
    (r"\[Feature:Networking-(IPv6|DNS)\]", "needs the Internet"),
    (r"DNS configMap nameserver Forward", "needs the Internet: it looks up dns.google first"),
    (r"\[Feature:KubeProxyNFAcct\]", "needs IPv4: kube-proxy counts localhost's node ports there only"),
    (r"should not be vulnerable to the invalid conntrack state bug", "needs IPv4: its server listens on 0.0.0.0"),
    (r"\[Provider:GCE\]", "needs GCE"),
    (r"\[Alpha\]", "needs a feature gate that is off by default"),
    (r"\[Feature:KubeProxyDaemonSetMigration\]", "is about how GCE's clusters start kube-proxy"),
    (r"\[Disruptive\]", "needs kube-proxy and the API server as pods, or ssh to nodes"),
    (r"\[Feature:PerformanceDNS\]", "measures cluster DNS with thousands of Services"),
)
"""Regular expressions of specs that are not run, and what each would need; the first that matches is said."""

KNOWN: Sequence[tuple[str, str]] = (
    (r"IPerf2", "bytes flow, but Debian's iperf 2.1.8 in the image tells of them in fewer fields than the spec reads"),
)
"""Regular expressions of specs that fail, and why, as somebody has found out."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one spec."""

    name: str
    status: str
    seconds: float
    reason: str


def parse(report: Path) -> list[Outcome]:
    """Return the specs of a JUnit report that were chosen, by name; one that skipped itself says why."""
    found = []
    for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314 - our own e2e.test has written it
        name = case.get("name", "")
        told = next((case.find(kind) for kind in ("failure", "error", "skipped") if case.find(kind) is not None), None)
        words = "" if told is None else told.get("message") or told.text or ""
        skipped = case.get("status") == SKIPPED
        if not name.startswith("[It]") or (skipped and words == SKIPPED):
            continue
        words = re.sub(rf"^({SKIPPED} - |\[[A-Z]+\] )", "", words)
        reason = " ".join(words.strip().splitlines()[:2])
        seconds = float(case.get("time", "0"))
        found.append(Outcome(name.removeprefix("[It] "), case.get("status", ""), seconds, reason))
    return sorted(found, key=lambda outcome: outcome.name)


def sort(names: Iterable[str]) -> tuple[list[str], list[Outcome]]:
    """Return which specs are run, and what becomes of the others."""
    reasons = {name: _first(NOT_RUN, name) for name in sorted(names)}
    left = [Outcome(name, SKIPPED, 0, reason) for name, reason in reasons.items() if reason]
    return [name for name, reason in reasons.items() if not reason], left


def lanes(names: Sequence[str], count: int) -> list[list[str]]:
    """Deal specs out to so many lanes that run at once."""
    return [lane for lane in (list(names[start::count]) for start in range(count)) if lane]


def pattern(names: Iterable[str]) -> str:
    """Return the regular expression of these specs and no others; reports leave out the space at some names' end."""
    return f"({'|'.join(re.escape(name) for name in names)}) *$"


def judge(names: Iterable[str], outcomes: Iterable[Outcome]) -> tuple[list[Outcome], list[str]]:
    """Return what became of each spec that was to run, with known reasons, and what nobody has explained yet."""
    by_name = {outcome.name: outcome for outcome in outcomes}
    judged, unexplained = [], []
    for name in names:
        outcome = by_name.get(name, Outcome(name, FAILED, 0, "e2e.test has not come to it"))
        known = _first(KNOWN, name)
        if outcome.status in (PASSED, SKIPPED):
            if known:
                unexplained.append(f"{outcome.status}: {name}, of which it is known that it fails: {known}")
        elif known:
            outcome = replace(outcome, reason=known)
        else:
            unexplained.append(f"{outcome.status}: {name}: {outcome.reason}")
        judged.append(outcome)
    return judged, unexplained


def document(title: str, introduction: Sequence[str], outcomes: Iterable[Outcome]) -> str:
    """Return the page that shows them: how many passed, each that ran, and each that did not."""
    outcomes = sorted(outcomes, key=lambda outcome: outcome.name)
    ran = [outcome for outcome in outcomes if outcome.status != SKIPPED]
    left = [outcome for outcome in outcomes if outcome.status == SKIPPED]
    passed = sum(outcome.status == PASSED for outcome in ran)
    lines = [
        f"# {title}",
        "",
        *introduction,
        f"{passed} of {len(ran)} passed{f', {len(left)} were not run' * bool(left)}.",
        "",
    ]
    lines += _table(
        ("spec", "outcome", "time", "reason"),
        ran,
        lambda outcome: (outcome.name, outcome.status, f"{outcome.seconds:.0f} s", outcome.reason),
    )
    if left:
        lines += ["", "## Not run", "What a spec says itself, at run time, is quoted.", ""]
        lines += _table(("spec", "reason"), left, lambda outcome: (outcome.name, outcome.reason))
    return "\n".join([*lines, ""])


def _table(head: Sequence[str], outcomes: Iterable[Outcome], cells: Callable[[Outcome], Sequence[str]]) -> list[str]:
    rows = [[text.removeprefix(AREA).replace("|", "\\|") for text in cells(outcome)] for outcome in outcomes]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _first(table: Iterable[tuple[str, str]], name: str) -> str:
    return next((reason for expression, reason in table if re.search(expression, name)), "")
