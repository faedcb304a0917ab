# SPDX-License-Identifier: Apache-2.0
"""Asks rows of a plugin and puts together what came of it; for the command line and for tests."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.matrix.plugin import Subject
from tests.matrix.row import VERSIONS, Failed, NotAsked, Row, checked
from tests.matrix.rows import ROWS
from tests.matrix.trial import Trial


class Mark(enum.Enum):
    """What became of a row."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "FAIL"
    NOT_ASKED = "n/a"
    REPORTED = "seen"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a row in one version."""

    mark: Mark
    note: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a row in all versions that it was asked in."""

    row: Row
    answers: Mapping[str, Answer]
    """By version; what was asked in none stands under an empty one."""

    @property
    def mark(self) -> Mark:
        """Failed if it failed once, passed if it passed once."""
        marks = {answer.mark for answer in self.answers.values()}
        return next(mark for mark in (Mark.FAIL, Mark.PASS, Mark.REPORTED, Mark.NOT_ASKED) if mark in marks)

    def notes(self) -> list[str]:
        """Return what was said, each once, after the versions that it was said of if these are not all."""
        said: dict[str, list[str]] = {}
        for version, answer in self.answers.items():
            if answer.note and answer.mark is self.mark:
                said.setdefault(answer.note, []).append(version)
        every = list(self.answers)
        return [note if versions == every else f"{', '.join(versions)}: {note}" for note, versions in said.items()]


@dataclass(frozen=True, slots=True)
class Column:
    """What became of all rows with one plugin."""

    name: str
    described: Mapping[str, str]
    supported: Sequence[str]
    findings: Sequence[Finding]
    counts: Mapping[Mark, int] = field(init=False)

    def __post_init__(self) -> None:
        counts = {mark: sum(finding.mark is mark for finding in self.findings) for mark in Mark}
        object.__setattr__(self, "counts", counts)


def supported(subject: Subject) -> tuple[str, ...]:
    """Return what VERSION lists; the configuration's own version if VERSION gives no list."""
    trial = Trial(subject=subject, version=str(subject.config.get("cniVersion") or VERSIONS[1]), supported=())
    try:
        listed = trial.call("VERSION").tree()["supportedVersions"]
        return tuple(map(str, listed))
    except (ValueError, KeyError, TypeError):
        return (trial.version,)


def ask(subject: Subject, row: Row, version: str, listed: Sequence[str]) -> Answer:
    """Ask one row in one version, and take all away again."""
    if row.process and not subject.plugin.is_process:
        return Answer(Mark.NOT_ASKED, "only an executable shows it")
    trial = Trial(subject=subject, version=version, supported=listed)
    try:
        note = row.ask(trial)
    except Failed as failure:
        return Answer(Mark.FAIL, str(failure))
    except NotAsked as reason:
        return Answer(Mark.NOT_ASKED, str(reason))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return Answer(Mark.FAIL, f"its answer cannot be read: {type(error).__name__}: {error}")
    finally:
        trial.close()
    return Answer(Mark.PASS) if row.judged else Answer(Mark.REPORTED, note or "")


def run(subject: Subject, *, rows: Sequence[Row] = ROWS, say: Callable[[Finding], None] = lambda _: None) -> Column:
    """Ask all rows in all versions; `say` hears of each row when it is done."""
    listed = supported(subject)
    _warm_up(subject, listed)
    findings = []
    for row in rows:
        versions = row.versions(listed)
        none = Answer(Mark.NOT_ASKED, f"VERSION lists nothing from {row.since} on")
        answers = {version: ask(subject, row, version, listed) for version in versions} or {"": none}
        findings.append(Finding(row, answers))
        say(findings[-1])
    return Column(subject.name, subject.described, listed, findings)


def _warm_up(subject: Subject, listed: Sequence[str]) -> None:
    """Attach and detach one pod: what a plugin makes once per host is no trace of a pod."""
    trial = Trial(subject=subject, version=(checked(listed) or [VERSIONS[1]])[-1], supported=listed)
    try:
        trial.call("ADD", trial.pod())
    finally:
        trial.close()
