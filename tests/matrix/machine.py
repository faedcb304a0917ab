# SPDX-License-Identifier: Apache-2.0
"""The kernel as the place that a plugin works in: one host's namespace and its pods', seen with iproute2."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from lab.namespace import Namespace, run
from tests.matrix.plugin import Link


class Machine:
    """A host's namespace, and pods' namespaces named `PREFIX-pN`; implements Place."""

    def __init__(self, *, host: Namespace, prefix: str, watched: Sequence[Path] = ()) -> None:
        """Take the host; files under `watched` that name a container are traces of it."""
        self.own = str(host.path)
        self._host = host
        self._prefix = prefix
        self._watched = tuple(watched)
        self._numbers = itertools.count(1)

    def make(self) -> str:
        """Make a pod's namespace, without duplicate address detection: it would cost each ADD a second."""
        namespace = Namespace.create(f"{self._prefix}-p{next(self._numbers)}")
        no_detection(namespace)
        return str(namespace.path)

    def remove(self, netns: str) -> None:
        """Remove a pod's namespace."""
        Namespace(Path(netns).name).close()

    def links(self, netns: str) -> Mapping[str, Link]:
        """Return the interfaces in a pod."""
        found = json.loads(run("ip", "-n", Path(netns).name, "-j", "addr", "show"))
        return {
            link["ifname"]: Link(
                mac=link.get("address", ""),
                mtu=link["mtu"],
                addresses=frozenset(
                    f"{address['local']}/{address['prefixlen']}"
                    for address in link["addr_info"]
                    if address["scope"] != "link"
                ),
            )
            for link in found
        }

    def add_link(self, netns: str, name: str, address: str = "") -> None:
        """Make one end of a veth pair; both ends are in the pod."""
        namespace = Namespace(Path(netns).name)
        namespace.ip("link", "add", name, "type", "veth", "peer", "name", f"{name[:13]}-p")
        namespace.ip("link", "set", f"{name[:13]}-p", "up")
        namespace.ip("link", "set", name, "up")
        if address:
            namespace.ip("addr", "add", address, "dev", name, "nodad")

    def remove_link(self, netns: str, name: str) -> None:
        """Remove an interface."""
        Namespace(Path(netns).name).ip("link", "del", name)

    def remove_address(self, netns: str, name: str, address: str) -> None:
        """Remove an address."""
        run("ip", "-n", Path(netns).name, "addr", "del", address, "dev", name)

    def remove_routes(self, netns: str) -> None:
        """Empty both main tables."""
        for family in ("-4", "-6"):
            run("ip", "-n", Path(netns).name, family, "route", "flush", "table", "main")

    def traces(self, containers: Collection[str]) -> frozenset[str]:
        """Return the host's links, and the files that name one of the containers."""
        links = json.loads(run("ip", "-n", self._host.name, "-j", "link", "show"))
        return frozenset({f"link {link['ifname']}" for link in links} | set(self._files(containers)))

    def _files(self, containers: Collection[str]) -> Iterator[str]:
        for directory in self._watched:
            for file in directory.rglob("*"):
                try:
                    text = f"{file.name} {file.read_text(errors='replace')}"
                except OSError:  # a folder, or gone meanwhile
                    continue
                if any(container in text for container in containers):
                    yield f"file {file}"


def no_detection(namespace: Namespace) -> None:
    """Switch duplicate address detection off for all interfaces that a namespace will have."""
    namespace.sysctl(net__ipv6__conf__all__accept_dad=0, net__ipv6__conf__default__accept_dad=0)
