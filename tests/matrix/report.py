# SPDX-License-Identifier: Apache-2.0
"""What a run found, as lines on a terminal, JSON and Markdown; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.matrix.rows import LEFT_OUT
from tests.matrix.suite import Column, Finding, Mark


def line(finding: Finding) -> str:
    """Return one row for a terminal; notes stand below it."""
    row = finding.row
    notes = "".join(f"\n           {note}" for note in finding.notes())
    return f"{row.rule:<4} {finding.mark.value:<5} {row.sentence}{notes}"


def summary(column: Column) -> str:
    """Return the last line for a terminal."""
    counts = column.counts
    return (
        f"{column.name}: {counts[Mark.PASS]} passed, {counts[Mark.FAIL]} failed, "
        f"{counts[Mark.NOT_ASKED]} cannot be asked, {counts[Mark.REPORTED]} only reported; "
        f"VERSION lists {', '.join(column.supported)}"
    )


def tree(columns: Sequence[Column]) -> dict[str, Any]:
    """Return all of it as JSON's own types."""
    return {
        "plugins": [
            {
                "name": column.name,
                **column.described,
                "supportedVersions": list(column.supported),
                "counts": {mark.value: count for mark, count in column.counts.items()},
                "rows": [_row(finding) for finding in column.findings],
            }
            for column in columns
        ],
        "leftOut": dict(LEFT_OUT),
    }


def _row(finding: Finding) -> Mapping[str, Any]:
    return {
        "rule": finding.row.rule,
        "name": finding.row.name,
        "sentence": finding.row.sentence,
        "mark": finding.mark.value,
        "versions": {
            version: {"mark": answer.mark.value, "note": answer.note} for version, answer in finding.answers.items()
        },
    }


def markdown(columns: Sequence[Column], *, head: str) -> str:
    """Return a page: `head`, one table with a column for each plugin, and what the failures said.

    All columns have the same rows.
    """
    found = [{finding.row.name: finding for finding in column.findings} for column in columns]
    lines = [head.rstrip(), "", f"| rule | what is asked | {' | '.join(column.name for column in columns)} |"]
    lines.append("| --- " * (len(columns) + 2) + "|")
    for row in (finding.row for finding in columns[0].findings):
        cells = [_cell(findings[row.name]) for findings in found]
        lines.append(f"| {row.rule} | {_escaped(row.sentence)} | {' | '.join(cells)} |")
    for mark in (Mark.PASS, Mark.FAIL, Mark.NOT_ASKED):
        counts = [str(column.counts[mark]) for column in columns]
        lines.append(f"| | {_COUNTED[mark]} | {' | '.join(counts)} |")
    lines += ["", "## Plugins"]
    for column in columns:
        described = "".join(f"; {key}: {value}" for key, value in column.described.items())
        lines.append(f"- {column.name}: VERSION lists {', '.join(column.supported)}{described}.")
    for mark, title in ((Mark.FAIL, "What failures said"), (Mark.NOT_ASKED, "What could not be asked")):
        for column in columns:
            lines += _notes(column, mark, title)
    lines += ["", "## What the matrix leaves out"]
    lines += [f"- {what}: {why}." for what, why in LEFT_OUT.items()]
    return "\n".join(lines) + "\n"


_COUNTED = {Mark.PASS: "passed", Mark.FAIL: "failed", Mark.NOT_ASKED: "cannot be asked"}


def _cell(finding: Finding) -> str:
    if finding.mark is Mark.REPORTED:
        return "; ".join(finding.notes())
    return f"**{finding.mark.value}**" if finding.mark is Mark.FAIL else finding.mark.value


def _notes(column: Column, mark: Mark, title: str) -> list[str]:
    """Return a section with what was said where a row has this mark; one line for each thing said."""
    said: dict[str, list[str]] = {}
    for finding in column.findings:
        if finding.mark is mark:
            said.setdefault("; ".join(finding.notes()), []).append(f"{finding.row.rule} {finding.row.sentence}")
    if not said:
        return []
    lines = ["", f"## {title}: {column.name}"]
    for note, rows in said.items():
        if mark is Mark.FAIL:
            quoted = note.replace("`", "'")
            lines.append(f"- {_escaped('; '.join(rows))}: `{quoted}`")
        else:
            lines.append(f"- {_rules(rows)}: {note}.")
    return lines


def _rules(rows: Sequence[str]) -> str:
    """Return the rules that rows belong to, with how many rows each."""
    rules = [row.partition(" ")[0] for row in rows]
    return ", ".join(f"{rule} ({rules.count(rule)})" for rule in dict.fromkeys(rules))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
