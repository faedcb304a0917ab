# SPDX-License-Identifier: Apache-2.0
"""The tables of Kubernetes' own tests say what ran, what did not, and why."""

from __future__ import annotations

import re

from lab.kubernetes import specs
from lab.kubernetes.conformance import document
from lab.kubernetes.specs import Outcome

REPORT = """<testsuites><testsuite>
<testcase name="[It] [sig-network] DNS should work [Serial]" status="passed" time="2.4"/>
<testcase name="[It] [sig-network] Services should fail" status="failed" time="61">
<failure message="no answer&#10;in time&#10;more"/></testcase>
<testcase name="[It] [sig-network] Services should see nodes" status="skipped" time="0.3">
<skipped message="needs 4 nodes"/></testcase>
<testcase name="[It] [sig-network] Services not chosen" status="skipped" time="0"/>
<testcase name="[It] [sig-apps] Job should end" status="passed" time="3"/>
<testcase name="[BeforeSuite]" status="passed" time="1"/>
</testsuite></testsuites>"""


def test_a_report_is_what_ran() -> None:
    """Specs of the network that ran, or that left themselves out; two lines of the reason."""
    assert specs.parse(REPORT) == [
        Outcome("DNS should work [Serial]", "passed", 2.4, ""),
        Outcome("Services should fail", "failed", 61, "no answer in time"),
        Outcome("Services should see nodes", "skipped", 0.3, "needs 4 nodes"),
    ]


def test_every_spec_is_run_once_or_left_out_with_a_reason() -> None:
    """Those that must run alone come last."""
    names = [
        "A [Feature:LoadBalancer]",
        "B [Slow] [Serial]",
        *(f"C {number} should update: http" for number in range(5)),
        "D [Feature:IPv6DualStack]",
    ]
    wanted, left_out = specs.chosen(names)
    assert [(one.name, one.status, one.reason[:11]) for one in left_out] == [
        ("A [Feature:LoadBalancer]", "not run", "needs a clo"),
        ("D [Feature:IPv6DualStack]", "not run", "needs Servi"),
    ]
    shares = specs.shares(wanted, 2)
    assert shares[-1] == ["B [Slow] [Serial]"]
    assert sorted(name for share in shares for name in share) == sorted(wanted)


def test_the_focus_matches_these_specs_and_no_other() -> None:
    """Names have brackets and dots, and some begin as others do."""
    names = ["DNS (a.b) [Slow]", "Services should update"]
    pattern = re.compile(specs.focus(names))
    assert all(pattern.search(specs.GROUP + name) for name in names)
    assert not pattern.search(specs.GROUP + "Services should update endpoints")
    assert not pattern.search(specs.GROUP + "DNS (axb) [Slow]")


def test_a_failure_needs_a_reason_that_somebody_has_found() -> None:
    """Else the command fails; the page shows every one."""
    outcomes = specs.explained(specs.parse(REPORT))
    assert [one.name for one in specs.unexplained(outcomes)] == ["Services should fail"]
    page = document([*outcomes, Outcome("E", "not run", 0, "needs a cloud")], "Title", "What ran")
    assert "1 of 3 passed; 1 were not run." in page
    assert "| E | not run |  | needs a cloud |" in page
    assert "| Services should fail | failed | 61 s | no answer in time |" in page
