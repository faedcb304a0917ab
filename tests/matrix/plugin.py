# SPDX-License-Identifier: Apache-2.0
"""What rows know of a plugin and of the place that it works in: values and ports, for the whole suite."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one call of a plugin came to."""

    exit_code: int
    stdout: bytes
    stderr: bytes = b""
    seconds: float = 0.0
    """From the start to the end of the call."""

    stdout_closed: bool = True
    """Whether standard output and standard error were closed soon after the plugin had ended."""

    timed_out: bool = False

    def tree(self) -> dict[str, Any]:
        """Return the one JSON object on standard output; ValueError if there is anything else."""
        tree = json.loads(self.stdout)
        if not isinstance(tree, dict):
            raise ValueError("standard output is no JSON object")
        return tree

    def error(self) -> dict[str, Any]:
        """Return the error object, wherever it was printed; {} if there is none."""
        for text in (self.stdout, self.stderr, *self.stderr.splitlines()):
            with contextlib.suppress(ValueError):
                tree = json.loads(text)
                if isinstance(tree, dict) and "code" in tree:
                    return tree
        return {}

    def words(self) -> str:
        """Return what happened, short enough for a report."""
        if self.timed_out:
            return f"it did not end within {self.seconds:.0f} s"
        error = self.error()
        if error:
            said = f"code {error['code']}, {error.get('msg')!r} {error.get('details') or ''}".rstrip()
        else:
            said = repr((self.stdout or self.stderr).decode(errors="replace").strip()[:300])
        return f"exit {self.exit_code}, {said}"


class Plugin(Protocol):
    """A plugin that can be called."""

    is_process: bool
    """Whether it is an executable: some rules concern nothing else."""

    search_path: str
    """What CNI_PATH says."""

    def call(self, command: str, environment: Mapping[str, str], stdin: bytes) -> Outcome:
        """Call it with CNI_COMMAND `command` (none if empty) and these other CNI variables, as libcni does."""


@dataclass(frozen=True, slots=True)
class Link:
    """An interface in a namespace."""

    mac: str
    mtu: int
    addresses: frozenset[str]
    """In CIDR notation, without link-local ones."""


class Place(Protocol):
    """The host that a plugin works on: pods' namespaces, and what is left of them."""

    own: str
    """Path of the network namespace that the plugin itself runs in."""

    def make(self) -> str:
        """Make a pod's namespace and return its path."""

    def remove(self, netns: str) -> None:
        """Remove a namespace with all in it; one that is gone is no error."""

    def links(self, netns: str) -> Mapping[str, Link]:
        """Return the interfaces in a pod, by name."""

    def add_link(self, netns: str, name: str, address: str = "") -> None:
        """Make an interface that belongs to somebody else."""

    def remove_link(self, netns: str, name: str) -> None:
        """Remove an interface."""

    def remove_address(self, netns: str, name: str, address: str) -> None:
        """Remove an address in CIDR notation from an interface."""

    def remove_routes(self, netns: str) -> None:
        """Remove all routes of a pod."""

    def traces(self, containers: Collection[str]) -> frozenset[str]:
        """Return what is on the host: its links, and whatever else the plugin keeps of these containers."""


class Daemon(Protocol):
    """The long-running part of a plugin that has one."""

    def stop(self) -> None:
        """End it."""

    def start(self) -> None:
        """Start it again and wait until it serves."""

    def freeze(self) -> None:
        """Let it hang: alive, and without any answer."""

    def thaw(self) -> None:
        """End the hang."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod as a runtime knows it."""

    netns: str
    container_id: str
    interface: str
    arguments: str
    """CNI_ARGS."""

    @property
    def environment(self) -> dict[str, str]:
        """The variables that name it."""
        return {
            "CNI_CONTAINERID": self.container_id,
            "CNI_NETNS": self.netns,
            "CNI_IFNAME": self.interface,
            "CNI_ARGS": self.arguments,
        }

    @property
    def attachment(self) -> dict[str, str]:
        """How GC's list of valid attachments names it."""
        return {"containerID": self.container_id, "ifname": self.interface}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A plugin under test, with what stands around it."""

    name: str
    plugin: Plugin
    place: Place
    config: Mapping[str, Any]
    """Its network configuration; cniVersion is set by the suite."""

    directory: Path
    """For files of the suite's own."""

    daemon: Daemon | None = None
    grace: float = 0.5
    """Seconds that are added to each bound of time, since starting a process takes time too."""

    patience: float = 10.0
    """Seconds that traces may take to vanish: the kernel removes a namespace in the background."""

    arguments: str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=matrix;K8S_POD_NAME={name};K8S_POD_UID=uid-{name}"
    """CNI_ARGS of a pod."""

    described: Mapping[str, str] = field(default_factory=dict)
    """What a report says of it beside its name, such as the version of its package."""
