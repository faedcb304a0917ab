# SPDX-License-Identifier: Apache-2.0
"""The CNI executable's readers under libFuzzer with ASan and UBSan: from the corpus that is kept, and on from there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SHIM = HERE.parents[1] / "cni/shim"
RUNS = 200_000
"""Inputs of one test: seconds.  `RUNS=50000000 pytest tests/fuzz` goes on for longer."""


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the readers into libFuzzer's loop."""
    target = tmp_path_factory.mktemp("fuzz") / "shim"
    flags = ["-g", "-O1", "-std=c11", "-Wall", "-Wextra", "-Werror", "-fno-sanitize-recover=all"]
    sources = [str(HERE / "shim.c"), str(SHIM / "text.c"), str(SHIM / "queue.c")]
    subprocess.run(["clang", *flags, "-fsanitize=fuzzer,address,undefined", *sources, "-o", str(target)], check=True)
    return target


def test_the_corpus_passes(fuzzer: Path) -> None:
    """Every input that has ever reached new code, and every one that has ever failed."""
    corpus = sorted(map(str, (HERE / "corpus").iterdir()))
    assert len(corpus) > 100
    done = subprocess.run([fuzzer, *corpus], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]


def test_nothing_new_breaks_it(fuzzer: Path, tmp_path: Path) -> None:
    """New inputs, made from the corpus: the one that breaks it is printed, to be kept."""
    runs = os.environ.get("RUNS", str(RUNS))
    found = tmp_path / "found"
    found.mkdir()
    words = [f"-runs={runs}", "-max_len=1024", "-print_final_stats=1", f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run(
        [fuzzer, *words, str(found), str(HERE / "corpus")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"stat::number_of_executed_units: {runs}" in done.stderr
