# SPDX-License-Identifier: Apache-2.0
"""Random histories of nodes, pods and losses: whatever happens, the records fit together afterwards."""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st

from controller.core.assignment import Assigned, Claim, Holder
from controller.core.decision import Refused
from controller.core.registration import Registration
from controller.service import Service
from ila import mapping
from ila.address import Identifier
from ila.domain import Domain
from ila.mapping import Generation, OwnerName, OwnerState
from ila.store import StoreUnavailable
from tests.fake_store import FakeStore

DOMAIN = Domain.parse(sir_prefix="fd00:10:244::/64", locator_space=["fd00:c0de::/32"], checksum_mode="neutral-map")
POOL = ipaddress.IPv6Network("fd00:c0de:1::/56")
OWNERS = [OwnerName.of_name("ns", "a"), OwnerName.of_uid("u1")]
NODES = [1, 2]

acts = st.one_of(
    st.tuples(st.just("assign"), st.sampled_from(OWNERS), st.sampled_from(NODES), st.booleans()),
    st.tuples(st.just("again"), st.sampled_from(OWNERS), st.sampled_from(NODES)),
    st.tuples(st.just("fill"), st.sampled_from(NODES), st.integers(1, 3)),
    st.tuples(st.just("from reserve"), st.sampled_from(NODES), st.integers(0, 2)),
    st.tuples(st.just("give back"), st.sampled_from(NODES), st.integers(0, 2)),
    st.tuples(st.just("release"), st.sampled_from(OWNERS), st.sampled_from(NODES)),
    st.tuples(st.just("snapshot")),
    st.tuples(st.just("lose"), st.booleans(), st.booleans(), st.permutations(NODES)),
    st.tuples(st.just("restart")),
    st.tuples(st.just("answer lost")),
)


@dataclass
class World:
    """A store, a replica, and what each node remembers: container, identifier and generation by owner."""

    store: FakeStore = field(default_factory=FakeStore)
    snapshot: FakeStore = field(default_factory=FakeStore)
    claims: dict[int, dict[OwnerName, tuple[Holder, Assigned]]] = field(default_factory=lambda: {n: {} for n in NODES})
    reserves: dict[int, list[Identifier]] = field(default_factory=lambda: {n: [] for n in NODES})
    highest: Generation = Generation(0, 0)
    containers: int = 0

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.service = Service(store=self.store, domain=DOMAIN, locator_pool=POOL, jitter=0.0)

    async def register(self, number: int) -> None:
        claims = [Claim(holder, known.identifier, known.generation) for holder, known in self.claims[number].values()]
        request = Registration(
            node=f"n{number}",
            address=ipaddress.IPv6Address(f"2001:db8::{number}"),
            port=7444,
            declared=None,
            highest=self.highest,
        )
        try:
            registered = await self.service.register(request, claims)
        except StoreUnavailable:
            registered = await self.service.register(request, claims)
        assert registered.generation >= self.highest
        self.highest = registered.generation

    async def assign(self, holder: Holder, number: int, *, take_over: bool) -> None:
        try:
            given_ = await self.service.assign(holder, take_over=take_over)
        except (Refused, StoreUnavailable):
            return
        before = self.claims[number].get(holder.owner)
        if before is not None and before[0] == holder:
            assert given_.identifier == before[1].identifier
        self.claims[number][holder.owner] = (holder, given_)
        self.highest = max(self.highest, given_.generation)

    async def fill(self, number: int, count: int) -> None:
        """Take the reserve as the node does: without what it has used already."""
        answer = await self.service.reserve(f"n{number}", count)
        used = {known.identifier for _, known in self.claims[number].values()}
        assert len(answer) >= count
        assert used.isdisjoint(answer)
        self.reserves[number] = answer

    async def from_reserve(self, number: int, place: int) -> None:
        """Let a pod that has an identifier of this node's reserve be known; a uid has one pod."""
        if place >= len(self.reserves[number]):
            return
        identifier = self.reserves[number].pop(place)
        self.containers += 1
        holder = Holder(owner=OwnerName.of_uid("u1"), node=f"n{number}", container=f"c{self.containers}")
        try:
            given_ = await self.service.assign(holder, take_over=False, reserved=identifier)
        except (Refused, StoreUnavailable):
            return
        assert given_.identifier == identifier
        self.claims[number][holder.owner] = (holder, given_)
        self.highest = max(self.highest, given_.generation)

    async def act(self, act: tuple[object, ...]) -> None:
        match act:
            case ("assign", OwnerName() as owner, int(number), bool(take_over)):
                self.containers += 1
                holder = Holder(owner=owner, node=f"n{number}", container=f"c{self.containers}")
                await self.assign(holder, number, take_over=take_over)
            case ("again", OwnerName() as owner, int(number)) if owner in self.claims[number]:
                await self.assign(self.claims[number][owner][0], number, take_over=True)
            case ("fill", int(number), int(count)):
                await self.fill(number, count)
            case ("from reserve", int(number), int(place)):
                await self.from_reserve(number, place)
            case ("give back", int(number), int(place)) if place < len(self.reserves[number]):
                never = Holder(owner=OwnerName.of_uid("u2"), node=f"n{number}", container="c0")
                await self.service.release(never, identifier=self.reserves[number].pop(place))
            case ("release", OwnerName() as owner, int(number)) if owner in self.claims[number]:
                await self.service.release(self.claims[number].pop(owner)[0])
            case ("snapshot",):
                self.snapshot = self.store.copy()
            case ("lose", bool(wholly), bool(restarted), list(order)):
                self.store.restore(FakeStore() if wholly else self.snapshot)
                if restarted:
                    self.restart()
                for number in order:
                    await self.register(number)
            case ("restart",):
                self.restart()
            case ("answer lost",):
                self.store.lose_next = [StoreUnavailable("lost")]

    def check(self) -> None:
        """Assert that owners, identifiers, mappings, nodes and locators fit together."""
        owners = {
            name: mapping.decode_owner(mapping.OWNERS + name.encode(), raw.encode())
            for name, raw in self.store.under(mapping.OWNERS).items()
        }
        locators = {node: number for number, node in self.store.under(mapping.TAKEN_LOCATORS).items()}
        taken = {f"{owner.identifier.value:016x}": name for name, owner in owners.items()}
        assert len(taken) == len(owners)
        reserved = {
            key.rpartition("/")[2]: f"reserve/{key.split('/')[0]}" for key in self.store.under(mapping.RESERVES)
        }
        assert len(reserved) == len(self.store.under(mapping.RESERVES))
        assert self.store.under(mapping.TAKEN_IDENTIFIERS) == taken | reserved
        assert taken.keys().isdisjoint(reserved)
        held = {
            f"{owner.identifier.value:016x}": locators[owner.node]
            for owner in owners.values()
            if owner.state is OwnerState.HELD
        }
        mapped = {
            key: f"{mapping.decode_mapping(b'', raw.encode()).value:016x}"
            for key, raw in self.store.under(mapping.MAPPINGS).items()
        }
        assert mapped == held
        assert set(locators) == set(self.store.under(mapping.NODES))


@settings(max_examples=300, deadline=None)
@example(
    history=[
        ("assign", OWNERS[1], 1, False),
        ("snapshot",),
        ("release", OWNERS[1], 1),
        ("assign", OWNERS[1], 1, False),
        ("lose", False, True, [1, 2]),
    ]
)
@given(history=st.lists(acts, max_size=25))
def test_records_fit_together_after_any_history(history: list[tuple[object, ...]]) -> None:
    """After every act each identifier has one owner, each holder one mapping, and no generation went back."""

    async def live() -> None:
        world = World()
        for number in NODES:
            await world.register(number)
        world.snapshot = world.store.copy()
        for act in history:
            try:
                await world.act(act)
            except StoreUnavailable:
                world.store.lose_next = []
            world.check()

    asyncio.run(live())
