# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PLACES = re.findall(r"`([\w/.-]+\.(?:py|c|h))(?::([\w.]+))?`", (ROOT / "README.md").read_text())
TARGETS = re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("file", "name"), PLACES)
def test_what_the_readme_names_is_there(file: str, name: str) -> None:
    """Every `file:function` of the README exists: the lives of a packet and of a pod stay true."""
    text = (ROOT / file).read_text()
    for part in filter(None, name.split(".")):
        assert re.search(rf"(?:def|class|enum verdict|int|bool|void)\s+{part}\b|^{part}\(", text, re.MULTILINE), part


@pytest.mark.parametrize("target", sorted(set(TARGETS)))
def test_every_target_of_the_readme_is_documented(target: str) -> None:
    """Every `make ...` of the README is a target that `make help` lists."""
    assert re.search(rf"^{target}:.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_places_were_found() -> None:
    """The README names at least ten places: the search above is not empty by accident."""
    assert len([name for _, name in PLACES if name]) >= 10
