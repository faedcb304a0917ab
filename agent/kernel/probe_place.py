# SPDX-License-Identifier: Apache-2.0
"""The network namespace of the agent's own end of probes; implements core.probes.Place."""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
from collections.abc import Callable, Collection

from agent.core.network import NetworkError
from agent.kernel.namespace import in_namespace, new_namespace
from agent.kernel.nftables import Nftables

_RULES = """
table ip6 ilanet {{}}
delete table ip6 ilanet
table ip6 ilanet {{
  set sources {{ type ipv6_addr; {elements} }}
  chain input {{
    type filter hook input priority filter; policy drop;
    meta l4proto icmpv6 accept
    ip6 saddr @sources accept
  }}
}}
"""


class ProbeNamespace:
    """Held by this process and its sockets alone: it ends with the agent, and its links with it.

    A name for it would be a mount, which in a container ends with the container too, and elsewhere would be one
    more thing to clean up; nobody answers probes while no agent runs.
    """

    def __init__(self, *, answering: Collection[ipaddress.IPv6Address] = ()) -> None:
        """Take addresses of Services that this end may ask: what they answer is let in."""
        self._answering = frozenset(answering)
        self._making = threading.Lock()
        self._descriptor: int | None = None

    @property
    def descriptor(self) -> int:
        """The namespace, made the first time that it is asked for; several threads may ask at once."""
        with self._making:
            if self._descriptor is None:
                self._descriptor = new_namespace()
            return self._descriptor

    def admit(self, sources: Collection[ipaddress.IPv6Address]) -> None:
        """Let in what these addresses send, and ICMPv6; by nf_tables, so that the rest costs no process anything."""
        elements = ", ".join(map(str, sorted(self._answering.union(sources))))
        rules = _RULES.format(elements=f"elements = {{ {elements} }}" if elements else "")
        in_namespace(self.descriptor, lambda: Nftables().run(rules))

    def datagrams(self, port: int) -> socket.socket:
        """Return a UDP socket on a port of every address."""
        return self._made(socket.SOCK_DGRAM, lambda made: made.bind(("::", port)))

    def listener(self, port: int) -> socket.socket:
        """Return a TCP socket that listens on it."""

        def set_up(made: socket.socket) -> None:
            made.bind(("::", port))
            made.listen()

        return self._made(socket.SOCK_STREAM, set_up)

    def stream(self) -> socket.socket:
        """Return a TCP socket to connect by."""
        return self._made(socket.SOCK_STREAM, lambda _: None)

    def close(self) -> None:
        """Let go of the namespace; it ends once its sockets are closed too."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _made(self, kind: socket.SocketKind, set_up: Callable[[socket.socket], None]) -> socket.socket:
        try:
            made = in_namespace(self.descriptor, lambda: socket.socket(socket.AF_INET6, kind))
            try:
                made.setblocking(False)  # noqa: FBT003 - its own signature
                set_up(made)
            except BaseException:
                made.close()
                raise
        except OSError as error:
            raise NetworkError(f"no socket for probes: {error}") from error
        return made
