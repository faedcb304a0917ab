# SPDX-License-Identifier: Apache-2.0
"""The inside of a lab host that runs containers: its own mounts, processes, hostname and /run, beside its network.

The first process of a process namespace holds them: when it ends, the kernel ends every process inside, and with the
last of them every mount and every pod's network namespace goes, as if the power had been cut.  The disk stays, but
neither /run nor cgroups: each start begins without.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from lab.namespace import Namespace
from lab.process import Process, ProcessError

_READY = 30.0
"""Seconds that the mounts may take on a loaded machine."""

_ROOT = """
own=/proc/self/ns/mnt
if [ "$(nsenter --mount=$own stat -c %d:%i /)" = "$(stat -c %d:%i /)" ]; then exec "$@"; fi
exec 3</
exec nsenter --mount=$own sh -euc 'cd /proc/self/fd/3; pivot_root . .; umount -l .; exec 3<&-; exec "$@"' root "$@"
"""
"""Where the lab runs in a chroot: makes that the root of the new mount namespace, since whoever enters a namespace,
as runc does for every command in a container, finds itself at the namespace's own root."""

_INIT = """
set -eu
disk=$1 lab=$2 noted=$3 own=$4 hostname=$5
read -r self </proc/self/stat
cut -d ' ' -f 2 /proc/self/mounts | while read -r mount; do
  case $mount in /run/*|/sys/fs/bpf) umount --lazy "$mount" 2>/dev/null || : ;; esac
done
mount -t proc proc /proc
echo "$hostname" >/proc/sys/kernel/hostname
rm -rf "$disk/run"
mkdir -p "$disk/run/netns" "$disk/run/containerd" "$disk/run/${lab#/run/}" "$disk/lib/cni" "$disk/log"
mount --bind "$lab" "$disk/run/${lab#/run/}"
mount --rbind "$disk/run" /run
mount --bind "$disk/lib" /var/lib
mount --bind "$disk/log" /var/log
for folder in $own; do
  mkdir -p "$disk/own$folder/upper" "$disk/own$folder/work"
  copy=$disk/own$folder
  mount -t overlay overlay -o "lowerdir=$folder,upperdir=$copy/upper,workdir=$copy/work" "$folder"
done
mount --make-rshared /
set -- $self
echo "$1 ${22}" >"$noted.new"
trap 'exit 0' TERM
mv "$noted.new" "$noted"
while :; do sleep 2147483647 & wait; done
"""
"""The first process, told its disk, the lab's folder, where to note itself, folders to copy, and its name.

It lets go of what others have mounted in /run (or unmount just now), mounts its own, notes its pid as seen from outside
with the time of its start, as lab.process does, and reaps what others leave."""


class Machine(Process):
    """One host's inside; what is on its `disk` outlives it until close()."""

    def __init__(
        self,
        *,
        name: str,
        namespace: Namespace,
        directory: Path,
        disk: Path,
        cgroup: str,
        hostname: str,
        own: Sequence[str] = (),
    ) -> None:
        """Take the folder of logs and pids, which lies under /run, and the name of the parent of its cgroups.

        hostname: what processes and pods in the host's network read of it.
        own: folders of the machine that is really there, of which the inside changes a copy.
        """
        self.disk = disk
        self.cgroup = cgroup
        self._first = Process(name=f"{name}-init", command=(), directory=directory)
        self._noted = directory / f"{name}-init.pid"
        words = (
            "sh",
            "-euc",
            _ROOT,
            "root",
            "sh",
            "-c",
            _INIT,
            "init",
            str(disk),
            str(directory),
            str(self._noted),
            " ".join(own),
            hostname,
        )
        unshare = ("unshare", "--uts", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child")
        super().__init__(name=name, command=(*namespace.prefix, *unshare, *words), directory=directory)

    @property
    def first(self) -> int:
        """The pid of the first process; 0 if the machine does not run."""
        return self._first.pid

    @property
    def root(self) -> Path:
        """The files as the inside sees them, while it runs."""
        return Path(f"/proc/{self.first}/root")

    @property
    def prefix(self) -> tuple[str, ...]:
        """The words before a command that runs it inside, and ends it with the process that runs them.

        With the first process's root: a mount namespace alone would lead out of a chroot in which the lab may run.
        """
        return (
            *("nsenter", "--target", str(self.first), "--net", "--uts", "--mount", "--root", "--pid"),
            *("setpriv", "--pdeathsig", "KILL"),
        )

    def start(self) -> None:
        """Start it, and wait until everything is mounted."""
        remove_cgroups(self.cgroup)
        self._noted.unlink(missing_ok=True)
        self.disk.mkdir(parents=True, exist_ok=True)
        super().start()
        deadline = time.monotonic() + _READY
        while not self.first:
            self.check()
            if time.monotonic() > deadline:
                raise ProcessError(f"{self.name} is not ready after {_READY} s:\n{self.tail()}")
            time.sleep(0.01)

    def stop(self, patience: float = 5) -> None:
        """End it with all that runs inside."""
        self._first.stop(patience)
        super().stop(patience)

    def close(self) -> None:
        """End it, and remove its disk and its cgroups."""
        self.stop()
        remove_cgroups(self.cgroup)
        if self.disk.exists():
            shutil.rmtree(self.disk)

    def processes(self) -> set[int]:
        """Return every process inside, in its containers too."""
        parents: dict[int, int] = {}
        inside: set[int] = set()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                if (process / "ns/pid").readlink() == Path(f"/proc/{self.first}/ns/pid").readlink():
                    inside.add(int(process.name))
        more = inside
        while more:
            more = {pid for pid, parent in parents.items() if parent in more} - inside
            inside |= more
        return inside


def cgroups(parent: str) -> list[Path]:
    """Return every cgroup at and below `parent`, such as '/ilanet-lab', in every hierarchy; the deepest first."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    found: list[Path] = []
    for _, mount, kind, *_ in mounts:
        top = Path(mount) / parent.strip("/")
        if kind in ("cgroup", "cgroup2") and top.is_dir():
            found += [top, *(path for path in top.rglob("*") if path.is_dir())]
    return sorted(found, key=lambda path: len(path.parts), reverse=True)


def remove_cgroups(parent: str, patience: float = 10) -> None:
    """Remove every cgroup at and below `parent`: empty, since their processes have been killed."""
    deadline = time.monotonic() + patience
    while left := cgroups(parent):
        for path in left:
            try:
                path.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
        time.sleep(0.01)


def make_cgroups(parent: str) -> None:
    """Make the cgroup `parent` in every hierarchy of version 1, usable for processes at once."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        if kind != "cgroup":
            continue
        place = Path(mount)
        for part in parent.strip("/").split("/"):
            above, place = place, place / part
            place.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):  # a new cpuset is empty
                file = place / name
                if file.exists() and not file.read_text().strip():
                    file.write_text((above / name).read_text())
