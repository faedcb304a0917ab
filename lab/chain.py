# SPDX-License-Identifier: Apache-2.0
"""A configuration list as libcni carries it out: each plugin is told what the one before it answered."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.namespace import Namespace
from lab.runtime import EXECUTABLE, CniError, Pod

DEBIAN_PLUGINS = Path("/usr/lib/cni")
"""Of the package containernetworking-plugins."""


class Chain:
    """The list that a host's agent wrote, with Debian's plugins after ours."""

    def __init__(self, *, conflist: Path, host: Namespace) -> None:
        self._tree: dict[str, Any] = json.loads(conflist.read_text())
        self._host = host
        self._capabilities: dict[str, Mapping[str, object]] = {}
        """Of each container, as given to ADD: libcni keeps them for DEL."""

    @property
    def types(self) -> list[str]:
        """The plugins in order."""
        return [plugin["type"] for plugin in self._tree["plugins"]]

    def add(self, pod: Pod, **capabilities: object) -> None:
        """Attach a pod: plugin by plugin, in order."""
        self._capabilities[pod.container_id] = capabilities
        for plugin in self._tree["plugins"]:
            pod.result = self._call("ADD", plugin, pod)

    def check(self, pod: Pod) -> None:
        """Check every plugin against the final result, unless the list says not to."""
        for plugin in self._tree["plugins"] if not self._tree["disableCheck"] else ():
            self._call("CHECK", plugin, pod)

    def delete(self, pod: Pod) -> None:
        """Detach a pod: in the opposite order, each told the final result."""
        for plugin in reversed(self._tree["plugins"]):
            self._call("DEL", plugin, pod)

    def _call(self, command: str, plugin: Mapping[str, Any], pod: Pod) -> dict[str, Any]:
        capabilities = self._capabilities.get(pod.container_id, {})
        declared = plugin.get("capabilities", {})
        config = {
            "cniVersion": self._tree["cniVersion"],
            "name": self._tree["name"],
            **plugin,
            "runtimeConfig": {name: value for name, value in capabilities.items() if declared.get(name)},
            **({"prevResult": pod.result} if pod.result else {}),
        }
        executable = EXECUTABLE if plugin["type"] == "ilanet" else DEBIAN_PLUGINS / plugin["type"]
        done = subprocess.run(
            [*self._host.prefix, str(executable)],
            input=json.dumps(config).encode(),
            env=pod.environment(command),
            capture_output=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise CniError(-1, f"{command} by {plugin['type']}: {done.stdout.decode()}{done.stderr.decode()}")
        return dict(json.loads(done.stdout)) if done.stdout.strip() else {}
