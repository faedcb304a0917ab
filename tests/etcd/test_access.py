# SPDX-License-Identifier: Apache-2.0
"""Who may do what in etcd, by certificate and role; certificates that are wrong."""

from __future__ import annotations

import contextlib
import datetime as dt
from dataclasses import replace
from pathlib import Path

import pytest

from ila import mapping
from ila.certificates import AGENT, CONTROLLER
from ila.store import StoreError, StoreRefused, StoreUnavailable, Transaction
from ila.stream import EtcdMappingStream
from lab.authority import Authority
from lab.etcd import Etcd
from tests.etcd.tools import NEVER, Connections, holder, identifier, locator, register


async def test_agents_read_mappings_and_write_nothing(guarded_etcd: Etcd, connections: Connections) -> None:
    """With an agent's certificate mappings, nodes and epoch can be read; owners cannot, and nothing written."""
    service = connections.service(guarded_etcd.client(CONTROLLER))
    await register(service)
    assigned = await service.assign(holder("p"), take_over=False)
    agent = connections.store(guarded_etcd.client(AGENT))
    key = mapping.mapping_key(assigned.identifier)
    readable = [mapping.EPOCH, mapping.DOMAIN, key, mapping.node_key("n1")]
    assert set((await agent.read(readable)).records) == set(readable)
    owner = mapping.owner_key(holder("p").owner)
    for secret in (owner, mapping.taken_identifier_key(assigned.identifier), b"/other"):
        with pytest.raises(StoreRefused, match="permission denied"):
            await agent.read([secret])
    with pytest.raises(StoreRefused, match="permission denied"):
        await agent.read_keys(mapping.ROOT)
    for target in (key, mapping.EPOCH, mapping.node_key("n1"), owner, mapping.mapping_key(identifier(1))):
        was = (await connections.store(guarded_etcd.client(CONTROLLER)).read([target])).revision_of(target)
        for change in (
            Transaction({target: was}, {target: mapping.encode_mapping(locator(1))}),
            Transaction({target: was}, deletes=frozenset((target,))),
        ):
            with pytest.raises(StoreRefused, match="permission denied"):
                await agent.commit(change)
    assert (await service.assign(holder("p"), take_over=False)) == assigned


async def test_refused_watch_is_told(guarded_etcd: Etcd, authority: Authority, connections: Connections) -> None:
    """A watch that etcd refuses ('created' with 'canceled', no RPC error) is trouble that names the reason."""
    await register(connections.service(guarded_etcd.client(CONTROLLER)))
    guarded_etcd.ctl("role", "add", "epoch-only")
    guarded_etcd.ctl("role", "grant-permission", "epoch-only", "read", mapping.EPOCH.decode())
    guarded_etcd.ctl("role", "grant-permission", "epoch-only", "read", "--prefix", mapping.MAPPINGS.decode())
    guarded_etcd.ctl("role", "grant-permission", "epoch-only", "read", "--prefix", mapping.NODES.decode())
    guarded_etcd.ctl("user", "add", "limited", "--no-password")
    guarded_etcd.ctl("user", "grant-role", "limited", "epoch-only")
    limited = guarded_etcd.peer(authority.client("limited", common_name="limited"))
    follower = connections.follow(limited)
    await follower.until(lambda f: "refuses the watch" in (f.stream.trouble or ""))
    assert follower.resets == 1


async def test_user_unknown_to_etcd(guarded_etcd: Etcd, authority: Authority, connections: Connections) -> None:
    """A certificate whose name is no user of etcd is refused."""
    stranger = guarded_etcd.peer(authority.client("stranger", common_name="stranger"))
    with pytest.raises(StoreRefused):
        await connections.store(stranger).read([mapping.EPOCH])


async def test_adding_users_disturbs_nobody(guarded_etcd: Etcd, connections: Connections) -> None:
    """Calls that fail with 'revision of auth store is old' when users are added are repeated."""
    service = connections.service(guarded_etcd.client(CONTROLLER))
    await register(service)
    for number in range(5):
        guarded_etcd.ctl("user", "add", f"user{number}", "--no-password")
        await service.assign(holder(f"p{number}"), take_over=False)


@pytest.mark.parametrize("wrong", ["expired", "other authority", "authority", "plaintext"])
async def test_wrong_certificate_for_etcd(
    guarded_etcd: Etcd, authority: Authority, connections: Connections, tmp_path: Path, wrong: str
) -> None:
    """An expired certificate, one of another authority, a wrong server name and plaintext reach nothing."""
    peer = guarded_etcd.client(AGENT)
    if wrong == "expired":
        peer = guarded_etcd.peer(authority.client("old", common_name=AGENT, lifetime=dt.timedelta(hours=-1)))
    elif wrong == "other authority":
        other = Authority(tmp_path / "other")
        other.create()
        made = other.client(AGENT, common_name=AGENT)
        peer = replace(peer, certificate=made.certificate, key=made.key)
    elif wrong == "authority":
        peer = replace(peer, authority="someone.else")
    else:
        peer = guarded_etcd.peer()
    with pytest.raises(StoreUnavailable):
        await connections.store(peer).read([mapping.EPOCH])


async def test_certificate_files_that_are_missing(guarded_etcd: Etcd, connections: Connections, tmp_path: Path) -> None:
    """Missing files are named; the stream waits for them."""
    peer = replace(guarded_etcd.client(AGENT), key=tmp_path / "missing.key")
    with pytest.raises(StoreError, match=r"missing\.key"):
        await connections.store(peer).read([mapping.EPOCH])
    stream: EtcdMappingStream = connections.stream(peer)
    async with contextlib.aclosing(stream.follow(NEVER)) as events:
        with pytest.raises(TimeoutError):
            async with connections.soon():
                await anext(events)
    assert "missing.key" in (stream.trouble or "")
