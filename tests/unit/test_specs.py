# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab.kubernetes import specs
from lab.kubernetes.conformance import MUST, OTHERS, page
from lab.kubernetes.specs import FAILED, PASSED, SKIPPED, Outcome, judge, lanes, parse, pattern, sort

WORKS = "[sig-network] Services should work | well"
FAILS = "[sig-network] Services should fail (here)"
SKIPS = "[sig-network] Topology Hints should distribute"
CLOUD = "[sig-network] LoadBalancers [Feature:LoadBalancer] should work [Slow]"

REPORT = f"""<testsuites><testsuite>
<testcase name="[It] {WORKS}" status="passed" time="2.5"/>
<testcase name="[It] {FAILS}" status="failed" time="61"><failure type="failed">[FAILED] {{first
second
third}}</failure></testcase>
<testcase name="[It] {SKIPS}" status="skipped" time="1"><skipped message="skipped - needs two zones"/></testcase>
<testcase name="[It] {CLOUD}" status="skipped" time="0"><skipped message="skipped"/></testcase>
<testcase name="[It] [sig-network] slow" status="timedout" time="9"><error type="timedout">timed out</error></testcase>
<testcase name="[SynchronizedBeforeSuite]" status="passed" time="1"/>
</testsuite></testsuites>"""


def test_a_report_has_what_was_chosen(tmp_path: Path) -> None:
    """Specs that were chosen are returned by name, with the beginning of what they say; hooks and others are not."""
    (tmp_path / "junit.xml").write_text(REPORT)
    assert parse(tmp_path / "junit.xml") == [
        Outcome(FAILS, FAILED, 61, "{first second"),
        Outcome(WORKS, PASSED, 2.5, ""),
        Outcome(SKIPS, SKIPPED, 1, "needs two zones"),
        Outcome("[sig-network] slow", "timedout", 9, "timed out"),
    ]


def test_what_needs_more_than_a_plain_cluster_is_not_run() -> None:
    """Specs are sorted into those that are run and those that are not, each of these with its reason."""
    assert sort([WORKS, CLOUD, FAILS]) == (
        [FAILS, WORKS],
        [Outcome(CLOUD, SKIPPED, 0, "needs the load balancer of a cloud")],
    )


@pytest.mark.parametrize("table", [specs.NOT_RUN, specs.KNOWN])
def test_tables_are_regular_expressions_with_reasons(table: list[tuple[str, str]]) -> None:
    """Whatever the tables say compiles and has a reason."""
    for expression, reason in table:
        re.compile(expression)
        assert reason


def test_no_conformance_spec_is_excused() -> None:
    """The published page names every conformance spec: none is left out, none may fail."""
    names = re.findall(r"^\| (.*?) \|", MUST.document.read_text(), re.MULTILINE)[2:]
    assert len(names) == 45
    for expression, _ in (*specs.NOT_RUN, *specs.KNOWN):
        assert not [name for name in names if re.search(expression, f"{specs.AREA}{name}")]


def test_lanes_share_the_specs() -> None:
    """Every spec is in one lane, and no lane is empty."""
    assert lanes(["a", "b", "c", "d", "e"], 3) == [["a", "d"], ["b", "e"], ["c"]]
    assert lanes(["a"], 3) == [["a"]]
    assert lanes([], 3) == []


def test_the_pattern_of_names_is_of_these_alone() -> None:
    """Brackets and bars in names stand for themselves, and a longer name is another, but for a space."""
    chosen = re.compile(pattern([WORKS, FAILS]))
    assert chosen.search(f"Kubernetes e2e suite {WORKS}")
    assert chosen.search(f"Kubernetes e2e suite {FAILS}")
    assert chosen.search(f"Kubernetes e2e suite {FAILS} ")
    assert not chosen.search(f"Kubernetes e2e suite {FAILS} [Slow]")
    assert not chosen.search(CLOUD)


def test_failures_need_a_reason_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails or was not reached is unexplained; a known failure has its reason; one that passes is said too."""
    ran = [Outcome(FAILS, FAILED, 61, "words"), Outcome(WORKS, PASSED, 2, ""), Outcome(SKIPS, SKIPPED, 1, "zones")]
    judged, unexplained = judge([FAILS, SKIPS, WORKS, "[sig-network] late"], ran)
    assert [outcome.status for outcome in judged] == [FAILED, SKIPPED, PASSED, FAILED]
    assert unexplained == [
        f"failed: {FAILS}: words",
        "failed: [sig-network] late: e2e.test has not come to it",
    ]
    monkeypatch.setattr(specs, "KNOWN", [(r"should fail \(here\)", "the lab has no such thing"), ("well$", "too slow")])
    judged, unexplained = judge([FAILS, WORKS], ran)
    assert judged[0].reason == "the lab has no such thing"
    assert unexplained == [f"passed: {WORKS}, of which it is known that it fails: too slow"]


def test_the_page_shows_all() -> None:
    """The page counts what ran, and lists what did not; names stay in their cells."""
    outcomes = [
        Outcome(WORKS, PASSED, 2.5, ""),
        Outcome(FAILS, FAILED, 61, "no such thing"),
        Outcome(CLOUD, SKIPPED, 0, "needs a cloud"),
    ]
    lines = page(OTHERS, outcomes).splitlines()
    assert lines[0] == "# Kubernetes' other network tests"
    assert "1 of 2 passed, 1 were not run." in lines
    assert r"| Services should work \| well | passed | 2 s |  |" in lines
    assert "| Services should fail (here) | failed | 61 s | no such thing |" in lines
    assert lines[-1] == "| LoadBalancers [Feature:LoadBalancer] should work [Slow] | needs a cloud |"


def test_each_command_has_its_page() -> None:
    """The two commands share no spec and no page; without specs that are left out, the page says nothing of them."""
    assert MUST.document != OTHERS.document
    assert MUST.holds("[sig-network] DNS [Conformance]")
    assert not OTHERS.holds("[sig-network] DNS [Conformance]")
    assert OTHERS.holds(WORKS)
    assert not OTHERS.holds("[sig-node] Pods")
    assert "1 of 1 passed." in page(MUST, [Outcome(WORKS, PASSED, 2, "")]).splitlines()
