# SPDX-License-Identifier: Apache-2.0
"""What etcd holds of pods and of the reserves of nodes, all at one moment."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Self

from ila.address import Identifier
from ila.mapping import MAPPINGS, OWNERS, RESERVES, ROOT, TAKEN_IDENTIFIERS, reserve_name
from lab.etcd import Etcd


@dataclass
class Stored:
    """The records by the last part of their keys."""

    owners: dict[str, dict[str, Any]] = field(default_factory=dict)
    mappings: dict[Identifier, str] = field(default_factory=dict)
    """Identifier -> locator."""

    reserves: dict[Identifier, str] = field(default_factory=dict)
    """Identifier -> the node that it was handed to in advance."""

    taken: dict[Identifier, str] = field(default_factory=dict)
    """Identifier -> its owner, or what stands for a node's reserve."""

    others: int = 0
    """How many records there are that pods do not change."""

    @classmethod
    def read(cls, etcd: Etcd) -> Self:
        """Read everything at once."""
        stored = cls()
        lines = etcd.ctl("get", "--prefix", ROOT.decode()).splitlines()
        for key, value in zip(lines[::2], lines[1::2], strict=True):
            stored._take(key, value)
        return stored

    def _take(self, key: str, value: str) -> None:
        _, _, last = key.rpartition("/")
        if key.startswith(OWNERS.decode()):
            self.owners[key.removeprefix(OWNERS.decode())] = json.loads(value)
        elif key.startswith(MAPPINGS.decode()):
            self.mappings[_identifier(last)] = json.loads(value)["locator"]
        elif key.startswith(RESERVES.decode()):
            self.reserves[_identifier(last)] = key.removeprefix(RESERVES.decode()).partition("/")[0]
        elif key.startswith(TAKEN_IDENTIFIERS.decode()):
            self.taken[_identifier(last)] = value
        else:
            self.others += 1

    def held(self, node: str, locator: str) -> dict[str, Identifier | str]:
        """Return the identifiers of a node's containers, in words if one is not held there or not mapped there."""
        held: dict[str, Identifier | str] = {}
        for owner in self.owners.values():
            identifier = Identifier.parse(owner["identifier"])
            whole = owner["state"] == "held" and self.mappings.get(identifier) == locator
            if owner["node"] == node:
                held[owner["container"]] = identifier if whole else str(owner)
        return held

    def complaints(self) -> list[str]:
        """Return which identifiers are lost, or are used twice: each taken one has one owner or is in one reserve."""
        named: dict[Identifier, str] = {identifier: reserve_name(node) for identifier, node in self.reserves.items()}
        complaints = []
        for name, owner in self.owners.items():
            identifier = Identifier.parse(owner["identifier"])
            if identifier in named:
                complaints.append(f"{identifier} is of {named[identifier]} and of {name}")
            named[identifier] = name
        complaints += [
            f"{identifier} is of {named.get(identifier)}, taken by {self.taken.get(identifier)}"
            for identifier in named.keys() | self.taken.keys()
            if named.get(identifier) != self.taken.get(identifier)
        ]
        complaints += [f"{identifier} is mapped, taken by nobody" for identifier in self.mappings.keys() - named.keys()]
        return complaints


def _identifier(digits: str) -> Identifier:
    return Identifier(int(digits, 16))
