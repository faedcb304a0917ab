# SPDX-License-Identifier: Apache-2.0
"""Boots Debian's stock kernel 6.1 under emulation, with this machine's files as root, and runs one command there.

    python -m lab.vm COMMAND...     run a command in it from the top of the tree; print its output, exit with its status

The kernel's package is unpacked once below the user's cache and never installed.  virtme-ng makes the first
steps of the boot, lab/guest.sh the others.
"""

from __future__ import annotations

import compileall
import contextlib
import os
import re
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

from lab.namespace import CommandError, run
from lab.process import SOURCE

KERNELS = Path.home() / ".cache/ilanet/kernels"
"""One folder per version, as its package lays it out."""

RELEASE = "6.1"
"""Debian 12's: the oldest kernel that the programs are written for."""

SHARE = "/run/ilanet-share"
"""Where the guest finds the shared folder, the one place that host and guest both write."""

_DEPENDENCY = re.compile(r"Depends: linux-image-((\d+\.\d+)\.\S+)")
_LIVES = 30.0
"""Seconds between the guest's own deadline and the host's: a guest that was left alone ends by itself."""


class VmError(Exception):
    """The machine did not come to an end of its own; the message holds the end of its console."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel package."""

    version: str

    @property
    def root(self) -> Path:
        """The folder that modules and image are below."""
        return KERNELS / self.version

    @property
    def image(self) -> Path:
        """What QEMU boots."""
        return self.root / f"boot/vmlinuz-{self.version}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a command in the machine."""

    status: int
    output: str
    console: str
    """The kernel's messages."""


def stock_kernel() -> Kernel:
    """Return the kernel that Debian's linux-image-amd64 depends on, fetched if it is not there."""
    version = _offered() or _refreshed()
    kernel = Kernel(version)
    if not kernel.image.exists():
        _fetch(kernel)
    return kernel


def _offered() -> str | None:
    """Return the version that this machine's package lists offer; None if they do not know."""
    with contextlib.suppress(CommandError):
        for version, release in _DEPENDENCY.findall(run("apt-cache", "depends", "linux-image-amd64")):
            if release == RELEASE:
                return str(version)
    return None


def _refreshed() -> str:
    run("apt-get", "update", "-qq", timeout=300)
    version = _offered()
    if version is None:
        raise VmError(f"no kernel {RELEASE}: this machine's package lists are not those of Debian 12")
    return version


def _fetch(kernel: Kernel) -> None:
    """Unpack the package beside its place and move it there whole, so that what is there is complete."""
    KERNELS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=KERNELS, prefix="unfinished-") as name:
        folder = Path(name)
        package = f"linux-image-{kernel.version}"
        try:
            _download(package, folder)
        except CommandError:  # the lists are older than the archive
            run("apt-get", "update", "-qq", timeout=300)
            _download(package, folder)
        unpacked = folder / "unpacked"
        run("dpkg", "-x", *map(str, folder.glob("*.deb")), str(unpacked), timeout=300)
        if not (unpacked / "lib/modules").exists():
            (unpacked / "lib").symlink_to("usr/lib")
        run("depmod", "-b", str(unpacked), kernel.version)
        with contextlib.suppress(FileExistsError):  # another run was faster
            unpacked.rename(kernel.root)


def _download(package: str, folder: Path) -> None:
    # apt-get download writes into the present folder, and as another user where it may.
    run("env", "-C", str(folder), "apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package, timeout=600)


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
        *("--script-sh", f"{mount}; {script}"),
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
