# SPDX-License-Identifier: Apache-2.0
"""One boot for all tests of this folder: what the guest found out, read once it has ended."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.kernels import Kernel, stock_kernel
from lab.vm import SHARE, Outcome, run_in
from tests.vm.guest import OUTCOMES, RESTORED, ROWS, TRANSLATED

DEADLINE = 1500.0
"""Seconds for all of it, on a machine whose two cores others use too; alone it takes three minutes."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What the guest wrote."""

    kernel: Kernel
    outcome: Outcome
    rows: dict[str, str]
    translated: dict[str, list[dict[str, str]]]
    restored: dict[str, list[dict[str, str]]]
    outcomes: dict[str, str]

    def row(self, name: str) -> str:
        """Return what was wrong with a row: nothing if all was well."""
        return self.rows.get(name, f"the guest did not come so far:\n{self.outcome.output[-4000:]}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give whichever test comes first the time that the boot takes."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(DEADLINE + 300))


@pytest.fixture(scope="session")
def kernel() -> Kernel:
    """Return Debian's kernel, fetched if need be."""
    return stock_kernel()


@pytest.fixture(scope="session")
def findings(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """Boot, let the guest do everything, and return what it found."""
    share = tmp_path_factory.mktemp("vm")
    outcome = run_in(kernel, [sys.executable, "-m", "tests.vm.guest", SHARE], share=share, deadline=DEADLINE)

    def read(name: str) -> dict[str, Any]:
        path = share / name
        return json.loads(path.read_text()) if path.exists() else {}

    return Findings(kernel, outcome, read(ROWS), read(TRANSLATED), read(RESTORED), read(OUTCOMES))
