# SPDX-License-Identifier: Apache-2.0
"""Turns reports into what a person or a program reads: tables and JSON; pure, for cli."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from cli.connectivity.run import Summary
from cli.connectivity.scenarios import FAILED, PASSED, SKIPPED, Result
from cli.report import WELL, ControllerRow, NodeRow, Report, some


def as_json(kind: str, report: Any) -> str:  # noqa: ANN401 - any of our dataclasses
    """Return a dataclass as JSON, with what it is and the version of its shape first."""
    return json.dumps({"kind": f"ilanet/{kind}", "version": 1, **asdict(report)}, indent=2)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table, columns two spaces apart; an empty cell is '-'."""
    cells = [[text or "-" for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    return [_line(row, widths) for row in (header, *cells)]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def status_lines(report: Report) -> Iterator[str]:
    """Yield the lines of `ilanet status`."""
    yield from table(_NODES, [_node(row) for row in report.nodes])
    yield ""
    if report.controllers:
        yield from table(_CONTROLLERS, [_controller(row) for row in report.controllers])
        yield ""
    if report.etcd:
        yield from table(_ETCD, [(row.name, row.node, _yes(row.ready), row.reason) for row in report.etcd])
        yield ""
    if report.links:
        yield from _links(report)
        yield ""
    for found in report.findings:
        yield f"{found.severity}: {some(found.about)}: {found.what}"
        yield f"  next: {found.next}"
    count = Counter(found.severity for found in report.findings)
    warnings = f", {_many(count['warning'], 'warning')}" if count["warning"] else ""
    yield f"well{warnings}" if report.well else f"NOT WELL: {_many(count['problem'], 'problem')}{warnings}"


_NODES = ("NODE", "READY", "AGENT", "VERSION", "LOCATOR", "ADDRESS", "MAPPINGS", "BEHIND", "PODS", "PROBLEMS")
_CONTROLLERS = ("CONTROLLER", "NODE", "READY", "SERVES", "LEADER", "VERSION", "REASON")
_ETCD = ("ETCD", "NODE", "READY", "REASON")


def _node(row: NodeRow) -> tuple[str, ...]:
    agent = "none" if row.agent is None else row.agent if row.answers else f"{row.agent} (no answer)"
    if not row.answers:
        return (row.name, _yes(row.ready), agent, "", "", row.address or "", "", "", "", "")
    mappings = f"{row.mappings}" if row.complete else f"{row.mappings} (incomplete)"
    behind = "?" if row.behind is None else str(row.behind)
    return (
        row.name,
        _yes(row.ready),
        agent,
        row.version,
        row.locator or "",
        row.address or "",
        mappings,
        behind,
        str(row.endpoints),
        str(row.problems),
    )


def _controller(row: ControllerRow) -> tuple[str, ...]:
    leader = "?" if row.leader is None else _yes(row.leader)
    serves = _yes(row.serving) if row.answers else "no answer"
    return (row.name, row.node, _yes(row.ready), serves, leader, row.version, row.reason)


def _links(report: Report) -> Iterator[str]:
    """Yield a count of the links, and a row for each that is not well."""
    bad = [link for link in report.links if link.state != WELL]
    yield f"links: {len(report.links) - len(bad)} of {len(report.links)} well"
    if bad:
        yield from table(
            ("FROM", "TO", "STATE", "PROBLEM"), [(one.source, one.to, one.state, one.problem) for one in bad]
        )


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _yes(true: object) -> str:
    return "yes" if true else "no"


def result_line(result: Result) -> str:
    """Return a row of `ilanet connectivity test`, as wide as its longest names."""
    return f"{result.test:<28}  {result.outcome:<9}  {result.seconds:6.2f} s  {result.reason}"


def summary_line(summary: Summary) -> str:
    """Return the last line of `ilanet connectivity test`."""
    count = Counter(result.outcome for result in summary.results)
    words = ", ".join(f"{count[outcome]} {outcome}" for outcome in (PASSED, FAILED, SKIPPED) if count[outcome])
    left = f"; namespace {summary.left} is still there" if summary.left else ""
    return f"{words}, on {_many(len(summary.nodes), 'node')}{left}"
