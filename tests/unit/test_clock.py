# SPDX-License-Identifier: Apache-2.0
"""A clock that jumps: nothing of ours reads the time of day, but for times of files, and there an hour does no harm.

tests/vm/agent_life.py sets a real one, the guest's, under traffic; that it sets no other is looked at here.
"""

from __future__ import annotations

import ast
import datetime as dt
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.deletes import DeleteQueue
from ila.certificates import Authority, Leaf, remaining
from ila.channel import fingerprint
from lab.vm import SHARE
from tests.unit.test_agent_deletes import FakeNetwork, put
from tests.vm.clock import GuestClock, NotTheGuestError, require_guest

SOURCE = Path(__file__).parent.parent.parent
HOUR = 3600
NOON = 12 * HOUR
LIFETIME = dt.timedelta(days=30)

WALL_CLOCK = {
    *("time", "time_ns", "localtime", "gmtime", "ctime", "asctime", "strftime", "clock_gettime", "clock_gettime_ns"),
    *("now", "utcnow", "today", "fromtimestamp", "utcfromtimestamp"),
    *("st_mtime", "st_mtime_ns", "st_ctime", "st_ctime_ns", "st_atime", "st_atime_ns", "st_birthtime"),
}
"""Names, behind a dot, by which Python hears of the time of day; a monotonic clock's are others."""

SETS_A_CLOCK = ("clock_settime", "settimeofday", "adjtime", "hwclock", "timedatectl", "date -s", "date --set", "stime(")
SETTER = Path("tests/vm/clock.py")
COMMAND_LINE = "console=ttyS0 virtme.exec=`c2g=`"
MOUNTS = ("/dev/root / 9p ro 0 0", f"share {SHARE} 9p rw 0 0")


def uses() -> Iterator[tuple[str, str]]:
    """Yield file and name wherever our code asks for the time of day."""
    for package in ("agent", "cni", "controller", "ila"):
        for file in sorted((SOURCE / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                name = node.attr if isinstance(node, ast.Attribute) else ""
                if isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
                    name = node.module
                if name in WALL_CLOCK or name == "datetime":
                    yield str(file.relative_to(SOURCE)), name


def test_nothing_else_reads_the_time_of_day() -> None:
    """Deadlines and pauses use monotonic clocks; whoever adds a use of the wall clock adds its jump to this file.

    The datapath asks only whether the object's time is another one, as it does of certificates.
    """
    assert set(uses()) == {
        ("agent/deletes.py", "st_mtime_ns"),
        ("agent/kernel/datapath.py", "st_mtime_ns"),
        ("ila/channel.py", "st_mtime_ns"),
        # certificates, and what Kubernetes is told of when something happened
        *((f"ila/{file}.py", name) for file in ("certificates", "enrolment") for name in ("datetime", "now")),
        *((f"controller/{file}.py", name) for file in ("enrolment", "kube") for name in ("datetime", "now")),
        ("controller/kube.py", "strftime"),
    }


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
def test_a_certificate_outlives_a_jump(jump: int) -> None:
    """A new one is neither renewed nor over: its lifetime is long, and it begins before it was made.

    One hour back is before its beginning, which a peer would refuse; then the node's clock is the fault, and is left.
    """
    made, _ = Authority.new("test", lifetime=LIFETIME).issue(Leaf(common_name="one"), lifetime=LIFETIME)
    now = dt.datetime.now(dt.UTC)
    assert remaining(made, now + dt.timedelta(seconds=jump)) > 1 - 2 * HOUR / LIFETIME.total_seconds()


def test_the_executable_knows_only_a_monotonic_clock() -> None:
    """Its deadlines do not jump."""
    text = "".join(file.read_text() for file in sorted((SOURCE / "cni/shim").glob("*.[ch]")))
    assert "CLOCK_MONOTONIC" in text
    for word in ("CLOCK_REALTIME", "gettimeofday", "time(NULL)", "localtime", "gmtime"):
        assert word not in text


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
async def test_queued_deletes_survive_a_jump(tmp_path: Path, jump: int) -> None:
    """DELs queued before and after a jump are all carried out, each once; only their order follows the clock."""
    for number, container in enumerate(("a", "b", "c", "d")):
        put(tmp_path / "deletes", container, second=NOON + number + (jump if number > 1 else 0))
    network = FakeNetwork()
    with ThreadPoolExecutor(1) as pool:
        await DeleteQueue(path=tmp_path / "deletes", pool=pool).replay(network)
    assert sorted(network.deleted) == ["a", "b", "c", "d"]
    assert not list((tmp_path / "deletes").iterdir())


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
def test_a_renewed_certificate_is_noticed_over_a_jump(tmp_path: Path, jump: int) -> None:
    """A file that looks an hour older than the one it replaces is another one all the same."""
    file = tmp_path / "certificate"
    file.write_text("one")
    os.utime(file, (NOON, NOON))
    before = fingerprint([file])
    fresh = tmp_path / "fresh"
    fresh.write_text("two")
    os.utime(fresh, (NOON + jump, NOON + jump))
    fresh.replace(file)
    assert fingerprint([file]) != before


def test_nothing_but_the_guests_clock_is_set() -> None:
    """One file of the tree can set a clock."""
    folders = [folder for folder in SOURCE.glob("[a-z]*/") if folder.name != "build"]
    files = [file for folder in folders for file in folder.rglob("*") if file.suffix in (".py", ".sh", ".c", ".h")]
    texts = {file.relative_to(SOURCE): file.read_text() for file in (*files, SOURCE / "Makefile")}
    setters = {file for file, text in texts.items() if any(word in text for word in SETS_A_CLOCK)}
    assert setters == {SETTER, Path(__file__).relative_to(SOURCE)}


def test_the_clock_of_this_machine_is_left_alone() -> None:
    """No clock can be had that could be set here."""
    with pytest.raises(NotTheGuestError):
        GuestClock()


@pytest.mark.parametrize(
    ("command_line", "mounts"),
    [
        ("console=ttyS0", MOUNTS),
        (COMMAND_LINE, MOUNTS[:1]),
        (COMMAND_LINE, MOUNTS[1:]),
        (COMMAND_LINE, ("/dev/vda1 / ext4 rw 0 0", MOUNTS[1])),
        (COMMAND_LINE, (MOUNTS[0], f"tmpfs {SHARE} tmpfs rw 0 0")),
    ],
)
def test_a_guest_has_every_mark_of_one(command_line: str, mounts: tuple[str, ...]) -> None:
    """With all of them a clock may be set, with one missing it may not."""
    require_guest(COMMAND_LINE, "\n".join(MOUNTS))
    with pytest.raises(NotTheGuestError):
        require_guest(command_line, "\n".join(mounts))
