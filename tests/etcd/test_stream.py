# SPDX-License-Identifier: Apache-2.0
"""The stream against a real etcd that is restarted, cut off, compacted, wiped and restored."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from ila import mapping
from ila.certificates import AGENT, CONTROLLER
from ila.channel import PeerChannel
from ila.mapping import Generation, RecordError
from ila.store import ResetBegin, ResetEnd, ResetPage, StoreWentBack, Transaction, Update
from lab.authority import Authority
from lab.etcd import Etcd, Place
from tests.etcd.tools import NEVER, Connections, delete, holder, identifier, locator, register, write


async def test_snapshot_then_changes(etcd: Etcd, connections: Connections) -> None:
    """A follower gets everything in pages, then every change, each with its revision."""
    service, store = connections.service(etcd.peer()), connections.store(etcd.peer())
    await register(service)
    await write(store, range(1, 31))
    follower = connections.follow(etcd.peer())
    await follower.until(lambda f: f.resets == 1)
    assert sorted(follower.mappings) == [identifier(number).value for number in range(1, 31)]
    assert sum(isinstance(event, ResetPage) for event in follower.events) == 5
    assert follower.nodes == {"n1"}
    assert follower.stream.trouble is None
    revision = await write(store, [5], at=2)
    await delete(store, [6])
    await register(service, 2)
    await follower.until(lambda f: f.nodes == {"n1", "n2"})
    assert follower.mappings[identifier(5).value] == (locator(2).value, revision)
    assert identifier(6).value not in follower.mappings
    assert follower.generation.epoch == 1
    assert follower.resets == 1


async def test_empty_etcd_is_waited_for(etcd: Etcd, connections: Connections) -> None:
    """An etcd that no controller has filled yet is waited for; who has seen more is told that it went back."""
    follower = connections.follow(etcd.peer())
    await follower.until(lambda f: "no controller has written the epoch" in (f.stream.trouble or ""))
    seen = Generation(3, 7)
    error = await connections.follow(etcd.peer(), seen).error()
    assert isinstance(error, StoreWentBack)
    assert error.seen == seen
    await connections.service(etcd.peer()).start()
    await follower.until(lambda f: f.resets == 1)


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_restart(etcd: Etcd, connections: Connections, how: str) -> None:
    """After a restart of etcd the stream goes on where it was: nothing lost, nothing twice, no snapshot."""
    await register(connections.service(etcd.peer()))
    store = connections.store(etcd.peer())
    follower = connections.follow(etcd.peer())
    await follower.until(lambda f: f.resets == 1)
    await write(store, range(1, 6))
    await follower.until(lambda f: len(f.mappings) == 5)
    getattr(etcd, how)()
    await follower.until(lambda f: f.stream.trouble is not None)
    etcd.start()
    store = connections.store(etcd.peer())
    await write(store, range(6, 11))
    await delete(store, [1])
    await follower.until(lambda f: len(f.mappings) == 9 and f.stream.trouble is None)
    assert follower.resets == 1
    assert follower.revisions == sorted(set(follower.revisions))
    assert len(follower.revisions) == 11


@pytest.mark.parametrize("how", ["cut", "swallow"])
async def test_unreachable_for_longer_than_keepalive(etcd: Etcd, connections: Connections, how: str) -> None:
    """Changes made while etcd was out of reach, with or without closed connections, arrive once and in order."""
    await register(connections.service(etcd.peer()))
    store = connections.store(etcd.peer())
    network = await connections.network(etcd.endpoints[0])
    follower = connections.follow(network.peer)
    await follower.until(lambda f: f.resets == 1)
    await write(store, range(1, 4))
    await follower.until(lambda f: len(f.mappings) == 3)
    if how == "cut":
        await network.cut()
    else:
        network.swallow()
    await write(store, range(4, 24))
    await delete(store, [1, 2])
    await follower.until(lambda f: f.stream.trouble is not None)
    await asyncio.sleep(4)
    assert len(follower.mappings) == 3
    if how == "cut":
        await network.open()
    else:
        network.flow()
    await write(store, [24])
    await follower.until(lambda f: identifier(24).value in f.mappings)
    assert len(follower.mappings) == 22
    assert follower.resets == 1
    assert follower.revisions == sorted(set(follower.revisions))
    assert len(follower.revisions) == 26


async def test_frozen_server(etcd: Etcd, connections: Connections) -> None:
    """A server that stands still with its connections open is noticed in time; afterwards the stream goes on."""
    await register(connections.service(etcd.peer()))
    follower = connections.follow(etcd.peer())
    await follower.until(lambda f: f.resets == 1)
    etcd.freeze()
    try:
        await follower.until(lambda f: f.stream.trouble is not None, timeout=6)
    finally:
        etcd.thaw()
    await write(connections.store(etcd.peer()), range(1, 4))
    await follower.until(lambda f: len(f.mappings) == 3 and f.stream.trouble is None)
    assert follower.resets == 1


async def test_compacted_past_our_revision(etcd: Etcd, connections: Connections) -> None:
    """What was deleted while we were away and compacted is deleted here too, by a fresh snapshot."""
    await register(connections.service(etcd.peer()))
    store = connections.store(etcd.peer())
    network = await connections.network(etcd.endpoints[0])
    await write(store, range(1, 11))
    follower = connections.follow(network.peer)
    await follower.until(lambda f: f.resets == 1)
    await network.cut()
    await delete(store, range(1, 4))
    await write(store, [4, 11], at=2)
    etcd.compact()
    await network.open()
    await follower.until(lambda f: f.resets == 2)
    assert sorted(follower.mappings) == [identifier(number).value for number in range(4, 12)]
    assert follower.mappings[identifier(4).value][0] == locator(2).value
    await write(store, [12])
    await follower.until(lambda f: len(f.mappings) == 9)


async def test_compacted_while_the_snapshot_is_read(etcd: Etcd, connections: Connections) -> None:
    """A snapshot whose revision is compacted half way is begun anew and comes out whole."""
    await register(connections.service(etcd.peer()))
    store = connections.store(etcd.peer())
    await write(store, range(1, 31))
    events = connections.stream(etcd.peer()).follow(NEVER)
    async with contextlib.aclosing(events):
        assert isinstance(await anext(events), ResetBegin)
        assert isinstance(await anext(events), ResetPage)
        await write(store, [31, 32])
        etcd.compact()
        assert isinstance(await anext(events), ResetBegin)
        listed: list[int] = []
        while isinstance(event := await anext(events), ResetPage):
            listed += event.identifiers
        assert isinstance(event, ResetEnd)
    assert listed == [identifier(number).value for number in range(1, 33)]


@pytest.mark.parametrize("how", ["wiped", "old snapshot"])
async def test_etcd_goes_back(etcd: Etcd, connections: Connections, tmp_path: Path, how: str) -> None:
    """A wiped or restored etcd is noticed; Register raises the epoch; the generation never goes back."""
    service = connections.service(etcd.peer())
    await register(service)
    await service.assign(holder("early"), take_over=False)
    etcd.save_snapshot(tmp_path / "snapshot")
    for number in range(5):
        await service.assign(holder(f"late{number}"), take_over=False)
    follower = connections.follow(etcd.peer())
    await follower.until(lambda f: len(f.mappings) == 6)
    etcd.kill()
    if how == "wiped":
        etcd.wipe()
    else:
        etcd.restore(tmp_path / "snapshot")
    etcd.start()
    error = await follower.error()
    assert isinstance(error, StoreWentBack)
    assert error.found < error.seen
    highest = error.seen
    again = await connections.follow(etcd.peer(), highest).error()
    assert isinstance(again, StoreWentBack)
    registered = await register(connections.service(etcd.peer()), highest=highest)
    assert registered.generation.epoch == highest.epoch + 1
    follower = connections.follow(etcd.peer(), highest)
    await follower.until(lambda f: f.resets == 1)
    assert follower.generation > highest
    assert len(follower.mappings) == (0 if how == "wiped" else 1)


async def test_raised_epoch_means_a_snapshot(etcd: Etcd, connections: Connections) -> None:
    """When the epoch is raised under a living watch, everything is delivered anew in the new epoch."""
    service = connections.service(etcd.peer())
    await register(service)
    await write(connections.store(etcd.peer()), range(1, 4))
    follower = connections.follow(etcd.peer())
    await follower.until(lambda f: f.resets == 1)
    await register(service, highest=Generation(6, 1))
    await follower.until(lambda f: f.resets == 2)
    assert follower.generation.epoch == 7
    assert len(follower.mappings) == 3


async def test_broken_record_is_an_error(etcd: Etcd, connections: Connections) -> None:
    """A record that does not parse ends the stream with its key and its text, in snapshot and watch."""
    await register(connections.service(etcd.peer()))
    follower = connections.follow(etcd.peer())
    await follower.until(lambda f: f.resets == 1)
    key = mapping.mapping_key(identifier(1))
    await connections.store(etcd.peer()).commit(Transaction({key: 0}, {key: b"nonsense"}))
    for broken in (follower, connections.follow(etcd.peer())):
        error = await broken.error()
        assert isinstance(error, RecordError)
        assert key.decode() in str(error)
        assert "nonsense" in str(error)


async def test_busy_writes_while_connections_are_cut(etcd: Etcd, connections: Connections) -> None:
    """Through a network that is cut again and again, every one of 300 changes arrives once and in order."""
    await register(connections.service(etcd.peer()))
    store = connections.store(etcd.peer())
    network = await connections.network(etcd.endpoints[0])
    follower = connections.follow(network.peer)
    await follower.until(lambda f: f.resets == 1)

    async def cut() -> None:
        while True:
            await asyncio.sleep(0.15)
            await network.cut()
            await network.open()

    cutting = asyncio.create_task(cut())
    try:
        for start in range(1, 301, 20):
            last = await write(store, range(start, start + 20))
            await asyncio.sleep(0.05)
    finally:
        cutting.cancel()
        await asyncio.gather(cutting, return_exceptions=True)
        await network.cut()
        await network.open()  # it may have been cut when it was told to end
    await follower.until(lambda f: f.generation.revision == last)
    assert follower.resets == 1
    assert len(follower.revisions) == 300
    assert follower.revisions == sorted(set(follower.revisions))


async def test_one_of_three_members_killed(tmp_path: Path, authority: Authority, connections: Connections) -> None:
    """Over TLS with three endpoints, writes and the stream go on when any one member is killed."""
    places = [Place(), Place(), Place()]
    with Etcd(directory=tmp_path / "etcd", places=places, authority=authority, fast=True) as etcd:
        etcd.set_up_users()
        service, store = connections.service(etcd.client(CONTROLLER)), connections.store(etcd.client(CONTROLLER))
        await register(service)
        follower = connections.follow(etcd.client(AGENT))
        await follower.until(lambda f: f.resets == 1)
        for member in range(3):
            etcd.kill(member)
            for _ in range(20):
                try:
                    await write(store, [member + 1])
                    break
                except Exception:  # noqa: BLE001 - while a leader is elected
                    await asyncio.sleep(0.2)
            await follower.until(lambda f, member=member: len(f.mappings) == member + 1)  # type: ignore[misc]
            etcd.start_member(member)
            await asyncio.sleep(0.5)
        assert follower.resets == 1


async def test_certificate_replaced_while_following(
    guarded_etcd: Etcd, authority: Authority, connections: Connections
) -> None:
    """A new client certificate is taken up: the old connection ends and the stream goes on without loss."""
    peer = guarded_etcd.client(AGENT)
    store = connections.store(guarded_etcd.client(CONTROLLER))
    await register(connections.service(guarded_etcd.client(CONTROLLER)))
    follower = connections.follow(peer)
    await follower.until(lambda f: f.resets == 1)
    channel: PeerChannel = follower.stream._channel
    before = channel.get()
    authority.client(AGENT, common_name=AGENT)
    await follower.until(lambda _: channel.get() is not before)
    await asyncio.sleep(0.5)
    await write(store, range(1, 11))
    await follower.until(lambda f: len(f.mappings) == 10)
    assert follower.resets == 1
    assert len([event for event in follower.events if isinstance(event, Update)]) <= 10
