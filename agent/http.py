# SPDX-License-Identifier: Apache-2.0
"""The agent over HTTP: /metrics for Prometheus, /healthz and /readyz for the kubelet, /status for a person."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from agent.core.status import Status


class HttpServer:
    """Serves until close(); start() raises OSError when the address is taken."""

    def __init__(
        self,
        *,
        listen: str,
        registry: CollectorRegistry,
        status: Status,
        describe: Callable[[], Mapping[str, object]],
    ) -> None:
        host, _, port = listen.rpartition(":")
        self._host = host.strip("[]")
        self._port = int(port)
        self._registry = registry
        self._status = status
        self._describe = describe
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Begin to serve."""
        application = web.Application()
        application.add_routes(
            [
                web.get("/metrics", self._metrics),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/status", self._describe_all),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()

    async def close(self) -> None:
        """Stop serving."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _healthz(self, _: web.Request) -> web.Response:
        """Answer that the process and its event loop live."""
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        """Answer 200 if a CNI ADD can be served, else 503 with the reasons."""
        if self._status.serving:
            return web.Response(text="ok\n")
        reasons = "\n".join(f"{what}: {reason}" for what, reason in self._status.problems.items())
        return web.Response(status=503, text=f"{reasons or 'not registered with a controller yet'}\n")

    async def _describe_all(self, _: web.Request) -> web.Response:
        return web.json_response(dict(self._describe()))
