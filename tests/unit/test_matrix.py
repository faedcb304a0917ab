# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.matrix.plugin import Subject
from tests.matrix.row import VERSIONS, Row
from tests.matrix.rows import LEFT_OUT, ROWS
from tests.matrix.suite import Answer, Mark, ask, supported
from tests.matrix_fakes import in_process

CASES = [(row, version) for row in ROWS for version in row.versions(VERSIONS)]

NO_DELEGATE = Answer(Mark.NOT_ASKED, "the configuration names no delegate (ipam)")
NO_DAEMON = Answer(Mark.NOT_ASKED, "the plugin has no daemon that could be away")
NO_PROCESS = Answer(Mark.NOT_ASKED, "only an executable shows it")

NOT_SHOWN: Mapping[str, Answer] = {
    "R3-no-command": NO_PROCESS,
    "R10-add-while-the-daemon-is-away": NO_DAEMON,
    "R12-stdout-is-closed": NO_PROCESS,
    "R16-failing-delegate-is-undone": NO_DELEGATE,
    "R16-delegate-is-undone": NO_DELEGATE,
    "R19-daemon-is-away": NO_DAEMON,
    "R21-delegate-is-checked": NO_DELEGATE,
    "R21-check-while-the-daemon-is-away": NO_DAEMON,
    "R23-delegate-collects": NO_DELEGATE,
    "R24-status-while-the-daemon-is-away": NO_DAEMON,
    "R24-status-while-the-daemon-hangs": NO_DAEMON,
    "R24-delegate-s-status": NO_DELEGATE,
    "R25-status-is-no-precondition": NO_DAEMON,
}
"""Rows that the Python alone cannot show; tests/netns/test_matrix.py shows them, but for those about delegates."""

PAGE = Path(__file__).parents[2] / "docs/cni-matrix.md"
RULES = {f"R{number}" for number in range(1, 30)}


@pytest.fixture
def subject(tmp_path: Path) -> Iterator[Subject]:
    """Yield ilanet's Python logic on a node that serves."""
    with ThreadPoolExecutor(4) as pool:
        plugin, place = in_process(tmp_path, pool)
        with closing(plugin):
            yield Subject(
                name="ilanet",
                plugin=plugin,
                place=place,
                config={"name": "ilanet", "type": "ilanet"},
                directory=tmp_path,
                grace=10,
                patience=1,
            )


@pytest.mark.parametrize(("row", "version"), CASES, ids=[f"{row.name}-{version}" for row, version in CASES])
def test_row(subject: Subject, row: Row, version: str) -> None:
    """The row passes on the Python alone; one that this cannot show says so."""
    answer = ask(subject, row, version, VERSIONS)
    if row.name in NOT_SHOWN:
        assert answer == NOT_SHOWN[row.name]
    else:
        assert answer.mark is (Mark.PASS if row.judged else Mark.REPORTED), answer.note


def test_every_version_is_listed(subject: Subject) -> None:
    """VERSION lists exactly the versions that the rows are asked in."""
    assert supported(subject) == VERSIONS


def test_every_rule_has_a_row_or_a_reason() -> None:
    """R1 to R29 are all there, rows have names of their own, and exceptions name rows that exist."""
    names = [row.name for row in ROWS]
    assert {row.rule for row in ROWS} | {what.partition(",")[0] for what in LEFT_OUT} == RULES
    assert len(set(names)) == len(names)
    assert set(NOT_SHOWN) <= set(names)


def test_the_published_page_has_these_rows() -> None:
    """docs/cni-matrix.md was written by `make matrix` for the rows as they are."""
    table = [line.split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| R")]
    assert [(cells[0].removeprefix("| "), cells[1]) for cells in table] == [(row.rule, row.sentence) for row in ROWS]
