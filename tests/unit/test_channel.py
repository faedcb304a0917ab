# SPDX-License-Identifier: Apache-2.0
"""The channel to a peer: it goes on over connections that the other side ends, and no call is lost by that."""

from __future__ import annotations

import asyncio

import grpc

from controller.__main__ import OPTIONS
from ila.channel import PeerChannel
from ila.settings import Peer

AGE = "grpc.max_connection_age_ms"


async def test_connections_that_get_old_cost_no_call() -> None:
    """A controller ends every connection after a while: the agent's next call takes a new one, and none fails."""
    peers = []

    async def answer(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        peers.append(context.peer())
        await asyncio.sleep(0.02)
        return request

    assert dict(OPTIONS)[AGE] > 0
    server = grpc.aio.server(options=[*dict(OPTIONS, **{AGE: 200}).items()])
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {"Echo": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
    port = server.add_insecure_port("[::1]:0")
    await server.start()
    channel = PeerChannel(peer=Peer(endpoints=(f"[::1]:{port}",), insecure=True))
    try:
        for number in range(100):
            echo = channel.get().unary_unary("/test/Echo", request_serializer=bytes, response_deserializer=bytes)
            words = str(number).encode()
            assert await echo(words, timeout=10) == words
    finally:
        await channel.close()
        await server.stop(None)
    assert len(set(peers)) > 2
