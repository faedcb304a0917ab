# SPDX-License-Identifier: Apache-2.0
"""What etcd holds: every record, its key and its codec, in one place; for controller and agent.

    /ilanet/v1/domain                    {"sir_prefix", "locator_space", "checksum_mode"}, of the first controller
    /ilanet/v1/epoch                     a decimal number, raised by whoever fills an empty or restored etcd
    /ilanet/v1/mappings/<identifier>     {"locator"}: where an identifier is
    /ilanet/v1/nodes/<name>              {"locator", "address", "port"}: a node and its control address
    /ilanet/v1/owners/uid/<uid>          {"identifier", "node", "container", "state", "epoch"}: who holds an identifier
    /ilanet/v1/owners/name/<ns>/<name>   the same, of a pod that keeps its address
    /ilanet/v1/owners/machine/<ns>/<n>   the same, of a virtual machine, whichever pod it runs in
    /ilanet/v1/owners/node/<node>        the same, of a node's own end of probes: probe_identifier()
    /ilanet/v1/reserves/<node>/<id>      the epoch in which a node was handed this identifier in advance
    /ilanet/v1/taken/identifiers/<id>    the owner whose identifier it is, also while nothing maps it, or reserve/<node>
    /ilanet/v1/taken/locators/<locator>  the name of the node whose locator it is, or quarantine/<node that is gone>

Identifiers and locators are 16 hexadecimal digits (of a locator its upper half), so that one range read gives
them in order.  Agents may read from `domain` to the end of `nodes/`, one range, so that one watch delivers
changes of epoch, mappings and nodes in etcd's own order; the rest is the controllers' alone.

A mapping's value depends on the node only: a million mappings hold as many different values as there are
nodes, and bulk decoding keeps what it has decoded.  Bulk calls work on 64-bit integers, not on objects.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ila.address import LUID, Identifier, Locator
from ila.domain import Domain

ROOT = b"/ilanet/v1/"
DOMAIN = ROOT + b"domain"
EPOCH = ROOT + b"epoch"
MAPPINGS = ROOT + b"mappings/"
NODES = ROOT + b"nodes/"
OWNERS = ROOT + b"owners/"
RESERVES = ROOT + b"reserves/"
TAKEN_IDENTIFIERS = ROOT + b"taken/identifiers/"
TAKEN_LOCATORS = ROOT + b"taken/locators/"

READABLE_BY_AGENTS = (DOMAIN, ROOT + b"nodes0")
"""First key and the key after the last ('0' follows '/')."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_CONTAINER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")


class RecordError(ValueError):
    """A record in etcd does not parse; the message names its key and quotes it."""


@dataclass(frozen=True, slots=True, order=True)
class Generation:
    """Order of mappings: the epoch first, then etcd's mod revision.  (0, 0) is before everything."""

    epoch: int
    revision: int

    def __str__(self) -> str:
        """Return the form that logs use, such as '3/1207'."""
        return f"{self.epoch}/{self.revision}"


class OwnerState(enum.Enum):
    """Whether a container has the identifier in use."""

    HELD = "held"
    RELEASED = "released"
    """Only of pods that keep their address: the identifier waits for the next pod of that name."""


@dataclass(frozen=True, slots=True)
class OwnerName:
    """Who owns an identifier: 'uid/<uid>', or a pod that keeps its address, or a virtual machine, or a node.

    The last three are 'name/<namespace>/<name>', 'machine/<namespace>/<name>' and 'node/<name>'.
    """

    text: str

    @classmethod
    def of_uid(cls, uid: str) -> Self:
        """Return the owner of a pod's uid; ValueError quotes a wrong one."""
        if not _UID.fullmatch(uid):
            raise ValueError(f"pod uid {uid!r} is not 1 to 253 letters, digits, dots, dashes or underscores")
        return cls(f"uid/{uid}")

    @classmethod
    def of_name(cls, namespace: str, name: str) -> Self:
        """Return the owner of a pod that keeps its address; ValueError quotes a wrong name."""
        return cls(f"name/{checked_name(namespace, 'pod namespace')}/{checked_name(name, 'pod name')}")

    @classmethod
    def of_machine(cls, namespace: str, name: str) -> Self:
        """Return the owner that a virtual machine is; ValueError quotes a wrong name."""
        return cls(f"machine/{checked_name(namespace, 'namespace')}/{checked_name(name, 'virtual machine')}")

    @classmethod
    def of_node(cls, name: str) -> Self:
        """Return the owner that a node itself is, for its end of probes; ValueError quotes a wrong name."""
        return cls(f"node/{checked_name(name, 'node')}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the owner written as text; ValueError quotes what is wrong."""
        kind, _, rest = text.partition("/")
        if kind == "uid":
            return cls.of_uid(rest)
        if kind == "node":
            return cls.of_node(rest)
        namespace, _, name = rest.partition("/")
        if kind == "name":
            return cls.of_name(namespace, name)
        if kind == "machine":
            return cls.of_machine(namespace, name)
        raise ValueError(f"owner {text!r} begins with none of 'uid/', 'name/', 'machine/', 'node/'")

    @property
    def keeps_address(self) -> bool:
        """Whether the identifier outlives the pod."""
        return not self.text.startswith(("uid/", "node/"))

    @property
    def node(self) -> str:
        """The node that this is; '' of all others."""
        return self.text.removeprefix("node/") if self.text.startswith("node/") else ""

    @property
    def namespace(self) -> str:
        """The namespace of who keeps an address; '' of a uid or a node."""
        return self.text.split("/")[1] if self.keeps_address else ""

    def __str__(self) -> str:
        """Return the text."""
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node's record: its locator, and its control address, where redirects arrive."""

    name: str
    locator: Locator
    address: ipaddress.IPv6Address
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """An owner's record: its identifier, and the container that holds it or held it last."""

    identifier: Identifier
    node: str
    container: str
    state: OwnerState

    epoch: int
    """In which it was written: a claim newer than (this, mod revision) replaces it after a restore."""


def checked_name(name: str, what: str) -> str:
    """Return a Kubernetes name as it is; ValueError quotes one that is none (at most 253 characters, no '/')."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{what} {name!r} is not a DNS name in lower case of at most 253 characters")
    return name


def checked_container(name: str) -> str:
    """Return a container id as it is; ValueError quotes one that is none."""
    if not _CONTAINER.fullmatch(name):
        raise ValueError(f"container id {name!r} is not 1 to 253 letters, digits, dots, dashes or underscores")
    return name


@functools.lru_cache(maxsize=1 << 14)
def probe_identifier(node: str) -> Identifier:
    """Return the identifier of a node's own end of probes (owner node/<name>): derived, so everybody knows it.

    60 bits of a hash: as unlikely to be anybody else's as a random one.
    """
    number = int.from_bytes(hashlib.sha256(f"ilanet probe {node}".encode()).digest()[:8])
    return Identifier(LUID << 61 | number >> 20 << 16 | 1 + (number & (1 << 20) - 1) % 0xFFFF)


def mapping_key(identifier: Identifier) -> bytes:
    """Return the key of an identifier's mapping."""
    return MAPPINGS + b"%016x" % identifier.value


def node_key(name: str) -> bytes:
    """Return the key of a node's record."""
    return NODES + name.encode()


def owner_key(owner: OwnerName) -> bytes:
    """Return the key of an owner's record."""
    return OWNERS + owner.text.encode()


def reserve_prefix(node: str) -> bytes:
    """Return what the keys of a node's reserve begin with."""
    return RESERVES + node.encode() + b"/"


def reserve_key(node: str, identifier: Identifier) -> bytes:
    """Return the key of an identifier in a node's reserve."""
    return reserve_prefix(node) + b"%016x" % identifier.value


def quarantine_name(node: str) -> str:
    """Return what stands in the place of a node, once that is gone, while its locator is not to be used again."""
    return f"quarantine/{node}"


def reserve_name(node: str) -> str:
    """Return what stands in the place of an owner while an identifier is in a node's reserve."""
    return f"reserve/{node}"


def taken_identifier_key(identifier: Identifier) -> bytes:
    """Return the key that says whose an identifier is."""
    return TAKEN_IDENTIFIERS + b"%016x" % identifier.value


def taken_locator_key(locator: Locator) -> bytes:
    """Return the key that says whose a locator is."""
    return TAKEN_LOCATORS + b"%016x" % locator.value


def last_number(key: bytes) -> int:
    """Return the 64-bit number at the end of a mapping's or a taken locator's key."""
    digits = key[-16:]
    if len(digits) != 16 or digits.strip(b"0123456789abcdef") or key[-17:-16] != b"/":
        raise RecordError(f"key {key!r} does not end in 16 hexadecimal digits")
    return int(digits, 16)


def range_end(prefix: bytes) -> bytes:
    """Return the first key after all keys that begin with `prefix`, which ends in no 0xff."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))


def _fields(key: bytes, raw: bytes, names: set[str]) -> dict[str, Any]:
    fields = json.loads(raw)
    if not isinstance(fields, dict) or fields.keys() != names:
        raise RecordError(f"record {key.decode(errors='replace')!r} is {raw[:300]!r}: not an object of {sorted(names)}")
    return fields


def _broken(key: bytes, raw: bytes, error: Exception) -> RecordError:
    return RecordError(f"record {key.decode(errors='replace')!r} is {raw[:300]!r}: {error}")


def _pack(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def encode_epoch(epoch: int) -> bytes:
    """Return the value of the epoch key."""
    return b"%d" % epoch


def decode_epoch(raw: bytes) -> int:
    """Return the epoch; RecordError if it is none."""
    if not raw.isdigit() or not 0 < int(raw) < 1 << 64:
        raise RecordError(f"record {EPOCH.decode()!r} is {raw[:300]!r}: not a number above 0")
    return int(raw)


def encode_domain(domain: Domain) -> bytes:
    """Return the value of the domain key."""
    return _pack(
        {
            "sir_prefix": str(domain.sir_prefix),
            "locator_space": [str(space) for space in domain.locator_space],
            "checksum_mode": domain.checksum_mode.value,
        }
    )


def decode_domain(raw: bytes) -> Domain:
    """Return the domain; RecordError if it does not parse."""
    try:
        return Domain.parse(**_fields(DOMAIN, raw, {"sir_prefix", "locator_space", "checksum_mode"}))
    except (ValueError, TypeError, AttributeError) as error:
        raise _broken(DOMAIN, raw, error) from error


def encode_mapping(locator: Locator) -> bytes:
    """Return the value of a mapping at a locator."""
    return _pack({"locator": str(locator)})


def decode_mapping(key: bytes, raw: bytes) -> Locator:
    """Return where a mapping points; RecordError if it does not parse."""
    try:
        return Locator.parse(_fields(key, raw, {"locator"})["locator"])
    except (ValueError, TypeError, AttributeError) as error:
        raise _broken(key, raw, error) from error


def encode_node(node: Node) -> bytes:
    """Return the value of a node's record."""
    return _pack({"locator": str(node.locator), "address": str(node.address), "port": node.port})


def decode_node(key: bytes, raw: bytes) -> Node:
    """Return a node's record; RecordError if it does not parse."""
    try:
        fields = _fields(key, raw, {"locator", "address", "port"})
        if not isinstance(fields["port"], int) or not 0 < fields["port"] < 65536:
            raise RecordError(f"port {fields['port']!r} is none")
        return Node(
            name=checked_name(key.removeprefix(NODES).decode(), "node"),
            locator=Locator.parse(fields["locator"]),
            address=ipaddress.IPv6Address(fields["address"]),
            port=fields["port"],
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise _broken(key, raw, error) from error


def encode_owner(owner: Owner) -> bytes:
    """Return the value of an owner's record."""
    return _pack(
        {
            "identifier": str(owner.identifier),
            "node": owner.node,
            "container": owner.container,
            "state": owner.state.value,
            "epoch": owner.epoch,
        }
    )


def decode_owner(key: bytes, raw: bytes) -> Owner:
    """Return an owner's record; RecordError if it does not parse."""
    try:
        fields = _fields(key, raw, {"identifier", "node", "container", "state", "epoch"})
        return Owner(
            identifier=Identifier.parse(fields["identifier"]),
            node=checked_name(fields["node"], "node"),
            container=checked_container(fields["container"]),
            state=OwnerState(fields["state"]),
            epoch=decode_epoch(str(fields["epoch"]).encode()),
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise _broken(key, raw, error) from error


class MappingDecoder:
    """Decodes mappings in bulk, to integers; keeps each value that it has decoded (one per node)."""

    def __init__(self) -> None:
        self._locators: dict[bytes, int] = {}

    def locator(self, key: bytes, raw: bytes) -> int:
        """Return the upper half of the locator in a mapping's value; RecordError if it does not parse."""
        locator = self._locators.get(raw)
        if locator is None:
            locator = self._locators[raw] = decode_mapping(key, raw).value
        return locator

    def identifier(self, key: bytes) -> int:
        """Return the identifier in a mapping's key; RecordError if it is none."""
        return last_number(key)
