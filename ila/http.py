# SPDX-License-Identifier: Apache-2.0
"""Agents and controllers over HTTP: /metrics for Prometheus, /healthz and /readyz for a kubelet, /status for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest


class HttpServer:
    """Serves until close(); start() raises OSError when the address is taken."""

    def __init__(
        self,
        *,
        listen: str,
        registry: CollectorRegistry,
        not_ready: Callable[[], str],
        describe: Callable[[], Mapping[str, object]],
        unhealthy: Callable[[], str] = lambda: "",
    ) -> None:
        """Take '[address]:port', what is counted, and what tells why no work can be done: '' if it can.

        unhealthy: tells why only a new start of the process helps.
        """
        host, _, port = listen.rpartition(":")
        self._host = host.strip("[]")
        self._port = int(port)
        self._registry = registry
        self._not_ready = not_ready
        self._describe = describe
        self._unhealthy = unhealthy
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
        """Answer 200 while the process and its event loop live, 503 with the reason if a new start is needed."""
        return _answer(self._unhealthy())

    async def _readyz(self, _: web.Request) -> web.Response:
        """Answer 200 if the work can be done, else 503 with the reasons."""
        return _answer(self._not_ready())

    async def _describe_all(self, _: web.Request) -> web.Response:
        return web.json_response(dict(self._describe()))


def _answer(reasons: str) -> web.Response:
    return web.Response(status=503, text=f"{reasons}\n") if reasons else web.Response(text="ok\n")
