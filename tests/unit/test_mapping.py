# SPDX-License-Identifier: Apache-2.0
"""Keys and records of etcd: they lead back to what they were made of, and nothing else is taken."""

from __future__ import annotations

import ipaddress

import pytest

from ila import mapping
from ila.address import Identifier, Locator
from ila.domain import Domain
from ila.mapping import Generation, MappingDecoder, Node, Owner, OwnerName, OwnerState, RecordError
from ila.stream import decode_mappings

IDENTIFIER = Identifier.parse("2000:0:a:1")
LOCATOR = Locator.parse("fd00:c0de:0:17::/64")


def test_generations_are_ordered_by_epoch_then_revision() -> None:
    """A higher epoch is newer whatever the revision; (0, 0) is before everything."""
    assert Generation(0, 0) < Generation(1, 5) < Generation(1, 70) < Generation(2, 1)
    assert str(Generation(3, 1207)) == "3/1207"


def test_keys_are_as_documented() -> None:
    """Every key stands where the module's first page says."""
    assert mapping.mapping_key(IDENTIFIER) == b"/ilanet/v1/mappings/20000000000a0001"
    assert mapping.node_key("n1") == b"/ilanet/v1/nodes/n1"
    assert mapping.owner_key(OwnerName.of_uid("u-1")) == b"/ilanet/v1/owners/uid/u-1"
    assert mapping.owner_key(OwnerName.of_name("ns", "p")) == b"/ilanet/v1/owners/name/ns/p"
    assert mapping.owner_key(OwnerName.of_node("n1")) == b"/ilanet/v1/owners/node/n1"
    assert mapping.taken_identifier_key(IDENTIFIER) == b"/ilanet/v1/taken/identifiers/20000000000a0001"
    assert mapping.taken_locator_key(LOCATOR) == b"/ilanet/v1/taken/locators/fd00c0de00000017"


def test_agents_range_holds_what_they_need_and_no_more() -> None:
    """One range covers domain, epoch, mappings and nodes; owners and taken lie outside."""
    first, after = mapping.READABLE_BY_AGENTS
    inside = [mapping.DOMAIN, mapping.EPOCH, mapping.mapping_key(IDENTIFIER), mapping.node_key("z" * 253)]
    outside = [mapping.OWNERS, mapping.TAKEN_IDENTIFIERS, mapping.TAKEN_LOCATORS, b"/ilanet/v2/", b"/ilanet/v1/a"]
    assert all(first <= key < after for key in inside)
    assert not any(first <= key < after for key in outside)


@pytest.mark.parametrize(
    ("namespace", "name"),
    [("", "p"), ("ns", ""), ("ns", "a/b"), ("..", "p"), ("ns", "P"), ("ns", "p" * 300), ("n\0s", "p"), ("ns", "-p")],
)
def test_pod_names_that_are_none(namespace: str, name: str) -> None:
    """A pod's name that Kubernetes would not take is refused and quoted."""
    with pytest.raises(ValueError, match="is not a DNS name") as refused:
        OwnerName.of_name(namespace, name)
    assert repr(namespace) in str(refused.value) or repr(name) in str(refused.value)


@pytest.mark.parametrize("text", ["", "a/b", "../x", "u" * 254, "a b", "a\n"])
def test_uids_and_container_ids_that_are_none(text: str) -> None:
    """A uid or container id that could leave its key is refused and quoted."""
    for parse in (OwnerName.of_uid, mapping.checked_container):
        with pytest.raises(ValueError, match="is not 1 to 253") as refused:
            parse(text)
        assert repr(text) in str(refused.value)


def test_records_lead_back() -> None:
    """Every record decodes to what was encoded."""
    node = Node(name="n1", locator=LOCATOR, address=ipaddress.IPv6Address("2001:db8::1"), port=7444)
    owner = Owner(identifier=IDENTIFIER, node="n1", container="c1", state=OwnerState.HELD, epoch=3)
    domain = Domain.parse(sir_prefix="fd00:10:244::/64", locator_space=["fd00:c0de::/32"], checksum_mode="neutral-map")
    key = mapping.owner_key(OwnerName.of_uid("u1"))
    assert mapping.decode_node(mapping.node_key("n1"), mapping.encode_node(node)) == node
    assert mapping.decode_owner(key, mapping.encode_owner(owner)) == owner
    assert mapping.decode_domain(mapping.encode_domain(domain)) == domain
    assert mapping.decode_epoch(mapping.encode_epoch(7)) == 7
    assert mapping.decode_mapping(mapping.mapping_key(IDENTIFIER), mapping.encode_mapping(LOCATOR)) == LOCATOR


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b"not json",
        b"\xff",
        b'{"locator":7}',
        b'{"locator":"fd00::/48"}',
        b'{"locator":"fd00:c0de::/64","more":1}',
    ],
)
def test_broken_mapping_is_named_and_quoted(raw: bytes) -> None:
    """A mapping that does not parse is an error with its key and its text."""
    key = mapping.mapping_key(IDENTIFIER)
    with pytest.raises(RecordError) as broken:
        MappingDecoder().locator(key, raw)
    assert key.decode() in str(broken.value)
    assert repr(raw) in str(broken.value)


@pytest.mark.parametrize("raw", [b"", b"0", b"-1", b"x", b"1.5", b"18446744073709551616"])
def test_broken_epoch_is_quoted(raw: bytes) -> None:
    """An epoch is a number above 0 of 64 bits."""
    with pytest.raises(RecordError) as broken:
        mapping.decode_epoch(raw)
    assert repr(raw) in str(broken.value)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"locator":"fd00:c0de::/64","address":"2001:db8::1","port":0}',
        b'{"locator":"fd00:c0de::/64","address":"2001:db8::1","port":"7444"}',
        b'{"locator":"fd00:c0de::/64","address":"10.0.0.1","port":7444}',
        b'{"locator":"fd00:c0de::/64","port":7444}',
    ],
)
def test_broken_node_is_named(raw: bytes) -> None:
    """A node's record that does not parse is an error with its key."""
    with pytest.raises(RecordError, match="/ilanet/v1/nodes/n1"):
        mapping.decode_node(mapping.node_key("n1"), raw)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"identifier":"2000:0:a:0","node":"n1","container":"c","state":"held","epoch":1}',
        b'{"identifier":"2000:0:a:1","node":"n1","container":"c","state":"lost","epoch":1}',
        b'{"identifier":"2000:0:a:1","node":"n/1","container":"c","state":"held","epoch":1}',
        b'{"identifier":"2000:0:a:1","node":"n1","container":"c","state":"held","epoch":0}',
        b'{"identifier":"2000:0:a:1","node":"n1","container":"c","state":"held"}',
    ],
)
def test_broken_owner_is_named(raw: bytes) -> None:
    """An owner's record that does not parse is an error with its key."""
    with pytest.raises(RecordError, match="/ilanet/v1/owners/uid/u1"):
        mapping.decode_owner(mapping.owner_key(OwnerName.of_uid("u1")), raw)


@pytest.mark.parametrize("key", [b"/ilanet/v1/mappings/2000", b"/ilanet/v1/mappings/+0000000000a0001", b"0" * 16])
def test_broken_number_in_a_key(key: bytes) -> None:
    """A key that does not end in 16 hexadecimal digits is refused and quoted."""
    with pytest.raises(RecordError, match="16 hexadecimal digits"):
        mapping.last_number(key)


class KeyValue:
    """What etcd gives."""

    def __init__(self, key: bytes, value: bytes, mod_revision: int) -> None:
        self.key, self.value, self.mod_revision = key, value, mod_revision


def test_bulk_decoding_agrees_with_single_decoding() -> None:
    """Lists decoded in bulk hold what each record says, in order."""
    pairs = [(Identifier(1 << 61 | number), Locator((0xFD00C0DE << 32) + number % 7)) for number in range(1, 2000)]
    records = [
        KeyValue(mapping.mapping_key(identifier), mapping.encode_mapping(locator), number)
        for number, (identifier, locator) in enumerate(pairs)
    ]
    identifiers, locators, revisions = decode_mappings(records, MappingDecoder())
    assert identifiers == [identifier.value for identifier, _ in pairs]
    assert locators == [locator.value for _, locator in pairs]
    assert revisions == list(range(len(pairs)))


def test_the_owner_that_a_node_is() -> None:
    """It reads back, keeps no address, and its identifier is the same for everybody and another for each node."""
    owner = OwnerName.parse("node/n1.example.org")
    assert owner == OwnerName.of_node("n1.example.org")
    assert (owner.node, owner.namespace, owner.keeps_address) == ("n1.example.org", "", False)
    assert OwnerName.of_name("node", "n1").node == ""
    assert str(mapping.probe_identifier("host1")) == "2e7f:c951:8cc4:324f"
    assert len({mapping.probe_identifier(f"n{number}") for number in range(1000)}) == 1000
