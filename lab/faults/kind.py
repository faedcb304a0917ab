# SPDX-License-Identifier: Apache-2.0
"""What a kind of fault is, and the list of all; kinds.py fills it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from lab.faults.stage import Stage

Harm = Callable[[Stage], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of fault."""

    name: str
    harm: Harm
    hold: tuple[float, float] = (0.3, 2.0)
    """Seconds that the harm lasts, from and to."""

    wire: bool = False
    """Whether the fault is the wire itself."""

    explains: frozenset[str] = frozenset()
    """Verdicts with which packets may be dropped meanwhile."""

    codes: frozenset[int] = frozenset()
    """CNI errors beside 'try again later' after which a runtime may have to try again."""


MADE: list[Kind] = []
"""Every kind so far."""


def kind(name: str, **how: object) -> Callable[[Callable[[Stage], Iterator[None]]], Harm]:
    """Make a kind of a generator that does harm, yields, and undoes it."""

    def made(body: Callable[[Stage], Iterator[None]]) -> Harm:
        harm = contextmanager(body)
        MADE.append(Kind(name=name, harm=harm, **how))  # type: ignore[arg-type]
        return harm

    return made
