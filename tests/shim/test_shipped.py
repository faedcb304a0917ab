# SPDX-License-Identifier: Apache-2.0
"""The CNI executable as it is shipped."""

import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from agent.cni_server import listen
from cni.spec import Code
from tests.shim.program import ROOT, Shim


def test_status_is_bounded_in_the_shipped_executable(tmp_path: Path) -> None:
    """R24: one second, while the agent hangs."""
    shim = Shim(ROOT / "build/ilanet", tmp_path / "s")
    with closing(listen(shim.socket)):
        answer = shim.call("STATUS")
    assert (answer.exit_code, answer.tree["code"]) == (1, Code.NOT_AVAILABLE)
    assert 1 <= answer.seconds < 1.5


def test_it_is_small_static_and_starts_fast(capsys: pytest.CaptureFixture[str]) -> None:
    """About 30 kB, no interpreter to load; its time is printed."""
    executable = ROOT / "build/ilanet"
    size = executable.stat().st_size
    assert size < 40_000
    shim = Shim(executable, Path("/run/ilc-nowhere"))
    seconds = sorted(shim.call("ADD").seconds for _ in range(50))
    with capsys.disabled():
        print(f"\nCNI executable: {size} bytes, {seconds[25] * 1e3:.2f} ms (median of 50, with Python's fork and exec)")
    raw = executable.read_bytes()
    assert b"ld-musl" not in raw
    assert b"ld-linux" not in raw


def test_it_builds_reproducibly(tmp_path: Path) -> None:
    """Two builds from two folders are the same bytes."""
    built = []
    for name in ("one", "two/three"):
        folder = tmp_path / name
        (folder / "cni").mkdir(parents=True)
        shutil.copytree(ROOT / "cni/shim", folder / "cni/shim")
        shutil.copy(ROOT / "Makefile", folder)
        subprocess.run(["make", "-s", "-o", "system", "build/ilanet"], cwd=folder, check=True, capture_output=True)
        built.append((folder / "build/ilanet").read_bytes())
    assert built[0] == built[1]
    assert built[0] == (ROOT / "build/ilanet").read_bytes()
