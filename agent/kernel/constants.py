# SPDX-License-Identifier: Apache-2.0
"""Settings as the constants of the programs: the counterpart of agent/bpf/settings.h; for agent/kernel only."""

from __future__ import annotations

import struct

from agent.core.datapath import DatapathSettings, HostPath
from ila.address import C_BIT, ChecksumMode, checksum_difference, fold


def constants(settings: DatapathSettings) -> dict[str, bytes]:
    """Return every constant by variable name, as the bytes it has in memory."""
    domain = settings.domain
    neutral_map = domain.checksum_mode is ChecksumMode.NEUTRAL_MAP
    undo = checksum_difference(new=domain.sir_prefix.value, old=0)
    spaces = (network.network_address.packed[:8] + network.netmask.packed[:8] for network in domain.locator_space)
    return {
        "sir_prefix": bytes(domain.sir_prefix),
        "own_locator": bytes(settings.locator),
        "locator_space": b"".join(spaces),
        "locator_space_count": _u32(len(domain.locator_space)),
        "neutral_map": _flag(neutral_map),
        "undo_sum": struct.pack(">H", fold(undo + (C_BIT >> 48)) if neutral_map else undo),
        "host_routing": _flag(settings.host_path is HostPath.BPF),
        "gateway": settings.gateway.packed if settings.gateway else bytes(16),
        "underlay_ifindex": _u32(settings.underlay_index),
        "closed_ports": struct.pack(f">{len(settings.closed_ports)}H", *settings.closed_ports),
        "closed_ports_count": _u32(len(settings.closed_ports)),
        "reject_mark": _u32(settings.reject_mark),
        "translate": _flag(settings.translate),
    }


def _u32(value: int) -> bytes:
    return struct.pack("=I", value)


def _flag(value: bool) -> bytes:  # noqa: FBT001 - it is the value
    return struct.pack("=?", value)
