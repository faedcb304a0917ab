# SPDX-License-Identifier: Apache-2.0
"""Users of an etcd that is ours: made once by a controller, on a real etcd with mutual TLS."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller import etcd_users
from ila.certificates import AGENT, CONTROLLER
from ila.channel import PeerChannel
from ila.etcd import EtcdStore
from ila.mapping import EPOCH, OWNERS
from ila.settings import Peer
from ila.store import StoreRefused, Transaction
from lab.authority import Authority
from lab.etcd import Etcd, Place


async def test_controllers_write_agents_read_and_nobody_else_does(tmp_path: Path) -> None:
    """Repeats change nothing: not even the revision that every client's next call would stumble over."""
    authority = Authority(tmp_path / "authority")
    authority.create()
    with Etcd(directory=tmp_path / "etcd", places=[Place()], authority=authority, fast=True) as etcd:
        root = PeerChannel(peer=etcd.client("root"))
        try:
            await etcd_users.set_up(root)
            before = etcd.ctl("user", "list", "-w", "json")
            for _ in range(2):
                await etcd_users.set_up(root)
        finally:
            await root.close()
        assert etcd.ctl("user", "list", "-w", "json") == before
        peers = [(CONTROLLER, EPOCH, True), (AGENT, EPOCH, False), ("ilanet-etcd", EPOCH, False)]
        for user, key, allowed in peers:
            await _writes(etcd.client(user), key, allowed=allowed)
        store = PeerChannel(peer=etcd.client(AGENT))
        try:
            reader = EtcdStore(channel=store, backoff=(0.05, 0.2))
            assert EPOCH in (await reader.read([EPOCH])).records
            with pytest.raises(StoreRefused, match="permission denied"):
                await reader.read_keys(OWNERS)
        finally:
            await store.close()


async def _writes(peer: Peer, key: bytes, *, allowed: bool) -> None:
    channel = PeerChannel(peer=peer)
    try:
        store = EtcdStore(channel=channel, backoff=(0.05, 0.2))
        if allowed:
            assert await store.commit(Transaction({key: 0}, {key: b"1"}, frozenset()))
            return
        with pytest.raises(StoreRefused):
            await store.commit(Transaction({key: 0}, {key: b"2"}, frozenset()))
    finally:
        await channel.close()
