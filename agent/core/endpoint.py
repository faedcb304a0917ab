# SPDX-License-Identifier: Apache-2.0
"""An endpoint's record: what this node must remember of a pod it wired, and its form on disk; pure."""

from __future__ import annotations

import enum
import ipaddress
import json
from dataclasses import dataclass
from typing import Any, Self

from ila.address import LUID, Identifier
from ila.mapping import Generation

_VERSION = 2

UNKNOWN = Identifier(LUID << 61 | 1)
"""Stands for the identifier that the controller may have assigned before we heard of it."""


class RecordError(ValueError):
    """A record on disk does not parse; the message quotes it."""


class State(enum.Enum):
    """Where an endpoint is in its life."""

    WIRED = "wired"
    """The pod is attached, and the controller knows."""

    UNPUBLISHED = "unpublished"
    """The pod is attached with an identifier of the reserve; the controller is yet to hear of it."""

    RELEASING = "releasing"
    """The pod is gone from this node, or never came; the controller has not yet confirmed the release."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod; its identifier is owned by its uid, or by namespace/name if the address is kept."""

    namespace: str
    name: str
    uid: str
    keep_address: bool

    owner_name: str = ""
    """The owner, as the controller said; '': it was not asked, or knows no more than we."""

    @property
    def owner(self) -> str:
        """What the controller knows the owner by (ila.mapping.OwnerName)."""
        return self.owner_name or (f"name/{self.namespace}/{self.name}" if self.keep_address else f"uid/{self.uid}")

    @property
    def keeps(self) -> bool:
        """Whether the identifier outlives the pod."""
        return not self.owner.startswith(("uid/", "node/"))

    def __str__(self) -> str:
        """Return the name that logs use."""
        return f"{self.namespace}/{self.name}" if self.name else self.uid


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A pod's attachment on this node."""

    container_id: str
    interface: str
    """Name inside the pod."""

    host_name: str
    """Name of the host's end."""

    network: str
    """Name of the CNI network configuration that it was added by."""

    identifier: Identifier
    pod: Pod
    generation: Generation
    """Of the mapping that Assign made: a mapping newer than this that points elsewhere ends the claim."""

    mtu: int
    """Bytes."""

    limited: bool
    """A plugin after ours has its qdiscs on the host's end."""

    by_stack: bool
    """Plugins after ours work on its packets in the host's stack."""

    state: State

    ipv4: ipaddress.IPv4Interface | None = None
    """Its address that only this node knows, with the network it is from; None: it has IPv6 only."""

    @property
    def is_pod(self) -> bool:
        """Whether a runtime has made it: not so of this node's own end of probes."""
        return not self.pod.owner.startswith("node/")

    @property
    def attached(self) -> bool:
        """Whether the pod is attached."""
        return self.state is not State.RELEASING

    def to_json(self) -> bytes:
        """Return the record as it stands on disk."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        fields["pod"] = {name: getattr(self.pod, name) for name in self.pod.__slots__}
        fields["identifier"] = str(self.identifier)
        fields["generation"] = [self.generation.epoch, self.generation.revision]
        fields["state"] = self.state.value
        if fields.pop("ipv4") is not None:  # an older agent knows records without it
            fields["ipv4"] = str(self.ipv4)
        return json.dumps({"version": _VERSION, **fields}, indent=1).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        """Return the record read from disk; RecordError quotes what does not parse."""
        try:
            fields = json.loads(raw)
            if fields.pop("version") != _VERSION:
                raise ValueError("unknown version")
            epoch, revision = fields.pop("generation")
            ipv4 = fields.pop("ipv4", None)
            return cls(
                identifier=Identifier.parse(fields.pop("identifier")),
                pod=Pod(**fields.pop("pod")),
                generation=Generation(int(epoch), int(revision)),
                state=State(fields.pop("state")),
                ipv4=None if ipv4 is None else ipaddress.IPv4Interface(ipv4),
                **fields,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(f"endpoint record {raw[:300]!r} does not parse: {error}") from error
