# SPDX-License-Identifier: Apache-2.0
"""The lab in the role of a container runtime: calls the CNI executable with environment and stdin, nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.namespace import Namespace

EXECUTABLE = Path(__file__).parent.parent / "build/ilanet"

_PATIENCE = 120
"""Seconds that the executable may take: longer than it waits for an agent."""

CONFIG: dict[str, Any] = {"cniVersion": "1.0.0", "name": "ilanet", "type": "ilanet"}


class CniError(Exception):
    """The plugin answered with an error; `code` is the specification's, -1 for a plugin that gave none."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(slots=True)
class Pod:
    """A pod of the lab: a namespace, and how it is known to CNI."""

    namespace: Namespace
    name: str
    uid: str
    container_id: str
    socket: Path
    """Of the agent on its host; other hosts of the lab have other ones."""

    queue: Path
    """Where the executable keeps DELs while that agent is away."""

    keep_address: bool = False
    result: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    """How long ADD took, from the start of the executable to its end."""

    @property
    def address(self) -> str:
        """The SIR address."""
        return str(self.result["ips"][0]["address"]).partition("/")[0]

    def add(self) -> None:
        """Attach the pod."""
        started = time.perf_counter()
        self.result = self.call("ADD")
        self.seconds = time.perf_counter() - started
        if not self.result.get("ips"):
            raise CniError(-1, f"ADD {self.name}: the answer names no address: {self.result}")

    def delete(self) -> None:
        """Detach the pod."""
        self.call("DEL", config={"prevResult": self.result} if self.result else {})

    def check(self) -> None:
        """Raise CniError unless the pod is attached as ADD said."""
        self.call("CHECK", config={"prevResult": self.result})

    def call(self, command: str, *, config: Mapping[str, Any] | None = None, **environment: str) -> dict[str, Any]:
        """Call the executable; return what it printed, {} if nothing.

        CniError for the plugin's errors, and for an executable that cannot be run, prints no JSON or does not end.
        """
        settings: dict[str, Any] = {**CONFIG, **(config or {})}
        if self.keep_address:
            settings["runtimeConfig"] = {"io.kubernetes.cri.pod-annotations": {"ilanet.io/keep-address": "true"}}
        try:
            done = subprocess.run(
                [EXECUTABLE],
                input=json.dumps(settings).encode(),
                env={**self.environment(command), **environment},
                capture_output=True,
                timeout=_PATIENCE,
                check=False,
            )
        except (subprocess.TimeoutExpired, OSError) as error:
            raise CniError(-1, f"{command} {self.name}: {error}") from error
        try:
            answer: dict[str, Any] = json.loads(done.stdout) if done.stdout.strip() else {}
        except ValueError as error:
            raise CniError(-1, f"{command} {self.name}: the answer is no JSON: {done.stdout[:200]!r}") from error
        if done.returncode:
            raise CniError(answer.get("code", -1), f"{command} {self.name}: {answer or done.stderr.decode()}")
        return answer

    def environment(self, command: str) -> dict[str, str]:
        """Return the environment in which a runtime calls a plugin."""
        return {
            "PATH": os.environ["PATH"],
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": self.container_id,
            "CNI_NETNS": str(self.namespace.path),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(EXECUTABLE.parent),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={self.name};K8S_POD_UID={self.uid}",
            "ILANET_SOCKET": str(self.socket),
            "ILANET_QUEUE": str(self.queue),
        }
