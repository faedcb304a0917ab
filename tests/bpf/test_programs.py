# SPDX-License-Identifier: Apache-2.0
"""Every program on named packet pairs, byte for byte, with and without a checksum over the whole packet."""

from __future__ import annotations

import platform

import pytest

from tests.bpf import cases_pod, cases_wire
from tests.bpf.world import CHECKSUM_COMPLETE, MARK, Case, World

CASES = cases_pod.CASES + cases_wire.CASES
_PASS, _DROP, _REDIRECT = -1, 2, 7
_SENT = {"delivered", "forwarded", "next_hop", "onward"}
_HOOKS = {"from_edge": "from_wire", "to_edge": "to_wire"}

UNREACHED = {"no_memory"}
"""Verdicts that no packet brings about: the kernel would have to be out of memory."""


def _checksum_complete_is_tested() -> bool:
    return tuple(int(part) for part in platform.release().split(".")[:2]) >= (6, 18)


@pytest.mark.parametrize("flags", [0, CHECKSUM_COMPLETE], ids=["plain", "checksum-complete"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_packet(world: World, case: Case, flags: int) -> None:
    """The program returns, counts, marks and writes what the pair says, and nothing else."""
    if flags and not _checksum_complete_is_tested():
        pytest.skip("kernel: BPF_F_TEST_SKB_CHECKSUM_COMPLETE came with 6.18")
    host = world.host(case.settings)
    host.datapath.set_complete(complete=case.complete)
    segments, size = case.gso
    outcome = host.run(
        case.program, case.frame, index=case.index, flags=flags, mark=1, gso_segs=segments, gso_size=size
    )
    hook = _HOOKS.get(case.program, case.program)
    assert outcome.counted == [(hook, case.verdict, 1, len(case.frame))]
    assert outcome.frame == (case.frame if case.after is None else case.after)
    drops = {count.verdict for count in host.datapath.verdicts() if count.drop}
    answered = case.verdict == "unmapped" and hook != "to_wire"
    expected = _REDIRECT if case.verdict in _SENT else _DROP if case.verdict in drops and not answered else _PASS
    assert outcome.code == expected
    assert outcome.mark == (MARK | 1 if case.marked else 1)


def test_names_are_unique() -> None:
    """A case is found by its name."""
    names = [str(case) for case in CASES]
    assert len(names) == len(set(names))


def test_no_dead_verdicts(world: World) -> None:
    """Every verdict of the object's BTF is brought about by some named packet."""
    known = {count.verdict for count in world.host().datapath.verdicts()}
    assert known - {case.verdict for case in CASES} == UNREACHED


def test_every_row_is_shown() -> None:
    """Every row of the test matrix that the datapath answers for stands in a name."""
    shown = {word for case in CASES for word in case.name.split("-") if word[0] == "T" and word[1:].isdigit()}
    assert {f"T{row}" for row in (4, 5, 7, 8, 11, 12, 13, 14, 15, 24, 25, 27, 28, 29, 30)} <= shown
