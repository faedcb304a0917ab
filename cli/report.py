# SPDX-License-Identifier: Apache-2.0
"""The shape of what `ilanet status` finds; for cli.status, which fills it, and cli.render, which shows it.

A Report is what `ilanet status -o json` prints, field by field, beside `"kind": "ilanet/status"` and `"version": 1`.
Fields may be added; one that is taken away or changes its meaning raises the version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PROBLEM, WARNING = "problem", "warning"
WELL, BROKEN, UNKNOWN = "well", "broken", "unknown"
NOT_YET = "not probed yet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is not as it should be."""

    severity: str
    """'problem': not well; 'warning': well, but somebody should know."""

    about: tuple[str, ...]
    """Such as 'node worker-1' or 'controller ilanet-controller-x'; all of which the same is true."""

    what: str
    next: str
    """What to do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    """A node of Kubernetes and its agent."""

    name: str
    ready: bool
    agent: str | None
    """Name of the agent's pod."""

    answers: bool
    version: str = ""
    locator: str | None = None
    address: str | None = None
    serving: bool = False
    mappings: int | None = None
    complete: bool = False
    endpoints: int | None = None
    generation: str | None = None
    behind: int | None = None
    """etcd revisions that the newest published mapping is ahead of this agent; null: unknown, or of another epoch."""

    problems: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerRow:
    """A replica of the controller."""

    name: str
    node: str
    ready: bool
    answers: bool
    serving: bool = False
    leader: bool | None = None
    version: str = ""
    reason: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdRow:
    """A member of ilanet's own etcd."""

    name: str
    node: str
    ready: bool
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRow:
    """The underlay from one node towards another, as the first one's agent probed it."""

    source: str
    to: str
    state: str
    """'well', 'broken' or 'unknown'."""

    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that `ilanet status` shows."""

    well: bool
    """Whether there is no problem; warnings do not count."""

    namespace: str
    nodes: tuple[NodeRow, ...]
    controllers: tuple[ControllerRow, ...]
    etcd: tuple[EtcdRow, ...]
    links: tuple[LinkRow, ...]
    findings: tuple[Finding, ...]


def some(names: Sequence[str], most: int = 5) -> str:
    """Return names as words, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{rest}"
