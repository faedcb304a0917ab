# SPDX-License-Identifier: Apache-2.0
"""What services ask of the world beside the kernel: the controller and the disk; pure protocols and errors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from agent.core.endpoint import Endpoint, Pod
from ila.address import Identifier, Locator
from ila.domain import Domain
from ila.mapping import Generation


class ControllerError(Exception):
    """The controller could not be asked: the same call may succeed later."""


class Refused(Exception):  # noqa: N818 - it is the controller's word, not a fault
    """The controller refuses; the message is its reason.  `held` if another holder has the identifier."""

    def __init__(self, message: str, *, held: bool = False) -> None:
        super().__init__(message)
        self.held = held


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What the controller answers to Register: all a node needs to know of its domain."""

    locator: Locator
    domain: Domain
    closed_ports: tuple[int, ...]

    ask_first: tuple[str, ...] = ()
    """Names of pods, as regular expressions, whose identifier only the controller knows."""

    def asks_first(self, pod: Pod) -> bool:
        """Tell whether a pod may have an identifier already, which the reserve knows nothing of."""
        return pod.keep_address or any(re.fullmatch(pattern, pod.name) for pattern in self.ask_first)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned:
    """What the controller answers to Assign."""

    identifier: Identifier
    generation: Generation
    """Of the mapping that now points here."""

    owner: str
    """Whose identifier it is (Pod.owner_name)."""


class Controller(Protocol):
    """Any replica of the controller; every call is idempotent and raises ControllerError or Refused."""

    async def register(self, *, highest: Generation, held: Iterable[Endpoint]) -> Registration:
        """Make this node known with what it has wired; return its registration."""

    async def assign(
        self, *, pod: Pod, container_id: str, take_over: bool, reserved: Identifier | None = None
    ) -> Assigned:
        """Return the pod's identifier, whose mapping now points here.

        `reserved` is the one of the reserve that the pod uses already.
        """

    async def release(self, *, pod: Pod, container_id: str, identifier: Identifier) -> None:
        """End what the container holds, and take the identifier out of the reserve."""

    async def report(
        self,
        *,
        version: str,
        serving: bool,
        problems: Mapping[str, str],
        owners: Iterable[str],
        past_netfilter: bool,
    ) -> None:
        """Tell how this node is: whether pods can start, what is wrong, whose identifiers it has, how packets go."""

    async def reserve(self, *, count: int) -> list[Identifier]:
        """Return all identifiers of this node's reserve, filled up to `count`."""


class Records(Protocol):
    """Durable files of this node; calls block for a disk write and raise OSError."""

    def load(self) -> dict[str, bytes]:
        """Return every record by its key."""

    def save(self, key: str, raw: bytes) -> None:
        """Write a record durably; it is there whole or not at all."""

    def remove(self, key: str) -> None:
        """Remove a record durably; one that is not there is no error."""

    def check(self) -> None:
        """Return if a record could be written now; nothing is left of the trial."""
