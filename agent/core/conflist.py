# SPDX-License-Identifier: Apache-2.0
"""What the CNI network configuration says; pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

NETWORK = "ilanet"
"""Name of the network, for ever: runtimes find what they have cached by it."""

_OURS: dict[str, Any] = {
    "type": "ilanet",
    "capabilities": dict.fromkeys(("io.kubernetes.cri.pod-annotations", "bandwidth", "portMappings"), True),
}

_PLUGINS: dict[str, dict[str, Any]] = {
    "portmap": {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
    "bandwidth": {"type": "bandwidth", "capabilities": {"bandwidth": True}},
    "tuning": {"type": "tuning"},
}

CHAINABLE = tuple(_PLUGINS)
"""Plugins of the CNI project that may follow ours."""

_CHECK_FAILS = {"portmap", "bandwidth"}
"""CHECK of portmap asks for IPv4 rules, that of bandwidth crashes on a pod without a limit, that of tuning looks for an
interface called IFNAME and compares numbers as texts (plugins 1.1): a runtime that checks after each ADD, as CRI-O
does, would start no pod."""


def render(chain: Sequence[str], sysctls: Mapping[str, str]) -> bytes:
    """Return the configuration with these plugins after ours; `sysctls` are for tuning.

    CHECK is left out where a plugin of the list would fail it for pods that are well.  A runtime whose library knows
    no `cniVersions` (containerd 1.6 and 1.7) takes 1.0.0, a newer one 1.1.0.
    """
    tuned = {"tuning": {"sysctl": dict(sysctls)}} if sysctls else {}
    tree = {
        "cniVersion": "1.0.0",
        "cniVersions": ["1.0.0", "1.1.0"],
        "name": NETWORK,
        "disableCheck": not (_CHECK_FAILS | tuned.keys()).isdisjoint(chain),
        "plugins": [_OURS, *(_PLUGINS[name] | tuned.get(name, {}) for name in chain)],
    }
    return json.dumps(tree, indent=2).encode() + b"\n"
