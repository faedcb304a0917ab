# SPDX-License-Identifier: Apache-2.0
"""One version, wherever it is written."""

from __future__ import annotations

import tomllib
from pathlib import Path

from ila import VERSION

ROOT = Path(__file__).parents[2]


def test_every_place_says_the_same() -> None:
    """The project's file says what agents and controllers say."""
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION
