# SPDX-License-Identifier: Apache-2.0
"""The agent's one nf_tables table: answers what nothing maps, closes our own ports to pods, masquerades."""

from __future__ import annotations

import ctypes
import hashlib
import ipaddress
import json
from collections.abc import Collection
from typing import Any

from agent.core.network import NetworkError
from ila.address import SirPrefix

_LIBRARY = "libnftables.so.1"
_JSON = 1 << 4
_TABLE = "ilanet"
_VERSION = 4
"""Of the way in which the table is told to be ours; its rules are told apart by a digest of their text."""

_COMMENT = "COMMENT"
"""In the rules below, where the digest of all of them goes."""

_NODES = "nodes"


class Nftables:
    """One libnftables context; acts on the namespace of the calling thread."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise NetworkError(f"{_LIBRARY} cannot be loaded (Debian package libnftables1): {error}") from error
        new = self._library.nft_ctx_new
        new.argtypes, new.restype = [ctypes.c_uint32], ctypes.c_void_p
        for name in ("nft_ctx_free", "nft_ctx_buffer_output", "nft_ctx_buffer_error"):
            getattr(self._library, name).argtypes = [ctypes.c_void_p]
        for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            function = getattr(self._library, name)
            function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_char_p
        self._library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        self._library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]

    def run(self, commands: str) -> str:
        """Run commands as one transaction and return the output (JSON); NetworkError carries nft's words."""
        context = self._library.nft_ctx_new(0)
        if not context:
            raise NetworkError("libnftables gave no context")
        try:
            self._library.nft_ctx_buffer_output(context)
            self._library.nft_ctx_buffer_error(context)
            self._library.nft_ctx_output_set_flags(context, _JSON)
            if self._library.nft_run_cmd_from_buffer(context, commands.encode()):
                words = self._library.nft_ctx_get_error_buffer(context).decode(errors="replace").strip()
                raise NetworkError(f"nftables refused table {_TABLE}: {words}")
            return str(self._library.nft_ctx_get_output_buffer(context).decode())
        finally:
            self._library.nft_ctx_free(context)


class RejectTable:
    """The rules for packets that the datapath marked: ICMPv6 unreachable code 3 up to a rate, then silence.

    And for packets of pods to ports of ilanet on this host, which the datapath does not see as such, by way of a
    Service, say: they are dropped.  And, if that is wanted, for what pods send to the outside: it gets the node's
    address, unless it is for another pod, a node, this link or a multicast group.
    """

    def __init__(self, *, mark: int, masquerade: bool = False, per_second: int = 100, burst: int = 50) -> None:
        """Match packets that have all bits of `mark`; answer `per_second` of them after a burst."""
        self._mark, self._masquerade, self._per_second, self._burst = mark, masquerade, per_second, burst

    def ensure(
        self, *, sir_prefix: SirPrefix, closed_ports: Collection[int], nodes: Collection[ipaddress.IPv6Address]
    ) -> bool:
        """Make the table right and tell whether it had to be changed; a right one keeps its counters."""
        nftables = Nftables()
        rules = self._rules(sir_prefix, closed_ports)
        comment = f"ilanet {_VERSION} {hashlib.sha256(rules.encode()).hexdigest()[:12]}"
        if self._present(nftables) == [comment] * rules.count(_COMMENT):
            return self._ensure_nodes(nftables, nodes)
        table = f"table ip6 {_TABLE}"
        text = rules.replace(_COMMENT, f'comment "{comment}"')
        nftables.run(f"{table} {{}}\ndelete {table}\n{table} {{\n{text}\n}}")
        self._ensure_nodes(nftables, nodes)
        return True

    def remove(self) -> None:
        """Remove the table; none is no error."""
        Nftables().run(f"table ip6 {_TABLE} {{}}\ndelete table ip6 {_TABLE}")

    def _rules(self, sir_prefix: SirPrefix, closed_ports: Collection[int]) -> str:
        match = f"meta mark & {self._mark:#x} == {self._mark:#x}"
        chains = [
            f"""set {_NODES} {{ type ipv6_addr; }}
            chain answer {{
              limit rate {self._per_second}/second burst {self._burst} packets counter \
                reject with icmpv6 addr-unreachable {_COMMENT}
              counter drop {_COMMENT}
            }}
            chain prerouting {{
              type filter hook prerouting priority raw; policy accept;
              {match} jump answer {_COMMENT}
            }}"""
        ]
        if closed_ports:
            ports = ", ".join(map(str, sorted(closed_ports)))
            chains.append(
                f"""chain input {{
                  type filter hook input priority filter - 10; policy accept;
                  ip6 saddr {sir_prefix} meta l4proto {{ tcp, udp }} th dport {{ {ports} }} counter drop {_COMMENT}
                }}"""
            )
        if self._masquerade:
            chains.append(
                f"""chain postrouting {{
                  type nat hook postrouting priority srcnat - 10; policy accept;
                  ip6 saddr {sir_prefix} ip6 daddr != {{ {sir_prefix}, fe80::/10, ff00::/8 }} ip6 daddr != @{_NODES} \
                    counter masquerade {_COMMENT}
                }}"""
            )
        return "\n".join(chains)

    def _ensure_nodes(self, nftables: Nftables, nodes: Collection[ipaddress.IPv6Address]) -> bool:
        """Bring the set of nodes' addresses to these; nothing but what differs is touched."""
        wanted = set(nodes) if self._masquerade else set()
        listing = json.loads(nftables.run(f"list set ip6 {_TABLE} {_NODES}"))["nftables"]
        found = next(item["set"].get("elem", []) for item in listing if "set" in item)
        present = {ipaddress.IPv6Address(element) for element in found}
        changes = [
            f"{word} element ip6 {_TABLE} {_NODES} {{ {', '.join(map(str, sorted(some)))} }}"
            for word, some in (("add", wanted - present), ("delete", present - wanted))
            if some
        ]
        if changes:
            nftables.run("\n".join(changes))
        return bool(changes)

    def _present(self, nftables: Nftables) -> list[str]:
        listing = json.loads(nftables.run("list tables ip6"))["nftables"]
        if not any(item.get("table", {}).get("name") == _TABLE for item in listing):
            return []
        items: list[dict[str, Any]] = json.loads(nftables.run(f"list table ip6 {_TABLE}"))["nftables"]
        return [item["rule"].get("comment", "") for item in items if "rule" in item]
