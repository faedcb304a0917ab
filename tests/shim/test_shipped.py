# SPDX-License-Identifier: Apache-2.0
"""The CNI executable as it is shipped."""

import re
import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from agent.cni_server import COMMAND_SECONDS, listen
from cni.spec import Code
from tests.shim.program import CONFIG, ROOT, Shim


def test_status_is_bounded_in_the_shipped_executable(tmp_path: Path) -> None:
    """R24: within one second, while the agent hangs."""
    shim = Shim(ROOT / "build/ilanet", tmp_path / "s")
    with closing(listen(shim.socket)):
        answer = shim.call("STATUS")
    assert (answer.exit_code, answer.tree["code"]) == (1, Code.NOT_AVAILABLE)
    assert 0.9 <= answer.seconds < 1.5  # the machine's own part is in it


def test_check_is_bounded_in_the_shipped_executable(tmp_path: Path) -> None:
    """R22: a runtime that checks after each ADD, as CRI-O does, goes on after ten seconds while the agent hangs."""
    shim = Shim(ROOT / "build/ilanet", tmp_path / "s")
    with closing(listen(shim.socket)):
        answer = shim.call("CHECK")
    assert (answer.exit_code, answer.tree["code"]) == (1, Code.TRY_AGAIN_LATER)
    assert "timed out" in answer.tree["details"]
    assert 10 <= answer.seconds < 12  # the machine's own part is in it


def test_deadlines_are_beyond_the_agent_s_and_below_the_kubelet_s() -> None:
    """An ADD undoes itself before the executable gives up; the kubelet waits 4 minutes for a start, 2 for a stop."""
    table = re.findall(r'\{"([A-Z]*)", ([0-9]+)\}', (ROOT / "cni/shim/main.c").read_text())
    seconds = {command: int(milliseconds) / 1000 for command, milliseconds in table}
    assert seconds.keys() == {"ADD", "DEL", "CHECK", "STATUS", "VERSION", ""}
    assert seconds["STATUS"] < 1
    for command, own in COMMAND_SECONDS.items():
        assert own < seconds.get(command, seconds[""])
    assert seconds["ADD"] < 240
    assert max(seconds["DEL"], seconds["CHECK"], seconds[""]) < 120


def test_a_queued_del_is_on_the_disk_before_it_succeeds(tmp_path: Path) -> None:
    """What is in the file, its name, and, the first time, that of the folder: one fsync each, in that order."""
    trace = tmp_path / "trace"
    shim = Shim(ROOT / "build/ilanet", tmp_path / "s")
    calls = []
    for container in ("one", "two"):
        words = ["strace", "-f", "-y", "-o", str(trace), "-e", "trace=fsync,linkat,exit_group", str(shim.executable)]
        environment = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": container, "CNI_IFNAME": "eth0", "CNI_PATH": "/x"}
        environment |= {"ILANET_SOCKET": str(shim.socket), "ILANET_QUEUE": str(shim.queue)}
        subprocess.run(words, env=environment, input=CONFIG, check=True)
        found = re.findall(r"(fsync|linkat|exit_group)\(([0-9]+)?<?([^>,]*)", trace.read_text())
        calls.append([(call, place.removeprefix(str(tmp_path))) for call, _, place in found])
    folder, file = "/deletes", re.compile(r"/deletes/#[0-9]+")
    for made, called in zip((True, False), calls, strict=True):
        names = [call for call, _ in called]
        assert names == ["fsync", "linkat", "fsync", *["fsync"] * made, "exit_group"]
        assert file.match(called[0][1]), called
        assert [place for call, place in called if call == "fsync"][1:] == [folder, *[""] * made]


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
