# SPDX-License-Identifier: Apache-2.0
"""Identifiers handed out in advance: none is lost and none is used twice, whenever the agent is killed."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.core.endpoint import State
from agent.core.mappings import MappingTable
from agent.core.network import NetworkError, host_name
from agent.core.ports import ControllerError
from cni.spec import CniError, Code
from ila.address import Identifier
from tests.fakes import DOMAIN, FakeController, FakeDatapath, FakeRecords, FakeWiring
from tests.unit.test_agent_endpoints import Node, add, delete, node  # noqa: F401 - a fixture

SIZE = 8
DOWN = ControllerError("down")


def reserving(pool: ThreadPoolExecutor, size: int = SIZE) -> Node:
    """Return a node that keeps a reserve, still empty."""
    controller, datapath, wiring, records = FakeController(), FakeDatapath(), FakeWiring(), FakeRecords()
    made = Node(pool, controller, datapath, wiring, records, MappingTable(domain=DOMAIN), reserve_size=size)
    made.restart()
    return made


@pytest.fixture
async def stocked() -> AsyncIterator[Node]:
    """Yield a node with a full reserve."""
    with ThreadPoolExecutor(1) as pool:
        made = reserving(pool)
        assert await made.reserve.step()
        yield made


async def test_an_add_asks_nobody_and_is_published_after(stocked: Node) -> None:
    """The controller hears of it in the background; the record says so before and after."""
    stocked.controller.calls.clear()
    attachment = await stocked.endpoints.add(add("web"))
    assert stocked.controller.calls == []
    (endpoint,) = stocked.kept.all()
    assert endpoint.state is State.UNPUBLISHED
    assert attachment.address == DOMAIN.sir_prefix.address(endpoint.identifier)
    assert await stocked.publications.step()
    assert stocked.controller.holders["default/web"] == (endpoint.identifier, "c-web")
    assert [known.state for known in stocked.kept.all()] == [State.WIRED]
    assert stocked.kept.all()[0].generation > endpoint.generation


async def test_pods_start_and_end_while_nobody_can_be_asked(stocked: Node) -> None:
    """As many as the reserve holds; one more is told to come again; all is made good afterwards."""
    stocked.controller.down = True
    for number in range(SIZE):
        await stocked.endpoints.add(add(f"p{number}"))
    assert not await stocked.publications.step()
    assert "p0" in stocked.status.problems["publication"]
    with pytest.raises(CniError) as error:
        await stocked.endpoints.add(add("one-more"))
    assert error.value.code is Code.TRY_AGAIN_LATER
    await stocked.endpoints.delete(delete("c-p0"))
    stocked.controller.down = False
    assert await stocked.publications.step()
    assert await stocked.releases.step()
    assert stocked.controller.holders.keys() == {f"default/p{number}" for number in range(1, SIZE)}
    assert not stocked.controller.reserved
    assert not stocked.status.problems


async def test_a_controller_that_hangs_holds_up_no_del(stocked: Node) -> None:
    """DEL does not wait for the publication that it ends; the call's late success is released."""
    await stocked.endpoints.add(add("web"))
    stocked.controller.hold = asyncio.Event()
    publishing = asyncio.ensure_future(stocked.publications.step())
    while "assign" not in stocked.controller.calls:
        await asyncio.sleep(0)
    await asyncio.wait_for(stocked.endpoints.delete(delete("c-web")), 10)
    assert [endpoint.state for endpoint in stocked.kept.all()] == [State.RELEASING]
    stocked.controller.hold.set()
    assert await stocked.releases.step()
    assert await publishing
    assert not stocked.controller.holders
    assert not stocked.kept.all()


async def test_a_restart_needs_no_controller_for_the_reserve(stocked: Node) -> None:
    """What is free is on disk; what a pod has taken is not free."""
    await stocked.endpoints.add(add("web"))
    (endpoint,) = stocked.kept.all()
    stocked.restart()
    assert len(stocked.reserve) == SIZE - 1
    taken = {stocked.reserve.take() for _ in range(SIZE - 1)}
    assert endpoint.identifier not in taken
    assert None not in taken
    assert stocked.reserve.take() is None


async def test_what_a_pod_has_had_is_not_given_again(stocked: Node) -> None:
    """Neither by a controller whose answer is older than the release, nor from the disk after a restart."""
    before = list(stocked.controller.reserved)
    await stocked.endpoints.add(add("web"))
    (endpoint,) = stocked.kept.all()
    assert await stocked.publications.step()
    await stocked.endpoints.delete(delete("c-web"))
    assert not stocked.kept.all()
    stocked.controller.reserved = before
    assert await stocked.reserve.step()
    assert len(stocked.reserve) == SIZE - 1
    stocked.restart()
    assert endpoint.identifier not in {stocked.reserve.take() for _ in range(SIZE)}


async def test_an_answer_on_its_way_does_not_bring_back_what_was_taken(stocked: Node) -> None:
    """The controller lists what it has reserved; some of that was taken while it answered."""
    taken = stocked.reserve.take()
    assert await stocked.reserve.step()
    assert taken in stocked.controller.reserved
    assert taken not in {stocked.reserve.take() for _ in range(SIZE)}


async def test_an_answer_on_its_way_does_not_bring_back_what_is_released_meanwhile(stocked: Node) -> None:
    """Taken by a run before this one, released while the answer that still lists it is under way: nobody's any more."""
    await stocked.endpoints.add(add("web"))
    (endpoint,) = stocked.kept.all()
    stocked.controller.down = True
    await stocked.endpoints.delete(delete("c-web"))
    stocked.controller.down = False
    stocked.restart()
    answered = stocked.controller.reserve

    async def overtaken(*, count: int) -> list[Identifier]:
        answer = await answered(count=count)
        assert endpoint.identifier in answer
        assert await stocked.releases.step()
        return answer

    stocked.controller.reserve = overtaken  # type: ignore[method-assign]
    assert await stocked.reserve.step()
    assert not stocked.kept.all()
    assert endpoint.identifier not in stocked.controller.reserved
    assert endpoint.identifier not in {stocked.reserve.take() for _ in range(2 * SIZE)}


async def test_a_void_reserve_is_replaced(stocked: Node) -> None:
    """After a new epoch the controller lists others."""
    old = set(stocked.controller.reserved)
    stocked.controller.reserved.clear()
    assert await stocked.reserve.step()
    assert old.isdisjoint({stocked.reserve.take() for _ in range(SIZE)})


async def test_a_kept_address_is_the_controller_s_to_know(stocked: Node) -> None:
    """The pod of that name may have one elsewhere."""
    await stocked.endpoints.add(add("db", keep=True))
    assert stocked.controller.calls[-1] == "assign"
    assert [endpoint.state for endpoint in stocked.kept.all()] == [State.WIRED]
    assert len(stocked.reserve) == SIZE


async def test_an_assignment_that_nobody_heard_of_is_released(stocked: Node) -> None:
    """Killed between question and answer: the disk knew of the question."""
    stocked.controller.lose_next = "assign"
    with pytest.raises(asyncio.CancelledError):
        await stocked.endpoints.add(add("db", keep=True))
    assert stocked.controller.holders
    stocked.restart()
    assert await stocked.releases.step()
    assert not stocked.controller.holders
    assert not stocked.kept.all()


async def test_a_new_sandbox_of_a_pod_ends_the_old_one(stocked: Node) -> None:
    """A runtime that was killed has forgotten it and never deletes it: its links do not stay for ever."""
    first = await stocked.endpoints.add(add("web", "old"))
    second = await stocked.endpoints.add(add("web", "new"))
    assert first.address == second.address
    assert stocked.wiring.pods.keys() == {host_name("new", "eth0")}
    assert await stocked.releases.step()
    assert await stocked.publications.step()
    assert [endpoint.container_id for endpoint in stocked.kept.all()] == ["new"]
    assert stocked.controller.holders["default/web"][1] == "new"


async def test_a_failed_add_gives_its_identifier_back(stocked: Node) -> None:
    """It leaves the reserve for good: packets may have carried it."""
    stocked.wiring.fail_next["wire"] = NetworkError("no veth")
    with pytest.raises(CniError):
        await stocked.endpoints.add(add("web"))
    assert await stocked.releases.step()
    assert not stocked.kept.all()
    assert len(stocked.controller.reserved) == len(stocked.reserve) == SIZE - 1


async def test_without_a_reserve_every_add_asks(node: Node) -> None:  # noqa: F811 - the fixture
    """The setting 0."""
    assert await node.reserve.step()
    await node.endpoints.add(add("web"))
    assert "assign" in node.controller.calls
    assert "reserve" not in node.controller.calls


SANDBOXES = [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("kept", 1)]
"""Pods, two of them with a second sandbox; the last keeps its address."""

acts = st.one_of(
    st.tuples(st.sampled_from(["add", "delete"]), st.sampled_from(SANDBOXES)),
    st.tuples(st.sampled_from(["publish", "release", "fill", "kill", "down", "up", "lose"])),
    st.tuples(st.just("disk"), st.sampled_from(["save", "remove"])),
)


async def act(machine: Node, what: str, *words: object) -> None:
    """Do one thing; what fails is what the runtime or the loop would see."""
    match what, words:
        case "add", ((str(pod), container),):
            await machine.endpoints.add(add(pod, f"c-{pod}-{container}", keep=pod == "kept"))
        case "delete", ((str(pod), container),):
            await machine.endpoints.delete(delete(f"c-{pod}-{container}"))
        case "publish", _:
            await machine.publications.step()
        case "release", _:
            await machine.releases.step()
        case "fill", _:
            await machine.reserve.step()
        case "kill", _:
            machine.restart()
        case "lose", _:
            machine.controller.lose_next = "assign"
        case "disk", (str(call),):
            machine.records.fail_next[call] = OSError(28, "No space left on device")
        case (("down" | "up"), _):
            machine.controller.down = what == "down"


async def history(machine: Node, steps: list[tuple[object, ...]]) -> None:
    owed: set[object] = set()
    for what, *words in steps:
        try:
            await act(machine, str(what), *words)
        except (CniError, OSError, asyncio.CancelledError):
            owed |= set(words) if what == "delete" else set()
        else:
            owed -= set(words)
        used = [endpoint.identifier for endpoint in machine.kept.wired()]
        pods = {endpoint.identifier: endpoint.pod.owner for endpoint in machine.kept.wired()}
        assert len({endpoint.pod.owner for endpoint in machine.kept.wired()}) == len(set(used)) == len(pods)
    machine.controller.down, machine.controller.lose_next = False, ""
    machine.records.fail_next.clear()
    machine.restart()
    for sandbox in owed:  # a runtime whose DEL has failed asks again
        await act(machine, "delete", sandbox)
    for _ in range(2):
        assert await machine.releases.step()
        assert await machine.publications.step()
        assert await machine.reserve.step()
    attached = {(endpoint.identifier, endpoint.container_id) for endpoint in machine.kept.wired()}
    assert set(machine.controller.holders.values()) <= attached
    assert {identifier for identifier, _ in machine.controller.holders.values()} == {item[0] for item in attached}
    assert len(machine.reserve) >= SIZE
    assert {machine.reserve.take() for _ in range(len(machine.reserve))} == set(machine.controller.reserved)


@given(st.lists(acts, max_size=25))
@example(
    [
        ("add", ("b", 1)),
        *(("disk", "save"), ("disk", "remove"), ("delete", ("b", 1))),
        *(("down",), ("delete", ("b", 1))),
    ]
)
@settings(max_examples=300, deadline=None)
def test_whatever_happens_none_is_lost_and_none_used_twice(steps: list[tuple[object, ...]]) -> None:
    """Kills, outages, lost answers and full disks: in the end etcd holds what pods have, and the reserve is full."""
    with ThreadPoolExecutor(1) as pool:
        asyncio.run(history(reserving(pool), steps))


async def test_a_full_disk_ends_pods_all_the_same(stocked: Node) -> None:
    """No new record can be written, an old one can be removed: once the controller knows, nothing is left."""
    await stocked.endpoints.add(add("web"))
    assert await stocked.publications.step()
    full = OSError(28, "No space left on device")
    stocked.records.fail_next["save"] = full
    stocked.reserve_records.fail_next["save"] = full
    await stocked.endpoints.delete(delete("c-web"))
    assert stocked.nothing_left()
    assert not stocked.records.files
    assert not stocked.controller.holders
    stocked.restart()
    assert len(stocked.reserve) == 0, "the reserve could not be struck, so it went whole"
    assert await stocked.reserve.step()
    assert len(stocked.reserve) == SIZE


async def test_a_full_disk_and_no_controller_is_told_to_come_again(stocked: Node) -> None:
    """Nobody would remember that the identifier is to be given back; meanwhile it is tried in the background."""
    await stocked.endpoints.add(add("web"))
    assert await stocked.publications.step()
    stocked.records.fail_next["save"] = OSError(28, "No space left on device")
    stocked.controller.down = True
    with pytest.raises(CniError) as error:
        await stocked.endpoints.delete(delete("c-web"))
    assert error.value.code is Code.TRY_AGAIN_LATER
    assert stocked.nothing_left()
    stocked.controller.down = False
    assert await stocked.releases.step()
    assert not stocked.controller.holders
    await stocked.endpoints.delete(delete("c-web"))
    assert not stocked.records.files


async def test_a_failed_add_is_released_without_anybody_asking(stocked: Node) -> None:
    """The background hears of the record once it is there to be seen."""
    releasing = asyncio.create_task(stocked.releases.run(0.01))
    stocked.wiring.fail_next["wire"] = NetworkError("no veth")
    with pytest.raises(CniError):
        await stocked.endpoints.add(add("web"))
    async with asyncio.timeout(10):
        while stocked.kept.all():
            await asyncio.sleep(0.01)
    releasing.cancel()
    assert not stocked.records.files


async def test_an_add_that_a_full_disk_refuses_loses_no_identifier(stocked: Node) -> None:
    """ADD says what failed, and the identifier is free again at once: no record anywhere names it."""
    before = len(stocked.reserve)
    stocked.records.fail_next["save"] = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(CniError, match="record of pod default/web") as error:
        await stocked.endpoints.add(add("web"))
    assert error.value.code is Code.IO_FAILURE
    assert len(stocked.reserve) == before
    assert not stocked.kept.all()
    assert not stocked.wiring.links()
    assert not stocked.datapath.read_endpoints()
    assert await stocked.reserve.step()
    assert len(stocked.reserve) == before


async def test_an_add_whose_undoing_a_full_disk_refuses_says_what_failed_first(stocked: Node) -> None:
    """The record stays as it is until the runtime's DEL, which frees everything."""
    stocked.wiring.fail_next["wire"] = NetworkError("no such device")
    real = stocked.records.save
    saves = 0

    def save(key: str, raw: bytes) -> None:
        nonlocal saves
        saves += 1
        if saves > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(key, raw)

    stocked.records.save = save  # type: ignore[method-assign]
    with pytest.raises(CniError, match="could not be wired") as error:
        await stocked.endpoints.add(add("web"))
    assert error.value.code is Code.IO_FAILURE
    stocked.records.save = real  # type: ignore[method-assign]
    await stocked.endpoints.delete(delete("c-web"))
    assert await stocked.releases.step()
    assert not stocked.kept.all()
    assert not stocked.controller.holders


class SlowRecords(FakeRecords):
    """A disk that takes its time over a record."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.go_on = threading.Event(), threading.Event()

    def save(self, key: str, raw: bytes) -> None:
        self.began.set()
        assert self.go_on.wait(10)
        super().save(key, raw)


async def test_an_add_that_is_cancelled_while_its_record_is_written_leaves_nothing() -> None:
    """The disk has the record when the undoing begins: the identifier is released, and not free for the next pod."""
    with ThreadPoolExecutor(2) as pool:
        made = reserving(pool)
        slow = made.records = SlowRecords()
        made.restart()
        assert await made.reserve.step()
        adding = asyncio.create_task(made.endpoints.add(add("web")))
        await asyncio.to_thread(slow.began.wait, 10)
        await asyncio.sleep(0.05)  # all but the record is done: it waits for that
        assert made.datapath.endpoints
        adding.cancel()
        asyncio.get_running_loop().call_later(0.05, slow.go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await adding
        assert made.nothing_left()
        assert [endpoint.state for endpoint in made.kept.all()] == [State.RELEASING]
        assert await made.releases.step()
        assert made.records.files == {}
        made.restart()
        assert made.kept.all() == []


async def test_status_names_a_reserve_that_is_used_up(stocked: Node) -> None:
    """R24: while the controller is away and no identifier is left, no pod can start; each of both alone is well."""
    await stocked.endpoints.status()
    stocked.controller.down = True
    assert not await stocked.reserve.step()
    await stocked.endpoints.status()
    for number in range(SIZE):
        await stocked.endpoints.add(add(f"pod{number}"))
    with pytest.raises(CniError, match="no identifier is left for a pod") as caught:
        await stocked.endpoints.status()
    assert (caught.value.code, caught.value.details) == (Code.NOT_AVAILABLE, "down")
    stocked.controller.down = False
    assert await stocked.reserve.step()
    await stocked.endpoints.status()
