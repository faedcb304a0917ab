# SPDX-License-Identifier: Apache-2.0
"""The form of results in each cniVersion: which keys there are, and how libcni turns one form into another; pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from tests.matrix.row import number

_IPS = {"address", "gateway", "interface"}
_LINKS = {"name", "mac", "sandbox"}
_ROUTES = {"dst", "gw"}


def keys(version: str) -> Mapping[str, set[str]]:
    """Return the keys that members of each list of a result may have."""
    old, new = number(version) < (1, 0, 0), number(version) >= (1, 1, 0)
    return {
        "interfaces": _LINKS | ({"mtu", "socketPath", "pciID"} if new else set()),
        "ips": _IPS | ({"version"} if old else set()),
        "routes": _ROUTES | ({"mtu", "advmss", "priority", "table", "scope"} if new else set()),
    }


def members(result: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Return a list of a result; empty if it is missing."""
    found: list[dict[str, Any]] = result.get(key) or []
    return found


def convert(result: Mapping[str, Any], version: str) -> dict[str, Any]:
    """Return a result in the form of another version, as a runtime hands it on as prevResult."""
    tree: dict[str, Any] = copy.deepcopy(dict(result))
    tree["cniVersion"] = version
    for item in members(tree, "ips"):
        item["version"] = family(item["address"])
    for key, known in keys(version).items():
        if key in tree:
            tree[key] = [{name: value for name, value in item.items() if name in known} for item in members(tree, key)]
    return tree


def family(address: str) -> str:
    """Return what 0.4.0 calls the version of an address."""
    return "6" if ":" in address else "4"
