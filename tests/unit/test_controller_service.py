# SPDX-License-Identifier: Apache-2.0
"""The service on a store that races, fails and loses answers: every call ends in the same state."""

from __future__ import annotations

import asyncio
import ipaddress

import pytest

from controller.core.assignment import Claim, Holder
from controller.core.decision import Reason, Refused
from controller.core.registration import Registration
from controller.service import Service
from ila import mapping
from ila.address import Identifier, Locator
from ila.domain import Domain
from ila.mapping import Generation, OwnerName
from ila.store import StoreUnavailable, Transaction
from tests.fake_store import FakeStore

DOMAIN = Domain.parse(sir_prefix="fd00:10:244::/64", locator_space=["fd00:c0de::/32"], checksum_mode="neutral-map")
POOL = ipaddress.IPv6Network("fd00:c0de:1::/62")


def service(store: FakeStore, **changed: object) -> Service:
    """Return a replica on the store."""
    settings: dict[str, object] = {"store": store, "domain": DOMAIN, "locator_pool": POOL, "jitter": 0.0}
    return Service(**(settings | changed))  # type: ignore[arg-type]


def node(number: int, *, declared: str | None = None, highest: Generation = Generation(0, 0)) -> Registration:  # noqa: B008
    """Return what node n<number> says of itself."""
    return Registration(
        node=f"n{number}",
        address=ipaddress.IPv6Address(f"2001:db8::{number}"),
        port=7444,
        declared=Locator.parse(declared) if declared else None,
        highest=highest,
    )


def holder(name: str, container: str = "c1", number: int = 1) -> Holder:
    """Return a container on a node that asks for the pod ns/name."""
    return Holder(owner=OwnerName.of_name("ns", name), node=f"n{number}", container=container)


async def test_life_of_a_kept_address() -> None:
    """A pod keeps its identifier over release, node and take-over; each mapping is of a newer generation."""
    store = FakeStore()
    replica = service(store)
    await replica.register(node(1), [])
    await replica.register(node(2), [])
    first = await replica.assign(holder("p"), take_over=False)
    assert await replica.assign(holder("p"), take_over=False) == first
    with pytest.raises(Refused, match="held by container 'c1' on node 'n1'"):
        await replica.assign(holder("p", "c2", 2), take_over=False)
    second = await replica.assign(holder("p", "c2", 2), take_over=True)
    await replica.release(holder("p"))
    assert (await replica.assign(holder("p", "c2", 2), take_over=False)) == second
    await replica.release(holder("p", "c2", 2))
    assert store.under(mapping.MAPPINGS) == {}
    third = await replica.assign(holder("p", "c3"), take_over=False)
    assert first.identifier == second.identifier == third.identifier
    assert first.generation < second.generation < third.generation


async def test_release_leaves_nothing_of_a_uid() -> None:
    """A pod that does not keep its address leaves no record."""
    store = FakeStore()
    replica = service(store)
    await replica.register(node(1), [])
    before = set(store.records)
    asker = Holder(owner=OwnerName.of_uid("u1"), node="n1", container="c1")
    await replica.assign(asker, take_over=False)
    await replica.release(asker)
    assert set(store.records) == before


async def test_kept_identifier_is_given_to_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random identifier that waits for its pod is not assigned: another one is drawn."""
    store = FakeStore()
    replica = service(store)
    await replica.register(node(1), [])
    kept = await replica.assign(holder("kept"), take_over=False)
    await replica.release(holder("kept"))
    fresh = Identifier.parse("2000:0:a:1")
    drawn = iter([kept.identifier, kept.identifier, fresh])
    monkeypatch.setattr("controller.core.assignment.random_identifier", lambda _: next(drawn))
    assert (await replica.assign(holder("other"), take_over=False)).identifier == fresh


async def test_racing_replicas_agree() -> None:
    """Many calls for the same pods over two replicas: one identifier per pod, one pod per identifier."""
    store = FakeStore()
    replicas = [service(store), service(store)]
    await replicas[0].register(node(1), [])
    answers = await asyncio.gather(
        *(replicas[number % 2].assign(holder(f"p{number // 4}"), take_over=False) for number in range(200))
    )
    assert all(answers[number] == answers[number // 4 * 4] for number in range(200))
    assert len({answer.identifier for answer in answers}) == 50
    assert len(store.under(mapping.MAPPINGS)) == 50


async def test_race_between_read_and_commit() -> None:
    """A replica that is overtaken between read and commit decides again on what it then reads."""
    store = FakeStore()
    slow, quick = service(store), service(store)
    await slow.register(node(1), [])
    await slow.register(node(2), [])
    store.before_commit.append(lambda: quick.assign(holder("p", "c2", 2), take_over=False))
    with pytest.raises(Refused, match="held by container 'c2' on node 'n2'"):
        await slow.assign(holder("p"), take_over=False)
    assert len(store.under(mapping.MAPPINGS)) == 1


async def test_lost_answer_changes_nothing() -> None:
    """A commit whose answer is lost is found done by the retry."""
    store = FakeStore()
    replica = service(store)
    await replica.register(node(1), [])
    store.lose_next.append(StoreUnavailable("lost"))
    with pytest.raises(StoreUnavailable, match="lost"):
        await replica.assign(holder("p"), take_over=False)
    commits = store.commits
    answer = await replica.assign(holder("p"), take_over=False)
    assert store.commits == commits
    assert list(store.under(mapping.MAPPINGS)) == [f"{answer.identifier.value:016x}"]


async def test_failing_store_changes_nothing() -> None:
    """A store that does not answer is the world's failure, and nothing is changed."""
    store = FakeStore()
    replica = service(store)
    await replica.register(node(1), [])
    before = store.copy().records
    store.fail_next.append(StoreUnavailable("no answer"))
    with pytest.raises(StoreUnavailable, match="no answer"):
        await replica.assign(holder("p"), take_over=False)
    assert store.records == before


async def test_endless_race_ends() -> None:
    """A call that always loses its race gives up as unavailable."""
    store = FakeStore()
    replica = service(store, attempts=3)
    await replica.register(node(1), [])

    async def touch() -> None:
        key = mapping.node_key("n1")
        await store.commit(Transaction({key: store.records[key].revision}, {key: store.records[key].value}))

    async def race() -> None:
        store.before_commit.append(race) if store.before_commit == [] and len(races) < 9 else None
        races.append(None)
        waiting, store.before_commit = store.before_commit, []
        await touch()
        store.before_commit = waiting

    races: list[None] = []
    store.before_commit.append(race)
    with pytest.raises(StoreUnavailable, match="changed 3 times"):
        await replica.assign(holder("p"), take_over=False)


async def test_nodes_get_locators_until_none_is_left() -> None:
    """Racing nodes get different locators of the pool; the fifth of four is told so; declared ones need no pool."""
    store = FakeStore()
    replicas = [service(store), service(store)]
    await replicas[0].start()
    given = await asyncio.gather(*(replicas[number % 2].register(node(number), []) for number in range(1, 5)))
    assert len({registered.node.locator for registered in given}) == 4
    with pytest.raises(Refused, match="has none left for node 'n9'") as refused:
        await replicas[0].register(node(9), [])
    assert refused.value.reason is Reason.EXHAUSTED
    assert (await replicas[0].register(node(9, declared="fd00:c0de:9::/64"), [])).node.port == 7444


async def test_no_pool() -> None:
    """Without a pool a node must declare its locator."""
    with pytest.raises(Refused, match="declares no locator"):
        await service(FakeStore(), locator_pool=None).register(node(1), [])


async def test_locator_in_use_is_not_left() -> None:
    """A node with a pod, of which it says that it has it, keeps its locator until the pod is gone."""
    store = FakeStore()
    replica = service(store)
    await replica.register(node(1, declared="fd00:c0de:7::/64"), [])
    await replica.assign(holder("p"), take_over=False)
    with pytest.raises(Refused, match="mappings still point"):
        await replica.register(node(1, declared="fd00:c0de:8::/64"), [], held=[holder("p").owner])
    await replica.release(holder("p"))
    moved = await replica.register(node(1, declared="fd00:c0de:8::/64"), [])
    assert str(moved.node.locator) == "fd00:c0de:8::/64"
    assert list(store.under(mapping.TAKEN_LOCATORS)) == ["fd00c0de00080000"]


@pytest.mark.parametrize("old", [False, True], ids=["wiped", "old snapshot"])
async def test_lost_records_come_back(*, old: bool) -> None:
    """After etcd lost everything, or its latest hour, nodes that register bring their pods back in a newer epoch."""
    store = FakeStore()
    replica = service(store)
    await replica.register(node(1), [])
    await replica.register(node(2), [])
    moved = await replica.assign(holder("moved"), take_over=False)
    snapshot = store.copy() if old else FakeStore()
    moved = await replica.assign(holder("moved", "c2", 2), take_over=True)
    stays = await replica.assign(holder("stays", "c3", 1), take_over=False)
    store.restore(snapshot)
    replica = service(store)
    highest = stays.generation
    claims = {
        1: [
            Claim(holder("moved"), moved.identifier, Generation(1, 1)),
            Claim(holder("stays", "c3"), stays.identifier, stays.generation),
        ],
        2: [Claim(holder("moved", "c2", 2), moved.identifier, moved.generation)],
    }
    for number in (2, 1):
        registered = await replica.register(node(number, highest=highest), claims[number])
        assert registered.generation > highest
    assert store.under(mapping.EPOCH) == {"": "2"}
    for asker, answer in ((holder("moved", "c2", 2), moved), (holder("stays", "c3"), stays)):
        again = await replica.assign(asker, take_over=False)
        assert again.identifier == answer.identifier
        assert again.generation > highest


async def test_replica_sees_the_store_go_back() -> None:
    """A replica that lives through the loss raises the epoch by itself before it writes anything."""
    store = FakeStore()
    replica = service(store)
    await replica.register(node(1), [])
    snapshot = store.copy()
    before = await replica.assign(holder("p"), take_over=False)
    store.restore(snapshot)
    after = await replica.assign(holder("p"), take_over=False)
    assert after.generation > before.generation
    assert store.under(mapping.EPOCH) == {"": "2"}


async def test_identifier_claimed_twice(caplog: pytest.LogCaptureFixture) -> None:
    """Of two nodes that claim one identifier for different pods the second is logged and left out."""
    store = FakeStore()
    replica = service(store)
    identifier = Identifier.parse("2000:0:a:1")
    await replica.register(node(1), [Claim(holder("a"), identifier, Generation(0, 0))])
    await replica.register(node(2), [Claim(holder("b", "c2", 2), identifier, Generation(0, 0))])
    assert list(store.under(mapping.OWNERS)) == ["name/ns/a"]
    assert "identifier 2000:0:a:1 is of name/ns/a now, not of name/ns/b" in caplog.text


async def test_another_domain() -> None:
    """A replica that is configured for another domain neither starts nor answers."""
    store = FakeStore()
    await service(store).register(node(1), [])
    other = Domain.parse(sir_prefix="fd00:10:9::/64", locator_space=["fd00:c0de::/32"], checksum_mode="neutral-map")
    before = store.copy().records
    with pytest.raises(Refused, match="sir_prefix is fd00:10:244::/64 in etcd, fd00:10:9::/64 in this controller"):
        await service(store, domain=other).start()
    with pytest.raises(Refused, match="another domain"):
        await service(store, domain=other).assign(holder("p"), take_over=False)
    assert store.records == before


def test_transaction_must_be_safe_to_repeat() -> None:
    """A transaction that writes no key it expects could be done twice, and cannot be made."""
    with pytest.raises(ValueError, match="writes no key that it expects"):
        Transaction({b"a": 1}, {b"b": b""})
