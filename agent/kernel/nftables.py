# SPDX-License-Identifier: Apache-2.0
"""The agent's one nf_tables table: it answers packets that nothing maps, and keeps pods from ilanet's own ports."""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections.abc import Collection
from typing import Any

from agent.core.network import NetworkError
from ila.address import SirPrefix

_LIBRARY = "libnftables.so.1"
_JSON = 1 << 4
_TABLE = "ilanet"
_VERSION = 3
"""Of the rules below: a change of their text must raise it."""


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

    And for packets of pods to ports of ilanet on this host, which the datapath does not see as such: by way of a
    Service, say.  They are dropped.
    """

    def __init__(self, *, mark: int, per_second: int = 100, burst: int = 50) -> None:
        """Match packets that have all bits of `mark`; answer `per_second` of them after a burst."""
        self._mark, self._per_second, self._burst = mark, per_second, burst

    def ensure(self, *, sir_prefix: SirPrefix, closed_ports: Collection[int]) -> bool:
        """Make the table right and tell whether it had to be changed; a right one keeps its counters."""
        nftables = Nftables()
        ports = ", ".join(map(str, sorted(closed_ports)))
        text = f"ilanet {_VERSION} {self._mark:#x} {self._per_second} {self._burst}"
        digest = hashlib.sha256(f"{text} {sir_prefix} {ports}".encode()).hexdigest()[:12]
        comment = f'comment "{text} {digest}"'
        if self._present(nftables) == [f"{text} {digest}"] * (4 if ports else 3):
            return False
        match = f"meta mark & {self._mark:#x} == {self._mark:#x}"
        closed = f"ip6 saddr {sir_prefix} meta l4proto {{ tcp, udp }} th dport {{ {ports} }} counter drop {comment}"
        nftables.run(
            f"""
            table ip6 {_TABLE} {{}}
            delete table ip6 {_TABLE}
            table ip6 {_TABLE} {{
              chain answer {{
                limit rate {self._per_second}/second burst {self._burst} packets counter \
                  reject with icmpv6 addr-unreachable {comment}
                counter drop {comment}
              }}
              chain prerouting {{
                type filter hook prerouting priority raw; policy accept;
                {match} jump answer {comment}
              }}
              chain input {{
                type filter hook input priority filter - 10; policy accept;
                {closed if ports else ""}
              }}
            }}
            """
        )
        return True

    def remove(self) -> None:
        """Remove the table; none is no error."""
        Nftables().run(f"table ip6 {_TABLE} {{}}\ndelete table ip6 {_TABLE}")

    def _present(self, nftables: Nftables) -> list[str]:
        listing = json.loads(nftables.run("list tables ip6"))["nftables"]
        if not any(item.get("table", {}).get("name") == _TABLE for item in listing):
            return []
        items: list[dict[str, Any]] = json.loads(nftables.run(f"list table ip6 {_TABLE}"))["nftables"]
        return [item["rule"].get("comment", "") for item in items if "rule" in item]
