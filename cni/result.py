# SPDX-License-Identifier: Apache-2.0
"""What a runtime is told: results, errors and versions as JSON; pure."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cni.spec import VERSIONS, CniError, Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A pod's attachment as the agent made it."""

    address: ipaddress.IPv6Address
    """The SIR address."""

    gateway: ipaddress.IPv6Address
    """The link-local next hop inside the pod."""

    host_name: str
    """Interface name of the host's end."""

    host_mac: str
    """Colon-separated."""

    pod_mac: str
    """Colon-separated."""

    mtu: int
    """Bytes."""


def encode(tree: Mapping[str, Any]) -> bytes:
    """Return the JSON text that goes to standard output."""
    return json.dumps(tree).encode() + b"\n"


def success(attachment: Attachment, *, config: Config, interface: str, netns: str) -> bytes:
    """Return the result of ADD, in the version of the configuration, after what earlier plugins said."""
    previous = dict(config.previous or {})
    mtu = {"mtu": attachment.mtu} if config.version == "1.1.0" else {}
    family = {"version": "6"} if config.version == "0.4.0" else {}
    earlier = previous.get("interfaces") or []
    pod = {"name": interface, "mac": attachment.pod_mac, **mtu, "sandbox": netns}
    address = {
        **family,
        "address": f"{attachment.address}/128",
        "gateway": str(attachment.gateway),
        "interface": len(earlier) + 1,
    }
    route = {"dst": "::/0", "gw": str(attachment.gateway), **mtu}
    return encode(
        {
            **previous,
            "cniVersion": config.version,
            "interfaces": [*earlier, {"name": attachment.host_name, "mac": attachment.host_mac, **mtu}, pod],
            "ips": [*(previous.get("ips") or []), address],
            "routes": [*(previous.get("routes") or []), route],
            "dns": previous.get("dns") or config.dns or {},
        }
    )


def failure(error: CniError, version: str) -> bytes:
    """Return the error object, in a version that the runtime reads."""
    tree: dict[str, Any] = {"cniVersion": version, "code": int(error.code), "msg": error.message}
    if error.details:
        tree["details"] = error.details
    return encode(tree)


def versions(asked: str) -> bytes:
    """Return the result of VERSION to a runtime that asked in version `asked`."""
    return encode({"cniVersion": asked, "supportedVersions": list(VERSIONS)})
