# SPDX-License-Identifier: Apache-2.0
"""The agent's tables of nf_tables: answer what nothing maps, close our own ports to pods, masquerade, carry IPv4."""

from __future__ import annotations

import ctypes
import hashlib
import ipaddress
import json
from collections.abc import Collection
from typing import Any

from agent.core.ipv4 import HOST_PREFIX
from agent.core.network import NetworkError
from ila.address import SirPrefix

_LIBRARY = "libnftables.so.1"
_JSON = 1 << 4
_TABLE = "ilanet"
_VERSION = 5
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


class _Table:
    """The agent's table of one family: right as a whole, or made anew as a whole."""

    def __init__(self, family: str) -> None:
        self._family = family
        self._name = f"{family} {_TABLE}"

    def ensure(self, nftables: Nftables, rules: str) -> bool:
        """Make the table right and tell whether it had to be changed; a right one keeps its counters."""
        comment = f"ilanet {_VERSION} {hashlib.sha256(rules.encode()).hexdigest()[:12]}"
        if self._present(nftables) == [comment] * rules.count(_COMMENT):
            return False
        text = rules.replace(_COMMENT, f'comment "{comment}"')
        nftables.run(f"table {self._name} {{}}\ndelete table {self._name}\ntable {self._name} {{\n{text}\n}}")
        return True

    def remove(self, nftables: Nftables) -> None:
        """Remove the table; none is no error."""
        nftables.run(f"table {self._name} {{}}\ndelete table {self._name}")

    def exists(self, nftables: Nftables) -> bool:
        """Tell whether there is one, right or not."""
        listing = json.loads(nftables.run(f"list tables {self._family}"))["nftables"]
        return any(item.get("table", {}).get("name") == _TABLE for item in listing)

    def _present(self, nftables: Nftables) -> list[str]:
        if not self.exists(nftables):
            return []
        items: list[dict[str, Any]] = json.loads(nftables.run(f"list table {self._name}"))["nftables"]
        return [item["rule"].get("comment", "") for item in items if "rule" in item]


_NO_IPV4 = f"""
    chain prerouting {{
      type filter hook prerouting priority raw; policy accept;
      iifname "{HOST_PREFIX}*" counter drop {_COMMENT}
    }}"""
"""What is left of the rules for IPv4 once it is switched off, until the next boot."""

_IPV6_TABLE, _IPV4_TABLE = _Table("ip6"), _Table("ip")


class RejectTable:
    """The rules for packets that the datapath marked: ICMPv6 unreachable code 3 up to a rate, then silence.

    And for packets of pods to ports of ilanet on this host, which the datapath does not see as such, by way of a
    Service, say: they are dropped.  And, if that is wanted, for what pods send to the outside: it gets the node's
    address, unless it is for another pod, a node, this link or a multicast group.  And, where pods have node-local
    addresses of IPv4, for what they send by them: it goes out with the node's own, and nowhere else.
    """

    def __init__(
        self,
        *,
        mark: int,
        masquerade: bool = False,
        ipv4: ipaddress.IPv4Network | None = None,
        per_second: int = 100,
        burst: int = 50,
    ) -> None:
        """Match packets that have all bits of `mark`; answer `per_second` of them after a burst.

        ipv4: where the node-local addresses are from.
        """
        self._mark, self._masquerade, self._per_second, self._burst = mark, masquerade, per_second, burst
        self._ipv4 = ipv4

    def ensure(
        self, *, sir_prefix: SirPrefix, closed_ports: Collection[int], nodes: Collection[ipaddress.IPv6Address]
    ) -> bool:
        """Make the table right and tell whether it had to be changed; a right one keeps its counters."""
        nftables = Nftables()
        changed = _IPV6_TABLE.ensure(nftables, self._rules(sir_prefix, closed_ports))
        changed = self._ensure_nodes(nftables, nodes) or changed
        if self._ipv4 is not None:
            return _IPV4_TABLE.ensure(nftables, _ipv4_rules(self._ipv4, closed_ports)) or changed
        if _IPV4_TABLE.exists(nftables):  # pods of before may still have their links, which nothing else would hold
            return _IPV4_TABLE.ensure(nftables, _NO_IPV4) or changed
        return changed

    def remove(self) -> None:
        """Remove the tables; none is no error."""
        nftables = Nftables()
        for table in (_IPV6_TABLE, _IPV4_TABLE):
            table.remove(nftables)

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
                  ip6 saddr {sir_prefix} {_ports(ports)} counter drop {_COMMENT}
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


def _ports(ports: str) -> str:
    return f"meta l4proto {{ tcp, udp }} th dport {{ {ports} }}"


def _ipv4_rules(network: ipaddress.IPv4Network, closed_ports: Collection[int]) -> str:
    """Return what holds pods to their own addresses and to the outside: each other they reach by IPv6."""
    links = f'"{HOST_PREFIX}*"'
    ports = ", ".join(map(str, sorted(closed_ports)))
    closed = f"iifname {links} {_ports(ports)} counter drop {_COMMENT}" if ports else ""
    return f"""
    chain prerouting {{
      type filter hook prerouting priority raw; policy accept;
      iifname {links} fib saddr . iif oif missing counter drop {_COMMENT}
      iifname {links} ip saddr != {network} counter drop {_COMMENT}
    }}
    chain input {{
      type filter hook input priority filter - 10; policy accept;
      {closed}
    }}
    chain forward {{
      type filter hook forward priority filter - 10; policy accept;
      iifname {links} oifname {links} counter drop {_COMMENT}
      oifname {links} ct state new counter drop {_COMMENT}
    }}
    chain postrouting {{
      type nat hook postrouting priority srcnat - 10; policy accept;
      ip saddr {network} oifname != {links} counter masquerade {_COMMENT}
    }}"""
