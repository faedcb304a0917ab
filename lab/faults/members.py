# SPDX-License-Identifier: Apache-2.0
"""The kinds of fault that meet etcd: its members, their database and their disks; for drive.py, etcd() for kinds.py."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.etcd import Etcd
from lab.faults.kind import kind
from lab.faults.stage import MEMBER_DISK, Stage
from lab.namespace import CommandError, run
from lab.process import ProcessError

MEMBERS = range(3)

_FILL = "ilanet-fault-fill/"


def etcd(stage: Stage) -> Etcd:
    """Return the cluster's etcd."""
    if stage.cluster.etcd is None:
        raise CommandError("there is no etcd")
    return stage.cluster.etcd


@kind("etcd member kill")
def etcd_kill(stage: Stage) -> Iterator[None]:
    """Kill one of three members."""
    member = stage.random.choice(MEMBERS)
    etcd(stage).kill(member)
    yield
    etcd(stage).start()


@kind("etcd member freeze")
def etcd_freeze(stage: Stage) -> Iterator[None]:
    """Freeze one of three members: its connections stay, and nothing answers."""
    member = stage.random.choice(MEMBERS)
    etcd(stage).freeze(member)
    yield
    etcd(stage).thaw(member)


@kind("etcd leader kill")
def etcd_leader_kill(stage: Stage) -> Iterator[None]:
    """Kill the member that leads."""
    etcd(stage).kill(etcd(stage).leader())
    yield
    etcd(stage).start()


@kind("etcd all killed")
def etcd_all_killed(stage: Stage) -> Iterator[None]:
    """Kill every member."""
    etcd(stage).kill()
    yield
    etcd(stage).start()


@kind("etcd out of space")
def etcd_no_space(stage: Stage) -> Iterator[None]:
    """Fill etcd up to its quota; undone as its documentation says: delete, compact, defragment, disarm."""
    number = 0
    try:
        while True:
            etcd(stage).ctl("put", f"{_FILL}{number}", stdin="x" * (1 << 20))
            number += 1
    except CommandError as error:
        if "database space exceeded" not in str(error):
            raise
    yield
    etcd(stage).ctl("del", "--prefix", _FILL)
    etcd(stage).compact()
    for place in etcd(stage).endpoints:
        etcd(stage).ctl("defrag", endpoints=[place])
    etcd(stage).ctl("alarm", "disarm")


@kind("etcd member, then leader kill")
def etcd_member_then_leader(stage: Stage) -> Iterator[None]:
    """Kill a member and, while it is away, the one that leads the two others; they come back one after the other."""
    first = stage.random.choice(MEMBERS)
    etcd(stage).kill(first)
    stage.hold(stage.random.uniform(0.2, 1.0))
    stage.until(lambda: _leader(stage) is not None, f"etcd leads without member {first}")
    second = etcd(stage).leader()
    etcd(stage).kill(second)
    yield
    etcd(stage).start_member(stage.random.choice((first, second)))
    stage.hold(stage.random.uniform(0.0, 1.0))
    etcd(stage).start()


def _leader(stage: Stage) -> int | None:
    """Return which member leads, if one does."""
    try:
        return etcd(stage).leader()
    except CommandError:
        return None


@kind("etcd disk full")
def etcd_disk_full(stage: Stage) -> Iterator[None]:
    """Leave no free block on the disks of one member or more; who ends of it is started again, as a supervisor does.

    Their logs have been given 64 MB in advance (etcd, wal.SegmentSizeBytes): it is the database that cannot grow.
    """
    members = stage.random.sample(MEMBERS, stage.random.randint(1, len(MEMBERS)))
    with contextlib.ExitStack() as stack:
        for member in members:
            stack.enter_context(full(stage, etcd(stage).data(member)))
        stage.until(lambda: not all(map(etcd(stage).pid, members)), f"one of etcd's members {members} finds no space")
        for member in members:
            etcd(stage).start_member(member)
        yield
    stage.until(lambda: _supervised(stage), "all members of etcd are well")


@contextmanager
def full(stage: Stage, disk: Path) -> Iterator[None]:
    """Make a file system (tmpfs) as small as what it holds."""
    stage.until(lambda: _shrunk(disk), f"{disk} has no free block")
    try:
        yield
    finally:
        run("mount", "-o", f"remount,size={MEMBER_DISK}", str(disk))


def _shrunk(disk: Path) -> bool:
    """Take all free blocks; not while somebody just writes."""
    now = os.statvfs(disk)
    try:
        run("mount", "-o", f"remount,size={(now.f_blocks - now.f_bfree) * now.f_frsize}", str(disk))
    except CommandError:
        return False
    return True


def _supervised(stage: Stage) -> bool:
    """Start members that have ended; tell whether every one answers."""
    try:
        etcd(stage).start()
        etcd(stage).ctl("endpoint", "health")
    except (CommandError, ProcessError):
        return False
    return True
