# SPDX-License-Identifier: Apache-2.0
"""The controller's composition root: `python -m controller --config FILE`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path

import grpc
from prometheus_client import CollectorRegistry

from controller.config import ControllerConfig
from controller.core.decision import Refused
from controller.server import ControllerServer, ServerCertificates
from controller.service import Service
from controller.standing import Standing
from ila import log as ila_log
from ila import settings
from ila.channel import PeerChannel
from ila.etcd import EtcdStore
from ila.http import HttpServer
from ila.mapping import Generation, RecordError
from ila.store import StoreError
from proto.ilanet_pb2_grpc import add_ControllerServicer_to_server

log = logging.getLogger("controller")

_PAUSE = 1.0
"""Seconds between two attempts to reach etcd at the start."""

_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)
"""One process per port; agents may ask for a sign of life as often as they do of etcd."""


async def _foundation(service: Service, standing: Standing) -> Generation:
    """Wait for etcd, fill it if it is empty, and check its domain; Refused if it is another."""
    while True:
        try:
            return await service.start()
        except StoreError as error:
            standing.waiting(f"etcd is not ready: {error}")
            await asyncio.sleep(_PAUSE)


async def serve(config: ControllerConfig) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        registry = CollectorRegistry()
        standing = Standing(registry=registry)
        channel = PeerChannel(peer=config.etcd)
        stack.push_async_callback(channel.close)
        http = HttpServer(
            listen=config.http,
            registry=registry,
            not_ready=standing.not_serving,
            describe=lambda: _describe(config, channel, standing),
        )
        await http.start()
        stack.push_async_callback(http.close)
        service = Service(store=EtcdStore(channel=channel), domain=config.domain, locator_pool=config.locator_pool)
        if not await _unless(stop, _foundation(service, standing)):
            return
        server = grpc.aio.server(options=_OPTIONS)
        stack.push_async_callback(server.stop, config.grace)
        answers = ControllerServer(
            service=service,
            domain=config.domain,
            closed_ports=config.closed_ports,
            authenticated=not config.insecure,
            standing=standing,
        )
        add_ControllerServicer_to_server(answers, server)
        _listen(server, config)
        await server.start()
        standing.serving()
        log.info("ready listen=%s etcd=%s sir_prefix=%s", config.listen, channel.name, config.domain.sir_prefix)
        await stop.wait()
        log.info("stopping: calls in flight have %s s", config.grace)


def _describe(config: ControllerConfig, channel: PeerChannel, standing: Standing) -> dict[str, object]:
    """Return what /status says."""
    return {
        "listen": config.listen,
        "etcd": channel.name,
        "sir_prefix": str(config.domain.sir_prefix),
        "locator_space": [str(space) for space in config.domain.locator_space],
        "locator_pool": str(config.locator_pool) if config.locator_pool else None,
        "serving": not standing.not_serving(),
        "reason": standing.not_serving(),
    }


def _listen(server: grpc.aio.Server, config: ControllerConfig) -> None:
    if config.certificate is None or config.key is None or config.client_ca is None:
        server.add_insecure_port(config.listen)
        return
    files = ServerCertificates(certificate=config.certificate, key=config.key, client_ca=config.client_ca)
    server.add_secure_port(config.listen, files.credentials())


async def _unless(stop: asyncio.Event, work: Coroutine[object, object, object]) -> bool:
    """Do the work; False if `stop` came first."""
    task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not task.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return False
    task.result()
    return True


def main() -> int:
    """Run the controller; 2 if its settings are wrong, 1 if it cannot serve."""
    parser = argparse.ArgumentParser(prog="controller", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="TOML file (controller/config.py)")
    arguments = parser.parse_args()
    try:
        config = settings.read(ControllerConfig, arguments.config)
    except settings.SettingsError as error:
        print(f"controller: {error}", file=sys.stderr)  # noqa: T201 - before there is a log
        return 2
    ila_log.set_up(config.log)
    try:
        asyncio.run(serve(config))
    except (Refused, RecordError, OSError, RuntimeError) as error:
        log.error("cannot serve: %s", error)  # noqa: TRY400 - the message names the reason
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
