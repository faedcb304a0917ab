# SPDX-License-Identifier: Apache-2.0
"""One fault after the other under traffic, and what each of them cost; for bench/faults.py and tests."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from agent.core.datapath import DatapathError
from ila.mapping import RecordError
from lab.cri import CriError
from lab.fabric import Shape
from lab.faults import invariants
from lab.faults.catalogue import KINDS
from lab.faults.kind import Kind
from lab.faults.removal import uninstalled
from lab.faults.stage import PATIENCE, Measures, Stage
from lab.faults.traffic import BLOCK, Count, Tcp, TrafficError
from lab.namespace import CommandError
from lab.process import ProcessError
from lab.runtime import CniError

ALWAYS = frozenset({"link_local_source"})
"""Verdicts that need no fault: a new interface speaks of itself."""

World = (
    CommandError,
    CniError,
    CriError,
    DatapathError,
    ProcessError,
    RecordError,
    TrafficError,
    OSError,
    subprocess.TimeoutExpired,
)
"""What the world may do to a fault; anything else is a mistake of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one fault cost."""

    kind: Kind
    seconds: float
    pods: int
    retries: int
    """Of CNI calls, as a kubelet does them."""

    sent: int
    lost: int
    rate: float
    """Datagrams a second each way, really sent."""

    resets: int
    retransmitted: int
    """TCP segments that any pod sent again, without those that the peer says it had."""

    drops: dict[str, int]
    """Packets by host, hook and verdict, that nothing explains."""

    backlog: int
    """Packets that the machine itself had no room for."""

    leaks: list[str]
    failures: list[str]

    def __str__(self) -> str:
        """Return one line, and one for each complaint."""
        line = (
            f"{self.kind.name:<32}{self.seconds:>6.1f} s {self.pods:>4} pods {self.sent:>9,} sent {self.rate:>8,.0f}/s "
            f"{self.lost:>6,} lost {self.resets:>3} resets {self.retransmitted:>4} sent again"
        )
        return "\n      ".join((line, *self.complaints))

    @property
    def complaints(self) -> list[str]:
        """What must not be: empty if the fault cost nothing."""
        found = [*self.leaks, *self.failures, *(f"{count} drops {place}" for place, count in self.drops.items())]
        if self.resets:
            found.append(f"{self.resets} connections were reset")
        if not self.kind.wire:
            found += [f"{self.lost} of {self.sent} datagrams were lost"] * (self.lost != 0)
            found += [f"{self.retransmitted} segments were sent again"] * (self.retransmitted != 0)
        return found


@dataclass
class Run:
    """All faults of one run."""

    outcomes: list[Outcome] = field(default_factory=list)
    blocks: int = 0
    """Of the stream."""

    bulk: float = 0.0
    """Bytes a second that the stream carried, over all of its life."""

    looks: int = 0
    """At every host's generations."""

    complaints: list[str] = field(default_factory=list)
    """What is nobody's fault in particular: a broken stream, a generation that went back, what an uninstall left."""

    @property
    def all_complaints(self) -> list[str]:
        """Everything that must not be, with the fault it came with."""
        return [f"{each.kind.name}: {text}" for each in self.outcomes for text in each.complaints] + self.complaints


def order(kinds: Sequence[Kind], count: int, stage: Stage) -> Iterator[Kind]:
    """Yield so many faults: every kind once, in any order, and so on."""
    given = 0
    while given < count:
        turn = list(kinds)
        stage.random.shuffle(turn)
        yield from turn[: count - given]
        given += len(turn)


def one(stage: Stage, kind: Kind) -> Outcome:
    """Do one fault under traffic and return what it cost."""
    started = time.monotonic()
    before = stage.measure()
    failures: list[str] = []
    with coming_and_going(stage, kind), stage.datagrams() as flows:
        stage.hold(stage.random.uniform(0.2, 0.8))
        try:
            with kind.harm(stage):
                stage.hold(stage.random.uniform(*kind.hold))
            stage.recovered()
        except World as error:
            failures.append(words(error))
        stage.hold(0.3)
        counts = [flow.finish() for flow in flows]
    left = at_rest(stage)
    seconds = time.monotonic() - started
    return _outcome(stage, kind, seconds=seconds, before=before, counts=counts, left=left, failures=failures)


def words(error: Exception) -> str:
    """Return what the world did, in one piece of text."""
    return f"{type(error).__name__}: {error}"


@contextmanager
def coming_and_going(stage: Stage, kind: Kind) -> Iterator[None]:
    """Let pods come and go on every host; afterwards the last one is gone."""
    for churn in stage.churns.values():
        churn.codes |= kind.codes
        churn.begin()
    try:
        yield
    finally:
        for churn in stage.churns.values():
            churn.rest()
            churn.codes -= kind.codes


def at_rest(stage: Stage, patience: float = PATIENCE / 2) -> list[str]:
    """Return what is left over, once that no longer changes for the better."""
    deadline = time.monotonic() + patience
    while True:
        try:
            found = invariants.leaks(stage)
        except World as error:
            found = [f"cannot be checked: {words(error)}"]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def _outcome(
    stage: Stage,
    kind: Kind,
    *,
    seconds: float,
    before: Measures,
    counts: Sequence[Count],
    left: list[str],
    failures: list[str],
) -> Outcome:
    after = before
    try:
        after = stage.measure()
    except World as error:
        failures.append(f"counters cannot be read: {words(error)}")
    tallies = [churn.tally() for churn in stage.churns.values()]
    allowed = ALWAYS | kind.explains
    drops = {
        "/".join(place): rise
        for place, count in after.drops.items()
        if place[2] not in allowed and (rise := _rise(before.drops.get(place, 0), count))
    }
    if untranslated := after.untranslated - before.untranslated:
        drops["untranslated on the wire"] = untranslated
    stayed = [count - before.tcp.get(container, Tcp()) for container, count in after.tcp.items()]
    tcp = sum([*stayed, *(tally.tcp for tally in tallies)], Tcp())
    return Outcome(
        kind=kind,
        seconds=seconds,
        pods=sum(tally.pods for tally in tallies),
        retries=sum(tally.retries for tally in tallies),
        sent=sum(count.sent for count in counts),
        lost=sum(count.sent - count.received for count in counts),
        rate=min(count.sent / count.seconds for count in counts),
        resets=tcp.resets + sum(tally.resets for tally in tallies),
        retransmitted=max(0, tcp.retransmitted - tcp.spurious),
        drops=drops,
        backlog=after.backlog - before.backlog,
        leaks=left,
        failures=failures + [text for tally in tallies for text in tally.failures],
    )


def _rise(before: int, after: int) -> int:
    """Return by how much a counter rose; one that is lower than before began anew with its map."""
    return after - before if after >= before else after


@contextmanager
def staged(
    *, name: str, rate: int, pause: float, seed: int, shape: Shape = Shape.ROUTED, host_path: str = "stack"
) -> Iterator[Stage]:
    """Yield a stage, built, and remove it whatever happens."""
    stage = Stage(name=name, shape=shape, host_path=host_path, rate=rate, pause=pause, seed=seed)
    try:
        stage.build()
        yield stage
    finally:
        stage.close()


def run(stage: Stage, *, names: Sequence[str], count: int, seconds: float, say: Callable[[Outcome], None]) -> Run:
    """Do `count` faults of these kinds, end with what is true of the whole run, and uninstall every host.

    Fewer, if `seconds` are over or the world does not let the next one begin; that one is complained of.
    """
    kinds = [kind for kind in KINDS if kind.name in names]
    if len(kinds) != len(set(names)):
        raise ValueError(f"{sorted(set(names) - {kind.name for kind in kinds})} are no kinds")
    found = Run()
    deadline = time.monotonic() + seconds
    for kind in order(kinds, count, stage):
        if time.monotonic() > deadline:
            break
        try:
            found.outcomes.append(one(stage, kind))
        except World as error:
            found.complaints.append(f"{kind.name} could not be done, nor anything after it: {words(error)}")
            break
        say(found.outcomes[-1])
    if stage.stream is not None:
        missing = stage.stream.finish()
        found.blocks = stage.stream.sent
        found.bulk = stage.stream.received * BLOCK.size / stage.stream.seconds
        found.complaints += stage.stream.failures + [f"{missing} blocks of the stream are missing"] * (missing != 0)
    found.looks = stage.generations.looks
    found.complaints += stage.generations.violations
    for host in stage.hosts:
        try:
            found.complaints += uninstalled(stage, host)
        except World as error:
            found.complaints.append(f"{host.name} cannot be uninstalled: {words(error)}")
    return found
