# SPDX-License-Identifier: Apache-2.0
"""A real containerd on a lab host, with ilanet as its network: for tests that need a container runtime."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from lab.cluster import Cluster
from lab.controller import lines
from lab.cri import Cri, CriError
from lab.fabric import Host
from lab.image import IMAGE, write_image
from lab.namespace import run
from lab.process import Process, ProcessError
from lab.runtime import EXECUTABLE

PLUGINS = Path("/usr/lib/cni")
"""Debian's CNI plugins (containernetworking-plugins)."""

_CRI = 'plugins."io.containerd.grpc.v1.cri"'
_UNUSED = (
    "io.containerd.internal.v1.opt",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
)
"""Plugins that would write outside of containerd's own folders, or that only cost time."""

_IMPORT = 300.0
"""Seconds that a large image may take."""

_READY = 60.0
"""Seconds that a start may take on a loaded machine."""


class Containerd(Process):
    """The container runtime of one host, inside the host's Machine; stop() and kill() leave its containers running."""

    def __init__(self, cluster: Cluster, host: Host, *, bare: bool = False) -> None:
        """Take the host; everything stands on its machine's disk.

        bare: CNI's folders are where every containerd has them, without ilanet, which comes as a pod; the machine must
        have copies of its own of /etc and /opt (lab.machine).
        """
        self.machine = cluster.machine(host)
        disk = self.machine.disk
        self.socket = cluster.directory / f"{host.name}-containerd.sock"
        self._bare = bare
        self.bin_dir = Path("/opt/cni/bin") if bare else disk / "bin"
        self.conf_dir = Path("/etc/cni/net.d") if bare else cluster.conflist(host).parent
        self.root = disk / "containerd"
        self.state = disk / "run/state"
        self.results = disk / "lib/cni/results"
        self.namespaces = disk / "run/netns"
        self._variables = {} if bare else {"ILANET_SOCKET": cluster.socket(host), "ILANET_QUEUE": cluster.queue(host)}
        self._config = disk / "containerd.toml"
        self.cri = Cri(socket=self.socket)
        super().__init__(name=f"{host.name}-containerd", command=(), directory=cluster.directory)

    @property
    def pid(self) -> int:
        """The process id of containerd itself, which nsenter(1) has started; 0 if it does not run."""
        outer = super().pid
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0])
        return 0

    def start(self) -> None:
        """Start it, the machine first if that does not run; start_ready() also waits."""
        if not self.machine.first:
            self.machine.start()
        variables = [f"{name}={value}" for name, value in self._variables.items()]
        self.command = (*self.machine.prefix, "env", *variables, "containerd", "--config", str(self._config))
        super().start()

    def start_ready(self) -> None:
        """Write what is missing on the disk, start it, and wait until it can run pods."""
        if not self.machine.first:
            self.machine.start()
        if not self._config.exists():
            self._write_config()
        self.start()
        self._wait_until(lambda: self.cri.conditions().keys() <= ({"NetworkReady"} if self._bare else set()))
        self.bring(IMAGE)

    def bring(self, image: str, program: Path | None = None, *, place: str = "") -> None:
        """Make and import an image (see lab.image.write_image), unless it is there."""
        if not self.cri.has_image(image):
            archive = self.machine.disk / "image.tar"
            write_image(archive, name=image, program=program, place=place)
            self.take(archive, image)
            archive.unlink()

    def take(self, archive: Path, image: str) -> None:
        """Import an image from a file."""
        run("ctr", *self._client, "images", "import", str(archive), timeout=_IMPORT)
        self._wait_until(lambda: self.cri.has_image(image))

    def ctr(self, *words: str) -> str:
        """Run containerd's own client on what the kubelet's pods are made of, and return what it prints."""
        return run("ctr", *self._client, *words)

    @property
    def _client(self) -> tuple[str, ...]:
        return "--address", str(self.socket), "--namespace", "k8s.io"

    def close(self) -> None:
        """End it, and with its machine its containers and all that they made."""
        self.cri.close()
        self.machine.close()
        self.stop()

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _READY
        while True:
            self.check()
            with contextlib.suppress(CriError):
                if condition():
                    return
            if time.monotonic() > deadline:
                raise ProcessError(f"{self.name} is not ready after {_READY} s:\n{self.tail()}")
            time.sleep(0.02)

    def _write_config(self) -> None:
        inside = (self.machine.root / folder.relative_to("/") for folder in (self.bin_dir, self.conf_dir))
        bin_dir, conf_dir = inside if self._bare else (self.bin_dir, self.conf_dir)
        for folder in (bin_dir, conf_dir):
            folder.mkdir(parents=True, exist_ok=True)
        for theirs in conf_dir.glob("*.conf*") if self._bare else ():  # of what else is installed on this machine
            theirs.unlink()
        plugins = [PLUGINS / name for name in ("loopback", "portmap", "bandwidth", "tuning")]
        for plugin in plugins if self._bare else [EXECUTABLE, *plugins]:
            shutil.copy2(plugin, bin_dir)
        tables: dict[str, dict[str, object]] = {
            "grpc": {"address": self.socket},
            _CRI: {
                "sandbox_image": IMAGE,
                "restrict_oom_score_adj": True,
                "disable_apparmor": True,
                "stream_server_address": "::1",
                "tolerate_missing_hugetlb_controller": True,
            },
            f"{_CRI}.cni": {"bin_dir": self.bin_dir, "conf_dir": self.conf_dir},
            f"{_CRI}.containerd": {"snapshotter": "overlayfs"},
        }
        top: dict[str, object] = {
            "version": 2,
            "root": self.root,
            "state": self.state,
            "disabled_plugins": list(_UNUSED),
        }
        self._config.write_text(lines(top) + "".join(f"[{name}]\n{lines(table)}" for name, table in tables.items()))
