# SPDX-License-Identifier: Apache-2.0
"""What the controller decides, from any state of the records to any other: pure, no store."""

from __future__ import annotations

import ipaddress
import random
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core import assignment, registration, reserve
from controller.core.assignment import Assigned, Claim, Holder
from controller.core.decision import Plan, Reason, Refused, View, foundation
from controller.core.registration import Registration
from ila import mapping
from ila.address import C_BIT, Identifier, Locator
from ila.domain import Domain
from ila.mapping import Generation, Node, Owner, OwnerName, OwnerState
from ila.store import Reading, Record

DOMAIN = Domain.parse(sir_prefix="fd00:10:244::/64", locator_space=["fd00:c0de::/32"], checksum_mode="neutral-map")
HERE = Node(
    name="n1", locator=Locator.parse("fd00:c0de:0:1::/64"), address=ipaddress.IPv6Address("2001:db8::1"), port=1
)
THERE = Node(
    name="n2", locator=Locator.parse("fd00:c0de:0:2::/64"), address=ipaddress.IPv6Address("2001:db8::2"), port=1
)
MINE, OTHER, FRESH = (Identifier.parse(f"2000:0:a:{number}") for number in (1, 2, 3))
UID, NAME = OwnerName.of_uid("u1"), OwnerName.of_name("ns", "pod")
EPOCH = 4


def view(records: dict[bytes, bytes], *, revision: int = 100, at: dict[bytes, int] | None = None) -> View:
    """Return a view of these records, each at revision 50 or where `at` says; epoch and domain stand."""
    base = {mapping.EPOCH: mapping.encode_epoch(EPOCH), mapping.DOMAIN: mapping.encode_domain(DOMAIN)}
    whole = {key: Record(value, (at or {}).get(key, 50)) for key, value in (base | records).items()}
    return View(Reading(revision, whole))


def nodes() -> dict[bytes, bytes]:
    """Return the records of both nodes."""
    return {
        record: value
        for node in (HERE, THERE)
        for record, value in (
            (mapping.node_key(node.name), mapping.encode_node(node)),
            (mapping.taken_locator_key(node.locator), node.name.encode()),
        )
    }


def owned(
    owner: OwnerName, node: Node, container: str, *, state: OwnerState = OwnerState.HELD, epoch: int = EPOCH
) -> dict[bytes, bytes]:
    """Return the records of an owner of MINE, mapped if it is held."""
    record = Owner(identifier=MINE, node=node.name, container=container, state=state, epoch=epoch)
    records = {
        mapping.owner_key(owner): mapping.encode_owner(record),
        mapping.taken_identifier_key(MINE): owner.text.encode(),
    }
    if state is OwnerState.HELD:
        records[mapping.mapping_key(MINE)] = mapping.encode_mapping(node.locator)
    return records


def after(seen: View, plan: Plan, *, revision: int = 200) -> View:
    """Return the view once the plan is committed."""
    records = {key: record for key, record in seen.reading.records.items() if key not in plan.transaction.deletes}
    records |= {key: Record(value, revision) for key, value in plan.transaction.puts.items()}
    return View(Reading(revision, records))


def holder(owner: OwnerName = UID, node: Node = HERE, container: str = "c1") -> Holder:
    """Return who asks."""
    return Holder(owner=owner, node=node.name, container=container)


def held_by(seen: View, owner: OwnerName) -> tuple[str, str] | None:
    """Return node and container that hold an owner's identifier."""
    record = seen.owner(owner)
    return None if record is None or record.state is not OwnerState.HELD else (record.node, record.container)


OWNER_STATES = {
    "none": {},
    "mine": owned(NAME, HERE, "c1"),
    "mine, mapping lost": {k: v for k, v in owned(NAME, HERE, "c1").items() if k != mapping.mapping_key(MINE)},
    "mine, mapping elsewhere": owned(NAME, HERE, "c1")
    | {mapping.mapping_key(MINE): mapping.encode_mapping(THERE.locator)},
    "other container": owned(NAME, HERE, "c2"),
    "other node": owned(NAME, THERE, "c2"),
    "same container, other node": owned(NAME, THERE, "c1"),
    "released": owned(NAME, THERE, "c2", state=OwnerState.RELEASED),
    "released by me": owned(NAME, HERE, "c1", state=OwnerState.RELEASED),
}
REFUSED = {"other container", "other node", "same container, other node"}


@pytest.mark.parametrize("take_over", [False, True], ids=["ask", "take over"])
@pytest.mark.parametrize("state", OWNER_STATES)
def test_assign_from_any_state(state: str, *, take_over: bool) -> None:
    """From any state Assign ends with the asker as holder and the mapping at its node, or is refused by name."""
    seen = view(nodes() | OWNER_STATES[state])
    if state in REFUSED and not take_over:
        with pytest.raises(Refused, match="held by container") as refused:
            assignment.assign(seen, holder(NAME), take_over=False, fresh=FRESH)
        assert refused.value.reason is Reason.NOT_NOW
        record = seen.owner(NAME)
        assert record is not None
        assert repr(record.node) in str(refused.value)
        assert repr(record.container) in str(refused.value)
        return
    decision = assignment.assign(seen, holder(NAME), take_over=take_over, fresh=FRESH)
    identifier = FRESH if state == "none" else MINE
    if state == "mine":
        assert decision == Assigned(MINE, Generation(EPOCH, 50))
        return
    assert isinstance(decision, Plan)
    assert decision.identifier == identifier
    done = after(seen, decision)
    assert held_by(done, NAME) == ("n1", "c1")
    assert done.mapping(identifier) == HERE.locator
    assert done.text(mapping.taken_identifier_key(identifier)) == NAME.text
    again = assignment.assign(done, holder(NAME), take_over=take_over, fresh=OTHER)
    assert again == Assigned(identifier, Generation(EPOCH, 200))


def test_assign_expects_everything_it_relied_on() -> None:
    """The transaction expects epoch, node, owner, mapping and identifier as they were read."""
    plan = assignment.assign(view(nodes()), holder(), take_over=False, fresh=FRESH)
    assert isinstance(plan, Plan)
    assert plan.transaction.expected == {
        mapping.EPOCH: 50,
        mapping.node_key("n1"): 50,
        mapping.owner_key(UID): 0,
        mapping.mapping_key(FRESH): 0,
        mapping.taken_identifier_key(FRESH): 0,
    }


def test_assign_to_a_node_that_is_not_registered() -> None:
    """A node that has not registered gets nothing."""
    with pytest.raises(Refused, match="node 'n1' is not registered") as refused:
        assignment.assign(view({}), holder(), take_over=True, fresh=FRESH)
    assert refused.value.reason is Reason.NOT_NOW


@pytest.mark.parametrize("owner", [UID, NAME], ids=["uid", "name"])
def test_release_by_the_holder(owner: OwnerName) -> None:
    """A release ends the mapping; a kept address keeps its identifier, another one leaves nothing."""
    seen = view(nodes() | owned(owner, HERE, "c1"))
    plan = assignment.release(seen, holder(owner))
    assert plan is not None
    done = after(seen, plan)
    assert done.mapping(MINE) is None
    kept = done.text(mapping.taken_identifier_key(MINE))
    if owner is UID:
        assert (done.owner(owner), kept) == (None, None)
    else:
        record = done.owner(owner)
        assert record is not None
        assert (record.identifier, record.state, kept) == (MINE, OwnerState.RELEASED, owner.text)
    assert assignment.release(done, holder(owner)) is None


@pytest.mark.parametrize("state", sorted(OWNER_STATES.keys() - {k for k in OWNER_STATES if k.startswith("mine")}))
def test_late_release_changes_nothing(state: str) -> None:
    """A release by anyone but the present holder succeeds and changes nothing."""
    assert assignment.release(view(nodes() | OWNER_STATES[state]), holder(NAME)) is None


OLD, SAME, NEWER = Generation(EPOCH - 1, 9000), Generation(EPOCH, 40), Generation(EPOCH, 60)


@pytest.mark.parametrize(
    ("records", "claimed", "outcome"),
    [
        ({}, OLD, "restored"),
        ({}, Generation(0, 0), "restored"),
        ({}, SAME, "was released in epoch 4"),
        (owned(NAME, HERE, "c1"), SAME, "stands"),
        (OWNER_STATES["mine, mapping lost"], OLD, "restored"),
        (OWNER_STATES["mine, mapping elsewhere"], OLD, "restored"),
        (owned(NAME, THERE, "c2"), SAME, "held by container 'c2' on node 'n2'"),
        (owned(NAME, THERE, "c2", epoch=EPOCH - 1), OLD, "restored"),
        (owned(NAME, THERE, "c2", epoch=EPOCH - 1), Generation(0, 0), "held by container 'c2'"),
        (owned(NAME, THERE, "c2", state=OwnerState.RELEASED), SAME, "released by container 'c2'"),
        (owned(NAME, THERE, "c2", state=OwnerState.RELEASED, epoch=EPOCH - 1), OLD, "restored"),
        ({mapping.taken_identifier_key(MINE): b"uid/other"}, OLD, "is of uid/other now"),
    ],
)
def test_claim_of_a_node(records: dict[bytes, bytes], claimed: Generation, outcome: str) -> None:
    """A claim that etcd lost is written back; one that a newer record contradicts is refused with the reason."""
    seen = view(nodes() | records)
    claim = Claim(holder(NAME), MINE, claimed)
    if outcome == "stands":
        assert assignment.restore(seen, claim) is None
    elif outcome == "restored":
        plan = assignment.restore(seen, claim)
        assert plan is not None
        done = after(seen, plan)
        assert held_by(done, NAME) == ("n1", "c1")
        assert done.mapping(MINE) == HERE.locator
        assert assignment.restore(done, claim) is None
    else:
        with pytest.raises(Refused, match=outcome) as refused:
            assignment.restore(seen, claim)
        assert refused.value.reason is Reason.TAKEN


def test_claim_of_another_identifier_replaces_the_older_record() -> None:
    """After a restore the older record's own identifier, mapping included, goes with it."""
    seen = view(nodes() | owned(NAME, THERE, "c2", epoch=EPOCH - 1))
    plan = assignment.restore(seen, Claim(holder(NAME), OTHER, OLD))
    assert plan is not None
    done = after(seen, plan)
    record = done.owner(NAME)
    assert record is not None
    assert record.identifier == OTHER
    assert done.mapping(MINE) is None
    assert done.text(mapping.taken_identifier_key(MINE)) is None


def test_claim_of_an_unknown_node() -> None:
    """A claim can only be written back for a node that is registered."""
    with pytest.raises(Refused, match="is not registered"):
        assignment.restore(view({}), Claim(holder(), MINE, OLD))


def test_a_freed_identifier_is_nobodys_next() -> None:
    """T10: a release leaves no list of what is free; the next one is drawn from all (2^44 times 65,535) there are."""
    seen = view(nodes() | owned(UID, HERE, "c1"))
    plan = assignment.release(seen, holder())
    assert plan is not None
    freed = after(seen, plan)
    assert freed.reading.records.keys() == view(nodes()).reading.records.keys()
    spans: list[int] = []

    def below(span: int) -> int:
        spans.append(span)
        return secrets.randbelow(span)

    drawn = assignment.random_identifier(below)
    assert spans == [1 << 44, 0xFFFF]
    decision = assignment.assign(freed, holder(container="c2"), take_over=False, fresh=drawn)
    assert isinstance(decision, Plan)
    assert decision.identifier == drawn


@given(high=st.integers(0, (1 << 44) - 1), low=st.integers(0, 0xFFFE))
def test_different_draws_are_different_identifiers(high: int, low: int) -> None:
    """T10: every bit drawn stands in the identifier, so two are the same as rarely as the draws are."""
    draws = iter((high, low))
    value = assignment.random_identifier(lambda _: next(draws)).value
    assert (value >> 16 & (1 << 44) - 1, value & 0xFFFF) == (high, low + 1)


@given(seed=st.integers())
def test_random_identifiers_can_exist(seed: int) -> None:
    """Every random identifier is a LUID without C-bit whose low 16 bits are not zero."""
    identifier = assignment.random_identifier(random.Random(seed).randrange)  # noqa: S311 - repeatable
    assert identifier.value & 0xFFFF
    assert not identifier.value & C_BIT


@pytest.mark.parametrize("edge", [0, -1], ids=["lowest", "highest"])
def test_random_identifier_at_the_edges(edge: int) -> None:
    """The least and the greatest random numbers give identifiers too."""
    text = {0: "2000:0:0:1", -1: "2fff:ffff:ffff:ffff"}[edge]
    assert str(assignment.random_identifier(lambda below: edge % below)) == text


def registers(declared: Locator | None = None, **changed: object) -> Registration:
    """Return what n1 says of itself."""
    fields: dict[str, object] = {
        "node": "n1",
        "address": HERE.address,
        "port": HERE.port,
        "declared": declared,
        "highest": Generation(0, 0),
    }
    return Registration(**(fields | changed))  # type: ignore[arg-type]


@pytest.mark.parametrize("declared", [None, HERE.locator], ids=["asks", "declares"])
def test_register_again(declared: Locator | None) -> None:
    """A node that registers again gets its own locator, and nothing is written."""
    seen = view(nodes())
    assert registration.locator_of(seen, registers(declared)) == HERE.locator
    assert registration.register(seen, registers(declared), HERE.locator, left_in_use=True) == HERE


def test_register_first() -> None:
    """A new node is written with its locator, and is known afterwards."""
    seen = view({})
    assert registration.locator_of(seen, registers()) is None
    plan = registration.register(seen, registers(), HERE.locator, left_in_use=False)
    assert isinstance(plan, Plan)
    assert registration.register(after(seen, plan), registers(), HERE.locator, left_in_use=False) == HERE


def test_register_at_a_new_address() -> None:
    """A node whose control address changed keeps its locator."""
    moved = registers(address=ipaddress.IPv6Address("2001:db8::99"))
    seen = view(nodes())
    plan = registration.register(seen, moved, HERE.locator, left_in_use=True)
    assert isinstance(plan, Plan)
    node = after(seen, plan).node("n1")
    assert node is not None
    assert (str(node.address), node.locator) == ("2001:db8::99", HERE.locator)


def test_locator_claimed_twice() -> None:
    """A locator of another node is refused, naming both."""
    with pytest.raises(Refused, match=r"fd00:c0de:0:2::/64 of node 'n1' is node 'n2'") as refused:
        registration.register(view(nodes()), registers(THERE.locator), THERE.locator, left_in_use=False)
    assert refused.value.reason is Reason.TAKEN


def test_another_locator_than_before() -> None:
    """A node may change its locator only once no mapping points at the old one, which then is free."""
    new = Locator.parse("fd00:c0de:0:9::/64")
    seen = view(nodes())
    assert registration.left_locator(seen, registers(new)) == HERE.locator
    with pytest.raises(Refused, match="mappings still point at its locator fd00:c0de:0:1::/64") as refused:
        registration.register(seen, registers(new), new, left_in_use=True)
    assert refused.value.reason is Reason.NOT_NOW
    plan = registration.register(seen, registers(new), new, left_in_use=False)
    assert isinstance(plan, Plan)
    done = after(seen, plan)
    assert done.text(mapping.taken_locator_key(HERE.locator)) is None
    assert done.text(mapping.taken_locator_key(new)) == "n1"


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (registers(Locator.parse("fd00:beef::/64")), "locator fd00:beef::/64 of node 'n1' is not in fd00:c0de::/32"),
        (registers(address=ipaddress.IPv6Address("::")), "'::' of node 'n1' is no node address"),
        (registers(address=ipaddress.IPv6Address("::1")), "'::1' of node 'n1' is no node address"),
        (registers(address=ipaddress.IPv6Address("fe80::1")), "no node address"),
        (registers(address=ipaddress.IPv6Address("ff02::1")), "no node address"),
        (registers(address=ipaddress.IPv6Address("fd00:10:244::1")), "lies in fd00:10:244::/64"),
        (registers(address=ipaddress.IPv6Address("fd00:c0de:0:1::1")), "lies in fd00:c0de:"),
    ],
)
def test_registration_outside_the_domain(request_: Registration, reason: str) -> None:
    """A locator outside the space, or a control address that no node can have, is refused."""
    with pytest.raises(Refused, match=reason) as refused:
        registration.check(request_, domain=DOMAIN)
    assert refused.value.reason is Reason.MALFORMED


def test_generation_that_cannot_be() -> None:
    """An epoch far above etcd's is refused: one node must not use up all epochs."""
    registration.check_highest(registers(highest=Generation(EPOCH + 1000, 1)), view({}))
    with pytest.raises(Refused, match="cannot be"):
        registration.check_highest(registers(highest=Generation(1 << 60, 1)), view({}))


POOL = ipaddress.IPv6Network("fd00:c0de:1::/60")


def locators(*numbers: int) -> list[Locator]:
    """Return locators of the pool by number."""
    first = int(POOL.network_address) >> 64
    return [Locator(first + number) for number in numbers]


@pytest.mark.parametrize(
    ("taken", "skip", "chosen"),
    [
        ((), 0, 0),
        ((0, 1, 2), 0, 3),
        ((0, 2), 0, 1),
        ((0, 2), 1, 3),
        ((1,), 0, 0),
        ((1,), 1, 2),
        (range(15), 0, 15),
        (range(15), 7, 15),
        ((*range(7), *range(8, 16)), 3, 7),
        (range(16), 0, None),
    ],
)
def test_choice_of_a_locator(taken: tuple[int, ...], skip: int, chosen: int | None) -> None:
    """The lowest free locator is chosen, after `skip` free ones; none is left when all 16 are taken."""
    outside = [Locator.parse("fd00:c0de::/64"), Locator.parse("fd00:c0de:2::/64")]
    found = registration.choose(POOL, [*locators(*taken), *outside], skip=skip)
    assert found == (None if chosen is None else locators(chosen)[0])


@given(taken=st.sets(st.integers(0, 15)), skip=st.integers(0, 40))
def test_choice_is_always_free(taken: set[int], skip: int) -> None:
    """Whatever is taken, the choice is a free one of the pool; there is none only if there is none."""
    found = registration.choose(POOL, locators(*taken), skip=skip)
    free = [locator for number, locator in enumerate(locators(*range(16))) if number not in taken]
    assert found == (free[min(skip, len(free) - 1)] if free else None)


EMPTY = View(Reading(1, {}))


@pytest.mark.parametrize(
    ("seen", "known", "epoch"),
    [
        (EMPTY, Generation(0, 0), 1),
        (EMPTY, Generation(6, 900), 7),
        (view({}, revision=100), Generation(EPOCH, 101), EPOCH + 1),
        (view({}, revision=100), Generation(EPOCH + 3, 1), EPOCH + 4),
        (view({}, revision=100), Generation(EPOCH, 100), None),
        (view({}, revision=100), Generation(EPOCH - 1, 9999), None),
    ],
)
def test_epoch_is_raised_above_everything_seen(seen: View, known: Generation, epoch: int | None) -> None:
    """An etcd that is empty or behind what was seen gets a higher epoch; one that is not is left alone."""
    plan = foundation(seen, domain=DOMAIN, seen=known)
    if epoch is None:
        assert plan is None
        return
    assert plan is not None
    done = after(seen, plan)
    assert (done.epoch, done.domain) == (epoch, DOMAIN)
    assert done.generation > known
    assert foundation(done, domain=DOMAIN, seen=known) is None


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (("fd00:10:245::/64", ["fd00:c0de::/32"], "neutral-map"), "sir_prefix is fd00:10:244::/64 in etcd"),
        (("fd00:10:244::/64", ["fd00:c0de::/48"], "neutral-map"), "fd00:c0de::/48 in this controller"),
        (("fd00:10:244::/64", ["fd00:c0de::/32"], "neutral-map-auto"), "checksum_mode is neutral-map in etcd"),
    ],
)
def test_another_domain_is_refused(other: tuple[str, list[str], str], difference: str) -> None:
    """A controller configured for another domain than etcd's does nothing and names the difference."""
    ours = Domain.parse(sir_prefix=other[0], locator_space=other[1], checksum_mode=other[2])
    with pytest.raises(Refused, match=difference) as refused:
        foundation(view({}), domain=ours, seen=Generation(9, 9))
    assert refused.value.reason is Reason.MISCONFIGURED


# --- reserves ---


def reserved(*identifiers: Identifier, node: Node = HERE, epoch: int = EPOCH) -> dict[bytes, bytes]:
    """Return the records of a node's reserve."""
    return {
        key: value
        for identifier in identifiers
        for key, value in (
            (mapping.reserve_key(node.name, identifier), mapping.encode_epoch(epoch)),
            (mapping.taken_identifier_key(identifier), mapping.reserve_name(node.name).encode()),
        )
    }


def present(records: dict[bytes, bytes], node: str = HERE.name) -> list[bytes]:
    return [key for key in records if key.startswith(mapping.reserve_prefix(node))]


def test_a_reserve_is_filled_with_what_nobody_has() -> None:
    """Two writes for each, on the condition that nobody takes it meanwhile; one that is taken is passed over."""
    records = nodes() | reserved(MINE) | reserved(OTHER, node=THERE)
    identifiers, plan = reserve.reserve(view(records), "n1", present(records), 3, [OTHER, FRESH])
    assert identifiers == [MINE, FRESH]
    assert plan is not None
    assert plan.transaction.puts == {
        mapping.reserve_key("n1", FRESH): mapping.encode_epoch(EPOCH),
        mapping.taken_identifier_key(FRESH): b"reserve/n1",
    }
    assert plan.transaction.expected[mapping.taken_identifier_key(FRESH)] == 0
    assert reserve.reserve(view(records), "n1", present(records), 1, [FRESH]) == ([MINE], None)


def test_a_reserve_of_an_earlier_epoch_is_void() -> None:
    """What became of it may be forgotten: it is dropped, but not what a pod holds by now."""
    records = nodes() | reserved(MINE, OTHER, epoch=EPOCH - 1)
    records[mapping.taken_identifier_key(OTHER)] = b"uid/u1"
    identifiers, plan = reserve.reserve(view(records), "n1", present(records), 1, [FRESH])
    assert identifiers == []
    assert plan is not None
    assert plan.transaction.puts == {}
    assert plan.transaction.deletes == {
        mapping.reserve_key("n1", MINE),
        mapping.reserve_key("n1", OTHER),
        mapping.taken_identifier_key(MINE),
    }


@pytest.mark.parametrize("count", [0, -1, reserve.LARGEST + 1])
def test_a_reserve_that_no_node_needs_is_refused(count: int) -> None:
    """The whole request, naming the node."""
    with pytest.raises(Refused, match="'n1'") as error:
        reserve.check("n1", count)
    assert error.value.reason is Reason.MALFORMED


def test_a_node_that_is_not_registered_has_no_reserve() -> None:
    """As it gets no identifier."""
    with pytest.raises(Refused, match="'n1' is not registered"):
        reserve.reserve(view({}), "n1", [], 1, [FRESH])


def test_a_pod_s_identifier_leaves_the_reserve() -> None:
    """In the transaction that makes it the pod's."""
    holder = Holder(owner=UID, node="n1", container="c1")
    plan = assignment.assign(view(nodes() | reserved(MINE)), holder, take_over=False, fresh=FRESH, reserved=MINE)
    assert isinstance(plan, Plan)
    assert plan.identifier == MINE
    assert plan.transaction.deletes == {mapping.reserve_key("n1", MINE)}
    assert plan.transaction.puts[mapping.taken_identifier_key(MINE)] == b"uid/u1"


@pytest.mark.parametrize("whose", ["uid/u2", "reserve/n2", "name/ns/pod"])
def test_a_node_cannot_name_what_is_another_s(whose: str) -> None:
    """Not another pod's, not another node's, not one that is kept for a name."""
    records = nodes() | {mapping.taken_identifier_key(OTHER): whose.encode()}
    holder = Holder(owner=UID, node="n1", container="c1")
    with pytest.raises(Refused, match=whose) as error:
        assignment.assign(view(records), holder, take_over=True, fresh=FRESH, reserved=OTHER)
    assert error.value.reason is Reason.TAKEN


def test_what_the_reserve_had_and_no_pod_is_given_back() -> None:
    """By its node alone, and only while it is in the reserve."""
    holder = Holder(owner=UID, node="n1", container="c1")
    plan = assignment.release(view(nodes() | reserved(MINE)), holder, identifier=MINE)
    assert plan is not None
    assert plan.transaction.deletes == {mapping.reserve_key("n1", MINE), mapping.taken_identifier_key(MINE)}
    assert assignment.release(view(nodes() | reserved(MINE, node=THERE)), holder, identifier=MINE) is None
    assert assignment.release(view(nodes()), holder, identifier=MINE) is None


@pytest.mark.parametrize(("node", "container"), [(HERE, "c1"), (THERE, "c9")])
def test_what_the_pod_uses_already_replaces_what_the_owner_had(node: Node, container: str) -> None:
    """The same container, whose node had lost its record, or one that takes over: the old identifier goes."""
    records = nodes() | owned(UID, node, container) | reserved(OTHER)
    holder = Holder(owner=UID, node="n1", container="c1")
    plan = assignment.assign(view(records), holder, take_over=True, fresh=FRESH, reserved=OTHER)
    assert isinstance(plan, Plan)
    assert plan.identifier == OTHER
    assert plan.transaction.deletes == {
        mapping.reserve_key("n1", OTHER),
        mapping.mapping_key(MINE),
        mapping.taken_identifier_key(MINE),
    }
