# SPDX-License-Identifier: Apache-2.0
"""The controller's composition root: `python -m controller --config FILE`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from prometheus_client import CollectorRegistry

from controller.clearing import Clearing
from controller.config import ControllerConfig, KubernetesConfig
from controller.core.decision import Refused
from controller.core.kubernetes import KubernetesError
from controller.core.nodes import addresses_of_services, check_free
from controller.reports import Reports
from controller.rules import Rules, TrustingRules
from controller.server import ControllerServer, ServerCertificates
from controller.service import Service
from controller.standing import Standing
from ila import VERSION, settings
from ila import log as ila_log
from ila.channel import PeerChannel
from ila.etcd import EtcdStore
from ila.http import HttpServer
from ila.mapping import Generation, RecordError
from ila.store import StoreError
from proto.ilanet_pb2_grpc import add_ControllerServicer_to_server

if TYPE_CHECKING:
    from controller.cluster import ClusterSide

log = logging.getLogger("controller")

_PAUSE = 1.0
"""Seconds between two attempts to reach etcd at the start."""

OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_connection_age_ms", 120_000),
    ("grpc.max_connection_age_grace_ms", 30_000),
)
"""One process per port; agents may ask for a sign of life as often as they do of etcd.

An agent's connection ends after two minutes, once its calls have: behind a Service it goes on with any of the
controllers, so that the one that leads the sweeping loops hears the reports of every node from time to time.
"""


class Controller:
    """Every part of one controller, wired; run() works until cancelled."""

    def __init__(self, config: ControllerConfig) -> None:
        self._config = config
        self._registry = CollectorRegistry()
        self._standing = Standing(registry=self._registry)
        self._reports = Reports()
        self._channel = PeerChannel(peer=config.etcd)
        self._store = EtcdStore(channel=self._channel)
        self._cluster: ClusterSide | None = None

    async def run(self) -> None:
        """Serve: /healthz at once, agents once etcd is there and, in Kubernetes, certificates are."""
        config = self._config
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._channel.close)
            http = HttpServer(
                listen=config.http,
                registry=self._registry,
                not_ready=self._standing.not_serving,
                describe=self._describe,
            )
            await http.start()
            stack.push_async_callback(http.close)
            async with asyncio.TaskGroup() as tasks:
                try:
                    rules: Rules = TrustingRules()
                    if config.kubernetes is not None:
                        rules = (await self._join(config.kubernetes, tasks, stack)).rules
                    await self._answer_agents(rules, stack)
                except Refused as error:
                    if self._cluster is not None:
                        await self._cluster.give_up(str(error))
                    raise
                if self._cluster is not None:
                    self._cluster.lead(tasks, Clearing(store=self._store, domain=config.domain))
                try:
                    await asyncio.Event().wait()
                finally:
                    log.info("stopping: calls in flight have %s s", config.grace)

    async def _join(
        self, settings: KubernetesConfig, tasks: asyncio.TaskGroup, stack: contextlib.AsyncExitStack
    ) -> ClusterSide:
        """Become a part of a Kubernetes: its client is loaded here, since others do without."""
        from controller.cluster import ClusterSide  # noqa: PLC0415
        from controller.kube import KubernetesApi  # noqa: PLC0415

        api = await KubernetesApi.connect(settings.kubeconfig)
        stack.push_async_callback(api.close)
        cluster = self._cluster = ClusterSide(
            api=api,
            config=self._config,
            settings=settings,
            reports=self._reports,
            standing=self._standing,
            registry=self._registry,
        )
        check_free(
            self._config.domain, {"this controller's node": str(settings.address), **addresses_of_services(os.environ)}
        )
        await cluster.start(tasks, stack)
        return cluster

    async def _answer_agents(self, rules: Rules, stack: contextlib.AsyncExitStack) -> None:
        """Return once agents are answered."""
        config = self._config
        service = Service(
            store=self._store, domain=config.domain, locator_pool=config.locator_pool, is_gone=rules.is_gone
        )
        await self._foundation(service)
        server = grpc.aio.server(options=OPTIONS)
        stack.push_async_callback(server.stop, config.grace)
        answers = ControllerServer(
            service=service,
            domain=config.domain,
            closed_ports=config.closed_ports,
            authenticated=not config.insecure,
            standing=self._standing,
            rules=rules,
            reports=self._reports,
        )
        add_ControllerServicer_to_server(answers, server)
        _listen(server, config)
        await server.start()
        self._standing.serving()
        log.info("ready listen=%s etcd=%s sir_prefix=%s", config.listen, self._channel.name, config.domain.sir_prefix)

    async def _foundation(self, service: Service) -> Generation:
        """Wait for etcd, fill it if it is empty, and check its domain; Refused if it is another."""
        while True:
            try:
                return await service.start()
            except StoreError as error:
                where = f"etcd at {self._channel.name} ([etcd] of controller.toml)"
                self._standing.waiting(f"{where} is not ready: {error}")
                await asyncio.sleep(_PAUSE)

    def _describe(self) -> dict[str, object]:
        """Return what /status says."""
        config, reason = self._config, self._standing.not_serving()
        return {
            "version": VERSION,
            "listen": config.listen,
            "etcd": self._channel.name,
            "sir_prefix": str(config.domain.sir_prefix),
            "locator_space": [str(space) for space in config.domain.locator_space],
            "locator_pool": str(config.locator_pool) if config.locator_pool else None,
            "serving": not reason,
            "reason": reason,
            "leader": self._cluster is not None and self._cluster.leads,
            "warnings": [f"{what}: {why}" for what, why in self._standing.problems.items()],
        }


def _listen(server: grpc.aio.Server, config: ControllerConfig) -> None:
    if config.certificate is None or config.key is None or config.client_ca is None:
        server.add_insecure_port(config.listen)
        return
    files = ServerCertificates(certificate=config.certificate, key=config.key, client_ca=config.client_ca)
    server.add_secure_port(config.listen, files.credentials())


async def _run(config: ControllerConfig) -> None:
    task = asyncio.ensure_future(Controller(config).run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


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
        asyncio.run(_run(config))
    except (Refused, RecordError, KubernetesError, OSError, RuntimeError) as error:
        log.error("cannot serve: %s", error)  # noqa: TRY400 - the message names the reason
        return 1
    except ExceptionGroup as group:
        known, unknown = group.split((Refused, RecordError, KubernetesError, OSError, RuntimeError))
        if known is None or unknown is not None:
            raise
        log.error("cannot serve: %s", "; ".join(str(error) for error in known.exceptions))  # noqa: TRY400 - likewise
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
