# SPDX-License-Identifier: Apache-2.0
"""One watch call to etcd: opened, asked for a sign of life and read, each with a deadline; for ila/stream.py only."""

from __future__ import annotations

import asyncio
from typing import NoReturn, Self

import grpc
from etcd3aio._protobuf import WatchCreateRequest, WatchRequest, WatchResponse, WatchStub

from ila.etcd import errors
from ila.store import StoreCompacted, StoreRefused, StoreUnavailable

_NEEDS_LEADER = (("hasleader", "true"),)
"""Metadata by which a member that has lost its leader ends the watch."""


class Watch:
    """The changes of a range of keys; whatever ends it is a StoreError.  To be closed (contextlib.aclosing)."""

    def __init__(self, call: grpc.aio.StreamStreamCall[WatchRequest, WatchResponse], *, silence: float) -> None:
        """Take the call, and the seconds that etcd has for each answer that is due."""
        self._call = call
        self._silence = silence
        self._read: asyncio.Task[WatchResponse] | None = None

    @classmethod
    def on(cls, channel: grpc.aio.Channel, *, silence: float) -> Self:
        """Return a watch on a channel, not yet begun."""
        return cls(WatchStub(channel).Watch(metadata=_NEEDS_LEADER), silence=silence)

    async def begin(self, *, first: bytes, after: bytes, revision: int) -> None:
        """Watch the keys from `first` up to, without, `after`; changes begin at `revision`."""
        create = WatchCreateRequest(key=first, range_end=after, start_revision=revision, progress_notify=True)
        await self._send(WatchRequest(create_request=create))
        response = await self.next(self._silence)
        if response is None or not response.created:
            raise StoreUnavailable("etcd does not begin the watch")

    async def sign_of_life(self) -> WatchResponse:
        """Ask for an answer and return the next response, be it that answer or changes."""
        request = WatchRequest()
        request.progress_request.SetInParent()
        await self._send(request)
        response = await self.next(self._silence)
        if response is None:
            raise StoreUnavailable(f"the watch is silent for {self._silence} s")
        return response

    async def next(self, timeout: float) -> WatchResponse | None:
        """Return the next response, None if there is none for `timeout` seconds: the watch goes on then."""
        if self._read is None:
            self._read = asyncio.ensure_future(self._call.read())
        done, _ = await asyncio.wait({self._read}, timeout=timeout)
        if not done:
            return None
        task, self._read = self._read, None
        if task.cancelled():
            _raise_cancelled()
        with errors():
            response = task.result()
        if response is grpc.aio.EOF:
            raise StoreUnavailable("etcd ended the watch")
        _check(response)
        return response

    async def aclose(self) -> None:
        """End the call."""
        self._call.cancel()
        if self._read is not None:
            self._read.cancel()
            await asyncio.gather(self._read, return_exceptions=True)

    async def _send(self, request: WatchRequest) -> None:
        try:
            with errors():
                async with asyncio.timeout(self._silence):
                    await self._call.write(request)
        except asyncio.InvalidStateError as error:
            raise StoreUnavailable(f"the watch has ended: {error}") from error
        except asyncio.CancelledError:
            _raise_cancelled()


def _check(response: WatchResponse) -> None:
    """Raise if the watch was refused or ended: that is no gRPC error but `canceled`."""
    if response.compact_revision:
        raise StoreCompacted(f"etcd is compacted up to revision {response.compact_revision}")
    if response.canceled:
        reason = response.cancel_reason or "no reason given"
        if "permission denied" in reason:
            raise StoreRefused(f"etcd refuses the watch: {reason}")
        raise StoreUnavailable(f"etcd ended the watch: {reason}")


def _raise_cancelled() -> NoReturn:
    """Tell our own cancellation from that of the call, whose channel was closed for new certificates."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
    raise StoreUnavailable("the channel of the watch was closed")
