# SPDX-License-Identifier: Apache-2.0
"""Fetches kernels for lab/vm.py: Debian's package, unpacked once below the user's cache and never installed."""

from __future__ import annotations

import contextlib
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lab.namespace import CommandError, run

KERNELS = Path.home() / ".cache/ilanet/kernels"
"""One folder per version, as its package lays it out."""

RELEASE = "6.1"
"""Of Debian 12: the oldest kernel that the programs are written for."""

_SUITE = "bookworm"
_META = "linux-image-amd64"
_DEPENDENCY = re.compile(r"Depends: linux-image-((\d+\.\d+)\.\S+)")
_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
_PATIENCE = 600.0
"""Seconds that a download may take."""


class KernelError(Exception):
    """The kernel cannot be had; the message says why."""


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


def stock_kernel() -> Kernel:
    """Return the kernel that Debian 12's linux-image-amd64 depends on, fetched if it is not there.

    A machine of Debian 12 knows it from its own package lists; of another one, what was fetched before is taken.
    """
    KERNELS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=KERNELS, prefix="unfinished-") as name:
        folder = Path(name)
        apt = Apt(folder)
        version = apt.offered()
        if version is None:
            there = sorted(KERNELS.glob(f"{RELEASE}.*"), key=lambda path: path.stat().st_mtime)
            if there:
                return Kernel(there[-1].name)
            version = apt.look_further()
        kernel = Kernel(version)
        if not kernel.image.exists():
            _unpack(apt.download(f"linux-image-{version}"), kernel)
    return kernel


def _unpack(package: Path, kernel: Kernel) -> None:
    """Unpack beside the place and move it there whole, so that what is there is complete."""
    unpacked = package.parent / "unpacked"
    run("dpkg", "-x", str(package), str(unpacked), timeout=_PATIENCE)
    if not (unpacked / "lib/modules").exists():
        (unpacked / "lib").symlink_to("usr/lib")
    run("depmod", "-b", str(unpacked), kernel.version)
    with contextlib.suppress(OSError):  # another run was faster: a folder that is there is not replaced
        unpacked.rename(kernel.root)
    if not kernel.image.exists():
        raise KernelError(f"{package.name} has no {kernel.image.name}")


class Apt:
    """apt with this machine's lists, or with Debian 12's in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        """Take a folder for what is downloaded."""
        self._folder = folder
        self._options = ["-o", "APT::Sandbox::User=root"]

    def offered(self) -> str | None:
        """Return the version of RELEASE's stock kernel; None if the lists know none."""
        with contextlib.suppress(CommandError):
            for version, release in _DEPENDENCY.findall(self._run("apt-cache", "depends", _META)):
                if release == RELEASE:
                    return str(version)
        return None

    def look_further(self) -> str:
        """Return it from fresh lists: this machine's, then Debian 12's from the archive that this machine uses."""
        self._update()
        version = self.offered()
        if version is None:
            self._options += self._only_debian_12()
            self._update()
            version = self.offered()
        if version is None:
            raise KernelError(f"the archive offers no kernel {RELEASE} as {_META}")
        return version

    def download(self, package: str) -> Path:
        """Return a package's file; lists that are older than the archive are renewed."""
        for last in (False, True):
            try:
                self._run("apt-get", "-qq", "download", package)
            except CommandError:
                if last:
                    raise
                self._update()
        return next(self._folder.glob("*.deb"))

    def _only_debian_12(self) -> list[str]:
        """Return the options for lists of Debian 12 alone."""
        wanted = ("Identifier: Packages", "Origin: Debian", "Label: Debian")
        archives = self._run("apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted).split()
        if not archives:
            raise KernelError("apt knows no archive of Debian's on this machine")
        sources, lists = self._folder / "sources.list", self._folder / "lists"
        sources.write_text(f"deb [signed-by={_KEYS}] {archives[0]} {_SUITE} main\n")
        lists.mkdir()
        values = {"etc::sourcelist": sources, "etc::sourceparts": "/dev/null", "State::lists": lists}
        values["Cache"] = self._folder / "cache"
        return [word for name, value in values.items() for word in ("-o", f"Dir::{name}={value}")]

    def _update(self) -> None:
        self._run("apt-get", "-qq", "update")

    def _run(self, program: str, *words: str) -> str:
        # apt-get download writes into the working directory.
        return run("env", "-C", str(self._folder), program, *self._options, *words, timeout=_PATIENCE)
