# SPDX-License-Identifier: Apache-2.0
"""The machine itself: how it ends, and what it cannot touch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.kernels import Kernel
from lab.process import SOURCE
from lab.vm import SHARE, VmError, run_in


def _of(share: Path) -> list[str]:
    """Return the processes that know a shared folder, other than this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if str(share).encode() in words and path.parent.name != str(os.getpid()):
            found.append(path.parent.name)
    return found


def test_a_command_writes_nothing_but_its_folder(kernel: Kernel, tmp_path: Path) -> None:
    """Root in the guest changes no file of this machine; status, output and what it leaves in its folder come back."""
    script = f"touch {SOURCE}/x /root/x /usr/x /var/x; echo kept >{SHARE}/left; echo said; exit 7"
    outcome = run_in(kernel, ["sh", "-c", script], share=tmp_path, deadline=300)
    assert outcome.status == 7
    assert outcome.output.count("Read-only file system") == 4
    assert outcome.output.endswith("said\n")
    assert (tmp_path / "left").read_text() == "kept\n"
    assert not any(Path(place).exists() for place in (f"{SOURCE}/x", "/root/x", "/usr/x", "/var/x"))
    assert _of(tmp_path) == []


def test_a_machine_that_is_late_is_ended(kernel: Kernel, tmp_path: Path) -> None:
    """After the deadline an error carries the console's end, and no process of the machine is left."""
    with pytest.raises(VmError, match="not at its end after 4 s"):
        run_in(kernel, ["sleep", "1000"], share=tmp_path, deadline=4)
    assert _of(tmp_path) == []


def test_a_machine_ends_with_its_caller(kernel: Kernel, tmp_path: Path) -> None:
    """Interrupted while the machine boots, whoever started it takes it along."""
    code = (
        "import signal; from pathlib import Path; from lab.kernels import Kernel; from lab.vm import run_in;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"  # a shell's background jobs begin deaf to it
        f"run_in(Kernel({kernel.version!r}), ['sleep', '1000'], share=Path({str(tmp_path)!r}), deadline=300)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=SOURCE, stderr=subprocess.PIPE) as caller:
        try:
            console = tmp_path / "console"
            while not console.exists() or b"Linux version" not in console.read_bytes():
                assert caller.poll() is None
                time.sleep(0.05)
            assert len(_of(tmp_path)) > 1
            caller.send_signal(signal.SIGINT)
            _, error = caller.communicate(timeout=60)
        finally:
            caller.terminate()
    assert b"KeyboardInterrupt" in error
    assert _of(tmp_path) == []
