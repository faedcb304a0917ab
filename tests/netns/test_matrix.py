# SPDX-License-Identifier: Apache-2.0
"""Every row of the CNI matrix, through the executable against a live agent; and that broken plugins fail it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lab.cluster import Cluster
from tests.matrix.plugin import Subject
from tests.matrix.row import VERSIONS, Row
from tests.matrix.rows import ROWS
from tests.matrix.suite import Answer, Mark, ask, supported
from tests.netns.columns import ilanet, one_host

CASES = [(row, version) for row in ROWS for version in row.versions(VERSIONS)]

NOT_OURS = {
    "R16-failing-delegate-is-undone",
    "R16-delegate-is-undone",
    "R21-delegate-is-checked",
    "R23-delegate-collects",
    "R24-delegate-s-status",
}
"""Rows about delegates: ilanet has none."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Yield a cluster of one host."""
    made = one_host()
    try:
        made.start()
        yield made
    finally:
        made.close()
        assert made.leftovers() == []


@pytest.fixture(scope="module")
def subject(cluster: Cluster) -> Iterator[Subject]:
    """Yield ilanet; the grace is for a machine that does more than this."""
    with ExitStack() as undo:
        yield ilanet(undo, cluster, grace=10)


@pytest.fixture(scope="module")
def listed(subject: Subject) -> tuple[str, ...]:
    return supported(subject)


def test_every_version_is_listed(listed: tuple[str, ...]) -> None:
    """VERSION lists exactly the versions that the rows below are asked in."""
    assert listed == VERSIONS


@pytest.mark.parametrize(("row", "version"), CASES, ids=[f"{row.name}-{version}" for row, version in CASES])
def test_row(subject: Subject, listed: tuple[str, ...], row: Row, version: str) -> None:
    """The row passes; a row that is not about ilanet says so."""
    answer = ask(subject, row, version, listed)
    if row.name in NOT_OURS:
        assert answer == Answer(Mark.NOT_ASKED, "the configuration names no delegate (ipam)")
    else:
        assert answer.mark is (Mark.PASS if row.judged else Mark.REPORTED), answer.note
