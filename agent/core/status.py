# SPDX-License-Identifier: Apache-2.0
"""What the agent knows of itself: whether it can serve, and what is wrong now; shared by the services, no I/O."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from agent.core.ports import Registration

log = logging.getLogger("ilanet.status")


class Status:
    """The node's registration and open problems; services write it, /readyz and CNI read it."""

    def __init__(self) -> None:
        self._problems: dict[str, str] = {}
        self._registration: Registration | None = None
        self._host_ready = False
        self._changed = asyncio.Event()
        self.mtu = 0
        """Bytes: of the smallest underlay device; 0 until the host is set up."""

        self.mappings_complete = False
        """Whether a whole snapshot of the mappings has reached the kernel since the agent started."""

    @property
    def registration(self) -> Registration | None:
        """What the controller said, now or before a restart; None on a node that was never registered."""
        return self._registration

    @property
    def problems(self) -> Mapping[str, str]:
        """What is wrong now: object -> reason."""
        return self._problems

    @property
    def serving(self) -> bool:
        """Whether an ADD can be served: registered, and the host set up."""
        return self._registration is not None and self._host_ready

    def not_serving(self) -> str:
        """Return why no ADD can be served, a line for each reason; '' if one can."""
        if self.serving:
            return ""
        reasons = "\n".join(f"{what}: {reason}" for what, reason in self._problems.items())
        return reasons or "not registered with a controller yet"

    def registered(self, registration: Registration) -> None:
        """Note the controller's answer."""
        self._registration = registration
        self._wake()

    def host_ready(self, *, mtu: int) -> None:
        """Note that routes, sysctls and programs are in place."""
        self.mtu = mtu
        self._host_ready = True
        self._wake()

    def problem(self, what: str, reason: str) -> None:
        """Note that something is wrong; logged when it is new."""
        if self._problems.get(what) != reason:
            log.warning("%s: %s", what, reason)
        self._problems[what] = reason

    def well(self, what: str) -> None:
        """Note that it is right again."""
        if self._problems.pop(what, None) is not None:
            log.info("%s: right again", what)

    async def until_serving(self) -> None:
        """Wait until an ADD can be served."""
        while not self.serving:
            self._changed.clear()
            await self._changed.wait()

    async def until_registered(self) -> Registration:
        """Wait for the registration."""
        while self._registration is None:
            self._changed.clear()
            await self._changed.wait()
        return self._registration

    def _wake(self) -> None:
        self._changed.set()
