# SPDX-License-Identifier: Apache-2.0
"""gRPC channels to etcd and to controllers, with TLS files that may change at any time; for agent and controller."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import grpc

from ila.settings import Peer

log = logging.getLogger(__name__)

Fingerprint = tuple[tuple[int, int, int], ...]


class PeerChannel:
    """The channel to a peer; a new one once its TLS files have changed.  To be closed; makes nothing before get()."""

    def __init__(
        self,
        *,
        peer: Peer,
        keepalive: float = 10.0,
        keepalive_timeout: float = 5.0,
        reconnect: float = 2.0,
        grace: float = 30.0,
    ) -> None:
        """Take all durations in seconds.

        keepalive: silence after which a connection in use is asked for a sign of life (etcd allows at least 5);
        keepalive_timeout: wait for that sign; reconnect: longest pause between two attempts to connect;
        grace: time that calls on a channel with replaced certificates have to end.
        """
        self._peer = peer
        self._target = target(peer.endpoints)
        self._options = _options(peer, keepalive, keepalive_timeout, reconnect)
        self._grace = grace
        self._channel: grpc.aio.Channel | None = None
        self._fingerprint: Fingerprint | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        """The peer's endpoints, for messages."""
        return ",".join(self._peer.endpoints)

    def get(self) -> grpc.aio.Channel:
        """Return the channel to use for the next call; OSError if its first TLS files cannot be read."""
        if self._channel is None:
            self._channel, self._fingerprint = self._open()
        elif not self._peer.insecure:
            self._refresh(self._channel)
        return self._channel

    async def close(self) -> None:
        """Close every channel; calls in flight are cancelled."""
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        if self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.close()

    def _refresh(self, old: grpc.aio.Channel) -> None:
        try:
            if fingerprint(self._files()) == self._fingerprint:
                return
            self._channel, self._fingerprint = self._open()
        except OSError as error:
            log.warning("certificates of peer=%s cannot be read, the old ones stay: %s", self.name, error)
            return
        log.info("certificates of peer=%s have changed: new channel", self.name)
        task = asyncio.get_running_loop().create_task(_retire(old, self._grace))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _files(self) -> tuple[Path, ...]:
        return tuple(path for path in (self._peer.ca, self._peer.certificate, self._peer.key) if path is not None)

    def _open(self) -> tuple[grpc.aio.Channel, Fingerprint | None]:
        if self._peer.insecure:
            return grpc.aio.insecure_channel(self._target, options=self._options), None
        found = fingerprint(self._files())
        ca, certificate, key = (path.read_bytes() for path in self._files())
        credentials = grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=certificate)
        return grpc.aio.secure_channel(self._target, credentials, options=self._options), found


def fingerprint(paths: Sequence[Path]) -> Fingerprint:
    """Return what changes when one of these files is replaced; OSError if one is missing."""
    return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in (path.stat() for path in paths))


def target(endpoints: Sequence[str]) -> str:
    """Return gRPC's target for 'address:port' endpoints of one kind; ValueError if they mix (gRPC cannot)."""
    versions = {_version(endpoint) for endpoint in endpoints}
    if versions == {6}:
        return "ipv6:" + ",".join(endpoints)
    if versions == {4}:
        return "ipv4:" + ",".join(endpoints)
    if versions == {0} and len(endpoints) == 1:
        return "dns:" + endpoints[0]
    raise ValueError(f"endpoints {', '.join(endpoints)}: give IPv6 addresses, or IPv4 addresses, or a single name")


def _version(endpoint: str) -> int:
    try:
        return ipaddress.ip_address(endpoint.rpartition(":")[0].strip("[]")).version
    except ValueError:
        return 0


async def _retire(channel: grpc.aio.Channel, grace: float) -> None:
    try:
        await channel.close(grace)
    except asyncio.CancelledError:
        await channel.close()
        raise


def _options(peer: Peer, keepalive: float, keepalive_timeout: float, reconnect: float) -> list[tuple[str, int | str]]:
    options: list[tuple[str, int | str]] = [
        ("grpc.keepalive_time_ms", int(keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", int(keepalive_timeout * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", int(reconnect * 1000)),
        ("grpc.max_reconnect_backoff_ms", int(reconnect * 1000)),
        ("grpc.max_receive_message_length", -1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    ]
    if peer.authority:
        # With several addresses gRPC would check the certificate against the whole target.
        options += [("grpc.default_authority", peer.authority), ("grpc.ssl_target_name_override", peer.authority)]
    return options
