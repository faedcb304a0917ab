# SPDX-License-Identifier: Apache-2.0
"""What must be true of a cluster at rest, checked from outside: etcd, disks, kernels and namespaces tell the same."""

from __future__ import annotations

import base64
import ipaddress
import json
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from agent.core.endpoint import Endpoint, RecordError, State
from agent.kernel.bpf_map import Map
from ila import mapping
from ila.mapping import Generation, Owner
from lab.fabric import Host
from lab.faults.generations import kernel_mappings
from lab.faults.stage import Stage
from lab.namespace import run


@dataclass
class Etcd:
    """What etcd holds."""

    epoch: int = 0
    mappings: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Locator (its upper half) and mod revision by identifier."""

    owners: dict[str, Owner] = field(default_factory=dict)
    taken: dict[int, str] = field(default_factory=dict)
    """Owner, or the node in whose reserve it is, by identifier."""

    reserves: dict[str, set[int]] = field(default_factory=dict)
    """By node."""


def leaks(stage: Stage) -> list[str]:
    """Return every difference between what is and what the pods that stay ask for."""
    etcd = read(stage)
    found = [*_etcd(stage, etcd), *_namespaces(stage)]
    for host in stage.hosts:
        found += [f"{host.name}: {text}" for text in _host(stage, etcd, host)]
    return found


def read(stage: Stage) -> Etcd:
    """Return all that etcd holds."""
    if stage.cluster.etcd is None:
        raise ValueError("there is no etcd")
    tree = json.loads(stage.cluster.etcd.ctl("get", "--prefix", mapping.ROOT.decode(), "-w", "json"))
    found = Etcd()
    for entry in tree.get("kvs", []):
        key, raw = base64.b64decode(entry["key"]), base64.b64decode(entry.get("value", ""))
        if key == mapping.EPOCH:
            found.epoch = mapping.decode_epoch(raw)
        elif key.startswith(mapping.MAPPINGS):
            locator = mapping.decode_mapping(key, raw)
            found.mappings[mapping.last_number(key)] = (locator.value, int(entry["mod_revision"]))
        elif key.startswith(mapping.OWNERS):
            found.owners[key.removeprefix(mapping.OWNERS).decode()] = mapping.decode_owner(key, raw)
        elif key.startswith(mapping.TAKEN_IDENTIFIERS):
            found.taken[mapping.last_number(key)] = raw.decode()
        elif key.startswith(mapping.RESERVES):
            node = key.removeprefix(mapping.RESERVES).rpartition(b"/")[0].decode()
            found.reserves.setdefault(node, set()).add(mapping.last_number(key))
    return found


def expected(stage: Stage) -> dict[int, tuple[Host, str]]:
    """Return host and container of every pod that stays, by identifier."""
    found = {}
    for name, pod in stage.pods.items():
        host = stage.hosts[int(name[-1]) - 1]
        found[int(ipaddress.IPv6Address(pod.address)) & (1 << 64) - 1] = (host, pod.container_id)
    return found


def _etcd(stage: Stage, etcd: Etcd) -> Iterator[str]:
    """One owner per identifier, the mapping at the owner's node, and nothing taken that nobody has."""
    pods = expected(stage)
    yield from differ("mappings in etcd", set(etcd.mappings), set(pods))
    owned: dict[int, Owner] = {}
    for name, owner in etcd.owners.items():
        number = owner.identifier.value
        if number in owned:
            yield f"identifier {owner.identifier} has the owners {name} and one more"
        owned[number] = owner
        locators = {host.name: host.locator.value for host in stage.hosts}
        if number in etcd.mappings and etcd.mappings[number][0] != locators.get(owner.node):
            yield f"identifier {owner.identifier} is of {owner.node}, and its mapping points elsewhere"
        if number in pods and (pods[number][0].name, pods[number][1]) != (owner.node, owner.container):
            yield f"identifier {owner.identifier} is of {owner.node}, {owner.container}"
    yield from differ("owners in etcd", set(owned), set(pods))
    reserved: set[int] = set()
    for node, numbers in etcd.reserves.items():
        yield from (f"{number:016x} is in two reserves" for number in numbers & reserved)
        yield from (f"{number:016x} is reserved and in use" for number in numbers & set(owned))
        reserved |= numbers
        if wrong := {number for number in numbers if etcd.taken.get(number) != mapping.reserve_name(node)}:
            yield f"{len(wrong)} identifiers of {node}'s reserve are not taken by it"
    yield from differ("identifiers taken in etcd", set(etcd.taken), set(owned) | reserved)


def _host(stage: Stage, etcd: Etcd, host: Host) -> Iterator[str]:
    """Compare records on disk, endpoints and mappings in the kernel, links and pins of one host."""
    cluster = stage.cluster
    pods = {number: container for number, (at, container) in expected(stage).items() if at is host}
    wanted = {number: (where, Generation(etcd.epoch, rev)) for number, (where, rev) in etcd.mappings.items()}
    kernel = kernel_mappings(cluster, host)
    yield from differ("mappings in the kernel", set(kernel), set(wanted))
    wrong = [number for number in kernel.keys() & wanted.keys() if kernel[number] != wanted[number]]
    yield from (f"mapping {number:016x} is {kernel[number]}, not {wanted[number]}" for number in wrong)

    folder = cluster.state(host)
    records: dict[int, Endpoint] = {}
    for file in sorted((folder / "endpoints").iterdir()):
        try:
            endpoint = Endpoint.from_json(file.read_bytes())
        except (RecordError, FileNotFoundError) as error:
            yield f"record {file.name}: {error}"
            continue
        records[endpoint.identifier.value] = endpoint
        if endpoint.state is not State.WIRED:
            yield f"record of {endpoint.pod} is {endpoint.state.value}"
    yield from differ("records on disk", set(records), set(pods))
    for number, item in records.items():
        if number in pods and item.container_id != pods[number]:
            yield f"record of {item.pod} names container {item.container_id}"
    names = {item.host_name for item in records.values()}
    links = {link["ifname"]: int(link["ifindex"]) for link in json.loads(host.namespace.run("ip", "-j", "link"))}
    yield from differ("links", {name for name in links if name.startswith("ila")}, names)
    with Map.pinned(cluster.bpffs(host) / "ilanet/maps/endpoints") as entries:
        keys = b"".join(keys for keys, _ in entries.batches())
    have = {int.from_bytes(keys[at : at + 8]) for at in range(0, len(keys), 8)}
    yield from differ("endpoints in the kernel", have, set(pods))
    yield from _pins(stage, host, set(links.values()))
    yield from (f"file {file.relative_to(folder)} is left" for file in folder.rglob("*")
                if file.suffix == ".tmp" or file.parent.name == "deletes" or file.name == "ballast")  # fmt: skip
    free, reserve = cluster.status(host)["reserve"], len(etcd.reserves.get(host.name, ()))
    if free != reserve:
        yield f"{free} identifiers are free, and {reserve} in the node's reserve"


def _pins(stage: Stage, host: Host, indices: set[int]) -> Iterator[str]:
    pins = stage.cluster.bpffs(host) / "ilanet"
    for pin in (pins / "links").iterdir():
        if int(pin.name.partition("-")[0]) not in indices:
            yield f"pin {pin.name} is of no link"
    if (count := len(list((pins / "programs").iterdir()))) != 1:
        yield f"{count} sets of programs are pinned"


def _namespaces(stage: Stage) -> Iterator[str]:
    fabric = stage.cluster.fabric
    kept = [*(host.namespace for host in stage.hosts), *(pod.namespace for pod in stage.pods.values())]
    wanted = {fabric.router.name, *(namespace.name for namespace in kept)}
    names = {line.split()[0] for line in run("ip", "netns", "list").splitlines() if line}
    yield from differ("namespaces", {name for name in names if name.startswith(f"{fabric.prefix}-")}, wanted)


def differ(
    what: str, have: AbstractSet[int] | AbstractSet[str], wanted: AbstractSet[int] | AbstractSet[str]
) -> Iterator[str]:
    """Say what is there and should not be, and the other way round."""
    for word, items in (("too many", have - wanted), ("missing", wanted - have)):
        if items:
            texts = sorted(item if isinstance(item, str) else f"{item:016x}" for item in items)
            yield f"{what}: {len(texts)} {word}: {', '.join(texts[:4])}"
