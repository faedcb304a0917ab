# SPDX-License-Identifier: Apache-2.0
"""Network namespaces as hosts and pods: made, entered, cabled and removed with iproute2."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

NETNS = Path("/run/netns")


class CommandError(Exception):
    """A command of the set-up failed or hung; the message holds the command, and what it printed or how long it had."""


def run(*command: str, stdin: str | None = None, timeout: float = 60) -> str:
    """Run a command and return its standard output; CommandError if it fails, or is not at its end in `timeout` s."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as late:
        raise CommandError(f"{' '.join(command)}: not at its end after {timeout:g} s") from late
    if done.returncode:
        raise CommandError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}{done.stdout.strip()}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class Namespace:
    """One network namespace of the lab, under /run/netns; close() removes it with all in it."""

    name: str

    @classmethod
    def create(cls, name: str) -> Self:
        """Make the namespace, with loopback up; an old one of that name is an error."""
        run("ip", "netns", "add", name)
        namespace = cls(name)
        namespace.ip("link", "set", "lo", "up")
        return namespace

    @property
    def path(self) -> Path:
        """The file that holds the namespace."""
        return NETNS / self.name

    @property
    def prefix(self) -> tuple[str, ...]:
        """The words before a command that runs it inside: nsenter, since `ip netns exec` remounts /sys."""
        return ("nsenter", f"--net={self.path}")

    def run(self, *command: str, stdin: str | None = None, timeout: float = 60) -> str:
        """Run a command inside and return its standard output; CommandError as for any other."""
        return run(*self.prefix, *command, stdin=stdin, timeout=timeout)

    def ip(self, *words: str) -> str:
        """Run `ip -6 ...` inside."""
        return run("ip", "-n", self.name, "-6", *words)

    def start(self, *command: str, **options: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401 - Popen's own
        """Start a command inside and return the process, which the caller ends."""
        return subprocess.Popen([*self.prefix, *command], **options)

    def mac(self, device: str) -> bytes:
        """Return the 6 bytes of a device's MAC address."""
        link = json.loads(run("ip", "-n", self.name, "-j", "link", "show", "dev", device))[0]
        return bytes.fromhex(link["address"].replace(":", ""))

    def sysctl(self, **values: int | str) -> None:
        """Set sysctls inside; in names, `__` stands for a dot."""
        words = [f"{name.replace('__', '.')}={value}" for name, value in values.items()]
        self.run("sysctl", "-q", "-w", *words)

    def pids(self) -> list[int]:
        """Return the processes inside, without this one."""
        return [pid for pid in map(int, run("ip", "netns", "pids", self.name).split()) if pid != os.getpid()]

    def close(self, patience: float = 5) -> None:
        """Kill what still runs inside and remove the namespace; one that is gone is no error.

        Every process in it is ours, also one that a killed run of the lab had started and not noted.
        """
        if not self.path.exists():
            return
        deadline = time.monotonic() + patience
        while left := self.pids():
            if time.monotonic() > deadline:
                raise CommandError(f"namespace {self.name}: processes {left} do not end")
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        run("ip", "netns", "del", self.name)


def cable(left: tuple[Namespace, str], right: tuple[Namespace, str], *, mtu: int = 1500) -> None:
    """Join two namespaces by a veth pair, both ends up, without duplicate address detection."""
    (here, name), (there, peer) = left, right
    run(
        *("ip", "-n", here.name, "link", "add", name, "mtu", str(mtu), "type", "veth"),
        *("peer", "name", peer, "mtu", str(mtu), "netns", there.name),
    )
    for namespace, device in (left, right):
        path = f"net.ipv6.conf.{device}.accept_dad=0"
        namespace.run("sysctl", "-q", "-w", path)
        namespace.ip("link", "set", device, "up")
