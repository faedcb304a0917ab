# SPDX-License-Identifier: Apache-2.0
"""The verifier's work per program against verifier.json, so that growth is noticed before a kernel refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bpf import counts


def test_no_program_grew(bpffs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every program loads, and costs the verifier what the file says of this kernel, within a tenth."""
    now = counts.measured(bpffs)
    before = counts.known().get(counts.kernel())
    if before is None:
        with capsys.disabled():
            print(f"\nkernel {counts.kernel()} is not in {counts.FILE.name}: all {len(now)} programs load")
        assert len(now) == len(next(iter(counts.known().values())))
        return
    assert counts.objections(before, now) == [], counts.RENEW


def test_growth_is_noticed() -> None:
    """More than a tenth, a program that came and one that went are named; less, and shrinking, are not."""
    before = {"same": 100, "grew": 100, "grew a little": 100, "shrank": 100, "gone": 100}
    now = {"same": 100, "grew": 111, "grew a little": 110, "shrank": 50, "new": 7}
    assert counts.objections(before, now) == [
        "new is new (7 instructions)",
        "gone is gone",
        "grew grew from 100 to 111 instructions",
    ]
