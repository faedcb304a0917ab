# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' own network specs: which run here, why the others do not, and what is known of those that fail; pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from xml.etree import ElementTree as ET

GROUP = "[sig-network] "
"""How the names of all of them begin; tables leave it out."""

CONFORMANCE = r"\[sig-network\].*\[Conformance\]"
"""The network's part of what every Kubernetes must pass."""

LEFT_OUT: Mapping[str, str] = {
    r"\[Feature:LoadBalancer\]|\[Provider:GCE\]": "needs a cloud",
    r"\[Feature:IPv6DualStack\]|Networking-IPv4": "needs Services of both versions of IP; ilanet's pods have IPv6",
    r"\[Feature:NetworkPolicy\]": "ilanet enforces no NetworkPolicy itself yet (deploy/network-policies)",
    r"\[Feature:SCTPConnectivity\]": "this machine's kernel has no SCTP sockets",
    r"Networking-IPv6|Networking-DNS": "needs the Internet",
    r"\[Alpha\]": "needs a feature that Kubernetes has switched off",
    r"\[Disruptive\]": "needs SSH to nodes, or another way to run kube-proxy",
    r"Networking-Performance|\[Feature:PerformanceDNS\]": "measures and asserts nothing of the network",
    r"\[Feature:KubeProxyNFAcct\]": "kube-proxy counts so in iptables mode only, and this kernel has no nfacct",
    r"invalid conntrack state bug": "its image, regression-issue-74839, is not to be had without a registry",
}
"""Part of a name, and why specs with it are not run."""

KNOWN: Mapping[str, str] = {}
"""Part of a name, and what was found to be the reason when such a spec failed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one spec."""

    name: str
    status: str
    seconds: float
    reason: str


def parse(report: str) -> list[Outcome]:
    """Return the specs of a JUnit report that ran, by name."""
    found = []
    for case in ET.fromstring(report).iter("testcase"):  # noqa: S314 - our own e2e.test has written it
        name, status = case.get("name", "").removeprefix("[It] "), case.get("status", "")
        chose_itself = status == "skipped" and float(case.get("time", "0")) > 0
        if not name.startswith(GROUP) or (status == "skipped" and not chose_itself):
            continue
        words = ""
        for kind in ("failure", "error", "skipped"):
            said = case.find(kind)
            words = words or ("" if said is None else (said.get("message") or said.text or "").strip())
        lines = " ".join(words.splitlines()[:2])
        found.append(Outcome(name.removeprefix(GROUP), status, float(case.get("time", "0")), lines))
    return sorted(found, key=lambda outcome: outcome.name)


def chosen(names: Iterable[str]) -> tuple[list[str], list[Outcome]]:
    """Return the specs that can run here, and the others with the reason."""
    run, others = [], []
    for name in names:
        reason = _first(LEFT_OUT, name)
        if reason:
            others.append(Outcome(name, "not run", 0, reason))
        else:
            run.append(name)
    return run, others


def shares(names: Sequence[str], count: int) -> list[list[str]]:
    """Return the specs in so many groups that can run side by side, and last those that must run alone."""
    alone = [name for name in names if "[Serial]" in name]
    rest = [name for name in names if "[Serial]" not in name]
    return [*(rest[number::count] for number in range(count)), alone]


def focus(names: Iterable[str]) -> str:
    """Return the regular expression of Go that matches exactly these specs."""
    return "|".join(f"{_quoted(GROUP + name)}$" for name in names)


def explained(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return the outcomes with what was found out about those that failed."""
    return [
        replace(outcome, reason=_first(KNOWN, outcome.name) or outcome.reason) if is_bad(outcome) else outcome
        for outcome in outcomes
    ]


def is_bad(outcome: Outcome) -> bool:
    """Tell whether a spec ran and did not pass."""
    return outcome.status not in ("passed", "skipped", "not run")


def unexplained(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return what failed for reasons that nobody has found yet."""
    return [outcome for outcome in outcomes if is_bad(outcome) and not _first(KNOWN, outcome.name)]


def table(outcomes: Iterable[Outcome]) -> list[str]:
    """Return the lines of the table that shows them."""
    return [
        "| spec | outcome | time | reason |",
        "| --- | --- | --- | --- |",
        *(f"| {one.name} | {one.status} | {_time(one)} | {one.reason} |".replace("\n", " ") for one in outcomes),
    ]


def _time(outcome: Outcome) -> str:
    return "" if outcome.status == "not run" else f"{outcome.seconds:.0f} s"


def _first(words: Mapping[str, str], name: str) -> str:
    return next((reason for part, reason in words.items() if re.search(part, name)), "")


def _quoted(text: str) -> str:
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", text)
