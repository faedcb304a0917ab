# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.datapath import DatapathError, unpack_mapping
from agent.core.mappings import MappingTable
from agent.core.status import Status
from agent.mappings import MappingFeed
from ila.address import ChecksumMode, Identifier, Locator
from ila.domain import Domain
from ila.mapping import Generation, Node
from ila.store import Event, ResetBegin, ResetEnd, ResetPage, StoreUnavailable, StoreWentBack, Update
from tests.fakes import DOMAIN, HERE, NODE_ADDRESS, THERE, FakeDatapath, FakeStream

A, B, C = (0x2000_0000_0000_0001 + number for number in range(3))


def apply(table: MappingTable, kernel: dict[int, bytes]) -> None:
    write, values, delete = table.pending(1000)
    kernel.update(zip(write, values, strict=True))
    for identifier in delete:
        kernel.pop(identifier, None)
    table.done([*write, *delete])


def generations(kernel: dict[int, bytes]) -> dict[int, tuple[int, int]]:
    return {identifier: unpack_mapping(raw)[1:] for identifier, raw in kernel.items()}


@pytest.mark.parametrize("mode", ChecksumMode)
def test_table_translates_as_the_domain_does(mode: ChecksumMode) -> None:
    """The bulk arithmetic gives the 16 bytes of Domain.ila_address, in both modes."""
    domain = Domain(sir_prefix=DOMAIN.sir_prefix, locator_space=DOMAIN.locator_space, checksum_mode=mode)
    table = MappingTable(domain=domain)
    identifiers = [0x2000_0000_0000_0001, 0x2FFF_FFFF_FFFF_FFFF, 0x2000_0000_000A_8000]
    table.upsert(1, identifiers, [THERE.value] * 3, [5, 6, 7])
    for identifier, raw in zip(*table.pending(10)[:2], strict=True):
        expected = domain.ila_address(Identifier(identifier), THERE)
        assert unpack_mapping(raw)[0] == expected.packed


def test_an_older_generation_changes_nothing() -> None:
    """Invariant 1: a mapping never goes back, neither by an update nor by a deletion."""
    table = MappingTable(domain=DOMAIN)
    table.upsert(2, [A], [HERE.value], [9])
    table.upsert(2, [A], [THERE.value], [8])
    table.upsert(1, [A], [THERE.value], [100])
    table.delete(2, [A], [8])
    assert table.locate(A) == (HERE.value, Generation(2, 9))


def test_a_snapshot_deletes_what_it_does_not_list() -> None:
    """Deletions that happened while nobody watched are applied."""
    kernel: dict[int, bytes] = {}
    table = MappingTable(domain=DOMAIN)
    table.upsert(1, [A, B], [HERE.value] * 2, [5, 6])
    apply(table, kernel)
    table.begin()
    table.upsert(1, [B], [HERE.value], [6])
    table.end(Generation(1, 20))
    assert table.pending(10) == ([], [], [A])
    apply(table, kernel)
    assert kernel.keys() == {B}


def test_a_newer_epoch_keeps_old_mappings_until_told() -> None:
    """After etcd has lost its data traffic goes on: what nodes have not filled in yet stays for the grace time."""
    kernel: dict[int, bytes] = {}
    table = MappingTable(domain=DOMAIN)
    table.upsert(1, [A, B], [HERE.value] * 2, [500, 600])
    table.begin()
    table.upsert(2, [B], [THERE.value], [3])
    table.end(Generation(2, 4))
    apply(table, kernel)
    assert generations(kernel) == {A: (1, 500), B: (2, 3)}
    assert table.drop_before(2) == 1
    apply(table, kernel)
    assert kernel.keys() == {B}


def test_adopted_mappings_need_no_writing() -> None:
    """After a restart with an unchanged etcd nothing is written to the kernel."""
    first = MappingTable(domain=DOMAIN)
    first.upsert(3, [A, B], [HERE.value, THERE.value], [5, 6])
    kernel: dict[int, bytes] = {}
    apply(first, kernel)
    table = MappingTable(domain=DOMAIN)
    table.adopt(dict(kernel))
    assert table.highest == Generation(3, 6)
    table.begin()
    table.upsert(3, [A, B], [HERE.value, THERE.value], [5, 6])
    table.end(Generation(3, 6))
    assert table.pending(10) == ([], [], [])


def test_drift_of_the_kernel_is_mended() -> None:
    """A mapping that somebody deleted or changed in the kernel is written again, a foreign one is deleted."""
    table = MappingTable(domain=DOMAIN)
    kernel: dict[int, bytes] = {}
    table.upsert(1, [A, B], [HERE.value] * 2, [5, 6])
    apply(table, kernel)
    wanted = dict(kernel)
    del kernel[A]
    kernel[B], kernel[C] = bytes(32), bytes(32)
    assert table.differ(kernel) == 3
    apply(table, kernel)
    assert kernel == wanted


events = st.lists(
    st.tuples(st.sampled_from(["upsert", "delete"]), st.sampled_from([A, B, C]), st.integers(1, 3), st.integers(1, 9)),
    max_size=30,
)


@given(events)
def test_from_any_history_the_newest_wins(history: list[tuple[str, int, int, int]]) -> None:
    """Whatever order news comes in, no upsert of an older generation survives a newer one."""
    table = MappingTable(domain=DOMAIN)
    kernel: dict[int, bytes] = {}
    newest: dict[int, tuple[int, int]] = {}
    for kind, identifier, epoch, revision in history:
        if kind == "upsert":
            table.upsert(epoch, [identifier], [HERE.value], [revision])
        else:
            table.delete(epoch, [identifier], [revision])
        apply(table, kernel)
        located = generations(kernel).get(identifier)
        if located is not None:
            assert located >= newest.get(identifier, (0, 0))
            newest[identifier] = located
        else:
            newest.pop(identifier, None)


def feed(
    stream: FakeStream,
    datapath: FakeDatapath,
    registered: list[int],
    changed: list[int],
    epoch_grace: float = 60,
) -> MappingFeed:
    async def register_again() -> None:
        registered.append(1)

    return MappingFeed(
        stream=stream,
        datapath=datapath,
        table=MappingTable(domain=DOMAIN),
        status=Status(),
        register_again=register_again,
        on_change=lambda: changed.append(1),
        local=lambda: {B},
        backoff=(0.0,),
        epoch_grace=epoch_grace,
        audit=0,
        pool=ThreadPoolExecutor(1),
    )


def snapshot(epoch: int, revision: int, **locators: Locator) -> list[Event]:
    known = {"a": A, "b": B, "c": C}
    return [
        ResetBegin(epoch, ()),
        ResetPage(
            [known[name] for name in locators],
            [locator.value for locator in locators.values()],
            [revision] * len(locators),
        ),
        ResetEnd(Generation(epoch, revision)),
    ]


async def play(service: MappingFeed, scripts: Sequence[object]) -> None:
    """Run the service until its scripts are used up."""
    task = asyncio.create_task(service.run())
    while scripts:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_feed_brings_snapshot_and_updates_to_the_kernel() -> None:
    """A snapshot, an update and a deletion end in the kernel's map; only then a miss may be answered."""
    datapath, changed = FakeDatapath(), list[int]()
    update = Update(Generation(1, 9), identifiers=[B], locators=[THERE.value], revisions=[9], deleted=[A],
                    deleted_revisions=[8])  # fmt: skip
    stream = FakeStream([*snapshot(1, 5, a=HERE, b=HERE), update])
    await play(feed(stream, datapath, [], changed), stream.scripts)
    assert generations(datapath.mappings) == {B: (1, 9)}
    assert datapath.complete
    assert changed


async def test_feed_registers_again_when_etcd_went_back() -> None:
    """A wiped etcd makes the agent register, so that a controller raises the epoch; nothing is deleted before."""
    datapath, registered = FakeDatapath(), list[int]()
    stream = FakeStream(
        [*snapshot(1, 5, a=HERE), StoreWentBack(seen=Generation(1, 5), found=Generation(0, 1))],
        snapshot(2, 3, b=HERE),
    )
    await play(feed(stream, datapath, registered, []), stream.scripts)
    assert registered
    assert generations(datapath.mappings) == {A: (1, 5), B: (2, 3)}
    assert stream.asked[1] == Generation(1, 5)


HOST1 = Node(name="host1", locator=HERE, address=NODE_ADDRESS, port=1)
HOST2 = Node(name="host2", locator=THERE, address=NODE_ADDRESS + 1, port=1)


async def test_a_newer_epoch_makes_the_node_fill_itself_in_again() -> None:
    """Another agent's Register may have raised the epoch first: this node still gives back what it holds."""
    registered = list[int]()
    stream = FakeStream([*snapshot(1, 5, a=HERE), *snapshot(2, 3, a=HERE)])
    await play(feed(stream, FakeDatapath(), registered, []), stream.scripts)
    assert registered == [1]


async def test_nodes_outlive_a_lost_etcd_for_the_grace_time() -> None:
    """A node that has not registered again yet keeps its routes; it goes when it never does."""
    stream = FakeStream(
        [ResetBegin(1, (HOST1, HOST2)), ResetEnd(Generation(1, 9)), ResetBegin(2, (HOST1,)), ResetEnd(Generation(2, 3))]
    )
    service = feed(stream, FakeDatapath(), [], [], epoch_grace=0.05)
    task = asyncio.create_task(service.run())
    while service.nodes.keys() != {"host1", "host2"} or stream.scripts:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.02)
    assert service.nodes.keys() == {"host1", "host2"}
    await asyncio.sleep(0.1)
    assert service.nodes.keys() == {"host1"}
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_drift_of_the_kernel_is_found_by_the_audit() -> None:
    """A mapping that somebody deleted in the kernel is back after the next step."""
    datapath = FakeDatapath()
    service = feed(FakeStream(), datapath, [], [])
    for event in snapshot(1, 5, a=HERE, b=HERE):
        await service.take(event)
    wanted = dict(datapath.mappings)
    del datapath.mappings[A]
    await service.step()
    assert datapath.mappings == wanted


async def test_feed_goes_on_after_the_kernel_refused() -> None:
    """A full map is a problem of the status; what could not be written is written later."""
    datapath = FakeDatapath()
    datapath.fail_next["write_mappings"] = DatapathError("mappings: no room")
    stream = FakeStream(snapshot(1, 5, a=HERE), [StoreUnavailable("down")], snapshot(1, 5, a=HERE))
    await play(feed(stream, datapath, [], []), stream.scripts)
    assert datapath.mappings.keys() == {A}
