# SPDX-License-Identifier: Apache-2.0
"""Boots Debian's stock kernel 6.1 under emulation, with this machine's files as root, and runs one command there.

    python -m lab.vm COMMAND...     run a command in it from the top of the tree; print its output, exit with its status

virtme-ng makes the first steps of the boot, lab/guest.sh the others.
"""

from __future__ import annotations

import compileall
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.kernels import Kernel, stock_kernel
from lab.process import SOURCE

_NO_WATCHDOGS = (
    *("nowatchdog", "workqueue.watchdog_thresh=0"),
    *("rcupdate.rcu_cpu_stall_suppress=1", "sysctl.kernel.hung_task_timeout_secs=0"),
)
"""Kernel options: under emulation on a busy machine a CPU stands still for seconds, and nothing is wrong."""

SHARE = "/run/ilanet-share"
"""Where the guest finds the shared folder, the one place that host and guest both write."""

_LIVES = 30.0
"""Seconds between the guest's own deadline and the host's: a guest that was left alone ends by itself."""


class VmError(Exception):
    """The machine did not come to an end of its own; the message holds the end of its console."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a command in the machine."""

    status: int
    output: str
    console: str
    """The kernel's messages."""


def run_in(kernel: Kernel, command: Sequence[str], *, share: Path, deadline: float) -> Outcome:
    """Boot, run the command with the tree as working directory, and return what became of it.

    share: a folder for this run alone; the guest writes it as SHARE, and finds there what is in it.
    deadline: seconds from the start of the boot; VmError after them.
    The machine is always ended, also by an exception.
    """
    (share / "command").write_text(shlex.join(command) + "\n")
    for folder in SOURCE.glob("[a-z]*/"):  # the guest cannot keep what it compiles
        compileall.compile_dir(folder, quiet=2)
    console = share / "console"
    with console.open("wb") as log:
        process = subprocess.Popen(
            _machine(kernel, share, deadline - _LIVES),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
            env={**os.environ, "TMPDIR": str(share)},
        )
    try:
        process.wait(deadline)
    except subprocess.TimeoutExpired:
        raise VmError(f"{shlex.join(command)}: not at its end after {deadline} s\n{_end(share)}") from None
    finally:
        end_group(process)
    status = share / "status"
    if not status.exists():
        raise VmError(f"{shlex.join(command)}: the machine ended before the command\n{_end(share)}")
    return Outcome(int(status.read_text()), _text(share / "output"), _text(console))


def end_group(process: subprocess.Popen[bytes], patience: float = 10) -> None:
    """Kill a process and all that it started in its session, and wait until they are gone."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        process.poll()
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            process.wait()
            return
        time.sleep(0.02)
    raise VmError(f"process group {process.pid} does not end")


def _machine(kernel: Kernel, share: Path, deadline: float) -> list[str]:
    """Return the command line that boots; virtme-ng's root is read-only unless asked otherwise."""
    script = shlex.join(["sh", f"{SOURCE}/lab/guest.sh", str(SOURCE), SHARE, str(kernel.root), f"{deadline:.0f}"])
    mount = f"mkdir {SHARE}; mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 share {SHARE}"
    words = [
        *(str(Path(sys.executable).parent / "virtme-run"), "--kimg", str(kernel.image), "--mods=auto"),
        *("--disable-kvm", "--force-9p", "--cpus", "2", "--memory", "2G", "--verbose", "--show-boot-console"),
        *("--script-sh", f"{mount}; {script}", *(f"--kopt={option}" for option in _NO_WATCHDOGS)),
    ]
    for tag, folder, options in (
        ("share", share, ""),
        ("tree", SOURCE, ",readonly=on"),
        ("usr", Path("/usr"), ",readonly=on"),
    ):
        exported = f"local,path={folder},mount_tag={tag},security_model=none,multidevs=remap{options}"
        words += ["-q=-virtfs", f"-q={exported}"]
    return words


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _end(share: Path, lines: int = 40) -> str:
    ends = (_text(share / name).splitlines()[-lines:] for name in ("output", "console"))
    return "\n".join("\n".join(end) for end in ends)


def main() -> int:
    """Run the command line's words in the machine."""
    share = Path(tempfile.mkdtemp(prefix="ilanet-vm-"))
    try:
        outcome = run_in(stock_kernel(), sys.argv[1:], share=share, deadline=600)
    finally:
        shutil.rmtree(share)
    sys.stdout.write(outcome.output)
    return outcome.status


if __name__ == "__main__":
    raise SystemExit(main())
