# SPDX-License-Identifier: Apache-2.0
"""A controller as a child process, with its settings file; for the demo and for tests."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ila.certificates import replace
from ila.settings import Peer
from lab.authority import Certificate
from lab.etcd import endpoint, free_port
from lab.process import Process, ProcessError

NAME = "controller.ilanet"
"""In every controller's certificate: the authority that agents check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSetting:
    """What one controller's settings file says."""

    etcd: Peer
    certificate: Certificate | None
    """None: plaintext."""

    sir_prefix: str = "fd00:10:244::/64"
    locator_space: tuple[str, ...] = ("fd00:c0de::/32",)
    checksum_mode: str = "neutral-map"
    locator_pool: str | None = "fd00:c0de:1::/48"
    closed_ports: tuple[int, ...] = ()
    address: str = "127.0.0.1"
    port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)

    @property
    def endpoint(self) -> str:
        """Where agents call."""
        return endpoint(self.address, self.port)

    def toml(self) -> str:
        """Return the text of the file."""
        top: dict[str, object] = {"listen": self.endpoint, "http": endpoint(self.address, self.http_port)}
        top["closed_ports"] = list(self.closed_ports)
        if self.certificate is None:
            top["insecure"] = True
        else:
            top |= {"certificate": self.certificate.certificate, "key": self.certificate.key}
            top |= {"client_ca": self.certificate.ca}
        if self.locator_pool is not None:
            top["locator_pool"] = self.locator_pool
        domain: dict[str, object] = {"sir_prefix": self.sir_prefix, "locator_space": list(self.locator_space)}
        domain["checksum_mode"] = self.checksum_mode
        return lines(top) + "[domain]\n" + lines(domain) + "[etcd]\n" + peer_lines(self.etcd)


class ControllerProcess(Process):
    """One controller: start_ready() returns once it serves; log, pid file and settings stand in one directory."""

    def __init__(self, *, name: str, directory: Path, setting: ControllerSetting, prefix: Sequence[str] = ()) -> None:
        """Take words before its command, such as Namespace.prefix."""
        self.file = directory / f"{name}.toml"
        self.setting = setting
        command = (*prefix, sys.executable, "-m", "controller", "--config", str(self.file))
        super().__init__(name=name, command=command, directory=directory)

    def write_setting(self) -> None:
        """Write the settings file."""
        replace(self.file, self.setting.toml().encode(), mode=0o600)

    def start_ready(self, deadline: float = 30) -> None:
        """Write the settings, start it, and wait until it serves; ProcessError if it does not within the deadline."""
        self.write_setting()
        before = self.log.stat().st_size if self.log.exists() else 0
        self.start()
        end = time.monotonic() + deadline
        while b" ready listen=" not in self.log.read_bytes()[before:]:
            self.check()
            if time.monotonic() > end:
                raise ProcessError(f"{self.name} is not ready after {deadline} s:\n{self.tail()}")
            time.sleep(0.02)


def peer_lines(peer: Peer) -> str:
    """Return the lines of a settings file's table for a peer."""
    values: dict[str, object] = {"endpoints": list(peer.endpoints)}
    if peer.insecure:
        return lines(values | {"insecure": True})
    tls = {"authority": peer.authority, "ca": peer.ca, "certificate": peer.certificate, "key": peer.key}
    return lines(values | tls)


def lines(values: Mapping[str, object]) -> str:
    """Return the lines of a table of a settings file."""
    return "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())


def _toml(value: object) -> str:
    """Return a value as TOML writes it: paths, texts, numbers, booleans, and lists of them."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
