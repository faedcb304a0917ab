# SPDX-License-Identifier: Apache-2.0
"""What the sweep does to etcd: ends owners and nodes that Kubernetes does not have any more."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from controller.core import assignment, registration
from controller.core.decision import Plan, View
from controller.decider import Decider
from ila import mapping
from ila.address import Identifier, Locator
from ila.mapping import Owner, OwnerName


class Clearing(Decider):
    """Every call is idempotent and raises StoreError."""

    async def owner(self, name: OwnerName) -> Owner | None:
        """Return an owner's record; None if there is none."""
        view = await self._repeat(lambda _: self._view((mapping.owner_key(name),)))
        return view.owner(name)

    async def forget(self, name: OwnerName, judged: Owner) -> None:
        """Remove an owner whom Kubernetes does not have any more, with its mapping, unless it is another by now."""
        await self._end((mapping.owner_key(name),), lambda view: assignment.forget(view, name, judged))

    async def nodes(self) -> list[str]:
        """Return the name of every node that etcd knows."""
        return [key.removeprefix(mapping.NODES).decode() for key in await self._store.read_keys(mapping.NODES)]

    async def forget_node(self, name: str) -> bool:
        """Remove a node that is gone, unless mappings still point at it; return whether it is gone now.

        Its reserve goes first, its locator into quarantine.
        """
        key = mapping.node_key(name)
        node = (await self._repeat(lambda _: self._view((key,)))).node(name)
        if node is None:
            return True
        if await self._in_use(node.locator, name):
            return False
        for held in await self._store.read_keys(mapping.reserve_prefix(name)):
            one = Identifier(mapping.last_number(held))
            await self._end((held, mapping.taken_identifier_key(one)), partial(_give_back, name, one))
        await self._end((key,), lambda view: registration.forget(view, name))
        return True

    async def quarantined(self) -> list[Locator]:
        """Return the locators that are in quarantine."""
        keys = await self._store.read_keys(mapping.TAKEN_LOCATORS)
        view = await self._repeat(lambda _: self._view(tuple(keys)))
        prefix = mapping.quarantine_name("")
        return [Locator(mapping.last_number(key)) for key in keys if (view.text(key) or "").startswith(prefix)]

    async def free_locator(self, locator: Locator) -> None:
        """End a locator's quarantine."""
        await self._end((mapping.taken_locator_key(locator),), lambda view: registration.free(view, locator))

    async def _end(self, keys: tuple[bytes, ...], decide: Callable[[View], Plan | None]) -> None:
        """Do what is decided on these records; nothing if it is done already."""

        async def once(_: int) -> bool | None:
            view = await self._view(keys)
            if view is None:
                return None
            plan = decide(view)
            if plan is None:
                return True
            return None if await self._commit(plan, view.epoch) is None else True

        await self._repeat(once)


def _give_back(node: str, identifier: Identifier, view: View) -> Plan | None:
    return assignment.give_back(view, node, identifier, f"node {node} is gone")
