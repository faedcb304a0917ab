# SPDX-License-Identifier: Apache-2.0
"""What a row is: one check of one rule, and how it says that it failed or cannot be asked; for rows and suite."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.matrix.trial import Trial

VERSIONS = ("0.4.0", "1.0.0", "1.1.0")
"""The cniVersions that are checked, oldest first."""


class Failed(Exception):  # noqa: N818 - says what the plugin did
    """The plugin broke the rule; the message says how."""


class NotAsked(Exception):  # noqa: N818 - says what became of the row
    """The rule cannot be asked of this plugin; the message says why."""


def number(version: str) -> tuple[int, ...]:
    """Return a version as something that compares."""
    return tuple(map(int, version.split(".")))


def checked(supported: Collection[str], since: str = VERSIONS[0]) -> list[str]:
    """Return the versions to check, of those that a plugin supports, oldest first."""
    return [version for version in VERSIONS if version in supported and number(version) >= number(since)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One check."""

    rule: str
    """R1 to R29."""

    sentence: str
    """What is true of a plugin that passes."""

    ask: Callable[[Trial], str | None]
    """Raises Failed or NotAsked; returns what a row that is not judged reports."""

    since: str
    """The oldest cniVersion that has the rule."""

    once: bool
    """Whether the newest version that the plugin has stands for all."""

    process: bool
    """Whether only an executable can show it."""

    judged: bool
    """Whether it passes or fails, or only reports."""

    @property
    def name(self) -> str:
        """A short name without spaces."""
        return f"{self.rule}-{self.ask.__name__.replace('_', '-')}"

    def versions(self, supported: Collection[str]) -> tuple[str, ...]:
        """Return the versions to ask it in, of those that a plugin supports."""
        known = checked(supported, self.since)
        return tuple(known[-1:] if self.once else known)


def row(
    rule: str,
    sentence: str,
    *,
    since: str = VERSIONS[0],
    once: bool = False,
    process: bool = False,
    judged: bool = True,
) -> Callable[[Callable[[Trial], str | None]], Row]:
    """Make a function the check of a rule."""

    def make(ask: Callable[[Trial], str | None]) -> Row:
        return Row(rule=rule, sentence=sentence, ask=ask, since=since, once=once, process=process, judged=judged)

    return make
