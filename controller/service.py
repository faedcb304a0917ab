# SPDX-License-Identifier: Apache-2.0
"""What agents ask for: registers nodes, gives and takes identifiers; executes the decisions of controller/core."""

from __future__ import annotations

import ipaddress
import logging
import random
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from controller.core import assignment, registration, reserve
from controller.core.assignment import Assigned, Claim, Holder
from controller.core.decision import Plan, Reason, Refused, View
from controller.core.registration import Registration
from controller.decider import ATTEMPTS, JITTER, Decider
from ila import mapping
from ila.address import Identifier, Locator
from ila.domain import Domain
from ila.mapping import Generation, Node, OwnerName
from ila.store import Store

log = logging.getLogger(__name__)

_TOGETHER = 100
"""Records that are read at once: etcd takes 128 operations in a transaction."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A node's record, and where etcd was when the answer was made."""

    node: Node
    generation: Generation


class Service(Decider):
    """Register, assign and release; every call is idempotent and raises Refused or StoreError."""

    def __init__(
        self,
        *,
        store: Store,
        domain: Domain,
        locator_pool: ipaddress.IPv6Network | None,
        is_gone: Callable[[str], bool] = lambda _: False,
        attempts: int = ATTEMPTS,
        jitter: float = JITTER,
    ) -> None:
        """Take what tells whether a node is known to be there no more, so that another may have its locator."""
        super().__init__(store=store, domain=domain, attempts=attempts, jitter=jitter)
        self._pool = locator_pool
        self._is_gone = is_gone

    async def start(self) -> Generation:
        """Fill an empty etcd, or check that it was filled for the same domain; return where it is."""
        view = await self._repeat(lambda _: self._view(()))
        return view.generation

    async def register(
        self, request: Registration, claims: Sequence[Claim], *, held: Collection[OwnerName] = ()
    ) -> Registered:
        """Give the node its locator, raise the epoch if it has seen a later one, write lost claims back.

        `held` are owners whose pods it has, beside those of its claims.
        """
        registration.check(request, domain=self._domain)
        has = {*held, *(claim.holder.owner for claim in claims), OwnerName.of_node(request.node)}
        node = await self._repeat(lambda attempt: self._register(request, has, attempt))
        for claim, view in await self._lost(claims):
            await self._restore(claim, view)
        view = await self._repeat(lambda _: self._view(()))
        return Registered(node, view.generation)

    async def assign(
        self,
        holder: Holder,
        *,
        take_over: bool,
        reserved: Identifier | None = None,
        wanted: Identifier | None = None,
    ) -> Assigned:
        """Give the holder its identifier, and point the mapping at its node.

        `reserved` is the one it uses already, `wanted` the one it must be.
        """
        return await self._repeat(lambda _: self._assign(holder, take_over=take_over, reserved=reserved, wanted=wanted))

    async def release(self, holder: Holder, *, identifier: Identifier | None = None) -> None:
        """End what the holder holds; one that only its node's reserve has had is given back."""
        await self._repeat(lambda _: self._release(holder, identifier))

    async def reserve(self, node: str, count: int) -> list[Identifier]:
        """Return the identifiers of a node's reserve, at least `count`."""
        reserve.check(node, count)
        return await self._repeat(lambda _: self._reserve(node, count))

    async def _register(self, request: Registration, held: Collection[OwnerName], attempt: int) -> Node | None:
        key = mapping.node_key(request.node)
        view = await self._view((key,), request=request)
        if view is None:
            return None
        locator = registration.locator_of(view, request) or await self._choose(request, attempt)
        view = await self._view((key, mapping.taken_locator_key(locator)))
        if view is None or registration.locator_of(view, request) not in (None, locator):
            return None
        left = registration.left_locator(view, request)
        in_use = left is not None and await self._in_use(left, request.node)
        if left is not None and in_use:
            await self._let_go(request.node, held)
            in_use = await self._in_use(left, request.node)
        other = view.text(mapping.taken_locator_key(locator))
        gone_in_use = None
        if other not in (None, request.node) and (
            other.startswith(mapping.quarantine_name("")) or self._is_gone(other)
        ):
            gone = other.rpartition("/")[2]
            gone_in_use = await self._in_use(locator, gone)
            names = (key, mapping.taken_locator_key(locator), mapping.node_key(gone))
            view = await self._view(names)
            if view is None or view.text(names[1]) != other:
                return None
        decision = registration.register(view, request, locator, left_in_use=in_use, gone_in_use=gone_in_use)
        if isinstance(decision, Node):
            return decision
        done = await self._commit(decision, view.epoch)
        return (
            None
            if done is None
            else Node(name=request.node, locator=locator, address=request.address, port=request.port)
        )

    async def _let_go(self, node: str, held: Collection[OwnerName]) -> None:
        """End what a node had that it has not any more: it has been installed anew, and is to get another locator."""
        names = [name for name in await self.owners() if name not in held]
        for begin in range(0, len(names), _TOGETHER):
            some = names[begin : begin + _TOGETHER]
            keys = [mapping.owner_key(name) for name in some]
            view = await self._repeat(lambda _, keys=keys: self._view(keys))  # type: ignore[misc]
            for name in some:
                owner = view.owner(name)
                if owner is not None and owner.node == node:
                    await self.release(Holder(owner=name, node=node, container=owner.container))

    async def _choose(self, request: Registration, attempt: int) -> Locator:
        """Choose a free locator: the lowest, and after lost races one among the next few."""
        if self._pool is None:
            raise Refused(
                Reason.NOT_NOW, f"node {request.node!r} declares no locator, and this controller has no locator_pool"
            )
        taken = [Locator(mapping.last_number(key)) for key in await self._store.read_keys(mapping.TAKEN_LOCATORS)]
        skip = random.randrange(1 << min(attempt, 8))  # noqa: S311 - spreads racing nodes, keeps no secret
        locator = registration.choose(self._pool, taken, skip=skip)
        if locator is None:
            raise Refused(Reason.EXHAUSTED, f"locator pool {self._pool} has none left for node {request.node!r}")
        return locator

    async def _lost(self, claims: Sequence[Claim]) -> list[tuple[Claim, View]]:
        """Return the claims that etcd does not have as they are, with what was read; refused ones are logged."""
        if not claims:
            return []
        keys = dict.fromkeys(key for claim in claims for key in assignment.claim_keys(claim))
        view = await self._repeat(lambda _: self._view(tuple(keys)))
        return [(claim, view) for claim in claims if _lost_claim(view, claim)]

    async def _restore(self, claim: Claim, first: View) -> None:
        """Write one claim back; one that is another's by now is logged and left."""

        async def once(attempt: int) -> bool | None:
            view = first if not attempt else await self._view(assignment.claim_keys(claim))
            if view is None:
                return None
            plan = _lost_claim(view, claim)
            if plan is None:
                return True
            return None if await self._commit(plan, view.epoch) is None else True

        await self._repeat(once)

    async def _assign(
        self, holder: Holder, *, take_over: bool, reserved: Identifier | None, wanted: Identifier | None
    ) -> Assigned | None:
        keys = assignment.holder_keys(holder)
        if wanted is not None:
            view = await self._view((mapping.taken_identifier_key(wanted),))
            keys = keys if view is None else (*keys, *assignment.wanted_keys(view, wanted))
        if reserved is not None:
            keys = (*keys, *assignment.identifier_keys(holder.node, reserved))
        view = await self._view(keys)
        owner = None if view is None else view.owner(holder.owner)
        if owner is not None:
            view = await self._view((*keys, *assignment.identifier_keys(holder.node, owner.identifier)))
        if view is None:
            return None
        fresh = assignment.random_identifier(secrets.randbelow)
        decision = assignment.assign(view, holder, take_over=take_over, fresh=fresh, reserved=reserved, wanted=wanted)
        if isinstance(decision, Assigned):
            return decision
        revision = await self._commit(decision, view.epoch)
        if revision is None or decision.identifier is None:
            return None
        return Assigned(decision.identifier, Generation(view.epoch, revision))

    async def _release(self, holder: Holder, identifier: Identifier | None) -> bool | None:
        keys = assignment.holder_keys(holder)
        if identifier is not None:
            keys = (*keys, *assignment.identifier_keys(holder.node, identifier))
        view = await self._view(keys)
        if view is None:
            return None
        plan = assignment.release(view, holder, identifier=identifier)
        if plan is None:
            log.info("release changes nothing: not the holder: %s", holder)
            return True
        return None if await self._commit(plan, view.epoch) is None else True

    async def _reserve(self, node: str, count: int) -> list[Identifier] | None:
        present = await self._store.read_keys(mapping.reserve_prefix(node))
        fresh = [assignment.random_identifier(secrets.randbelow) for _ in range(min(count, reserve.BATCH))]
        view = await self._view(reserve.reserve_keys(node, present, fresh))
        if view is None:
            return None
        identifiers, plan = reserve.reserve(view, node, present, count, fresh)
        if plan is not None and await self._commit(plan, view.epoch) is None:
            return None
        return identifiers if len(identifiers) >= count else None


def _lost_claim(view: View, claim: Claim) -> Plan | None:
    try:
        return assignment.restore(view, claim)
    except Refused as error:
        log.warning("claim not restored: %s: %s", claim.holder, error)
        return None
