# SPDX-License-Identifier: Apache-2.0
"""The agent's side of the gRPC interface: implements agent.core.ports.Controller for one node."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import grpc

from agent.core.endpoint import Endpoint, Pod, State
from agent.core.ports import Assigned, ControllerError, Refused, Registration
from ila.address import Identifier, Locator
from ila.channel import PeerChannel
from ila.domain import Domain
from ila.mapping import Generation
from proto import ilanet_pb2 as pb
from proto import ilanet_pb2_grpc

T = TypeVar("T")

_REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAUTHENTICATED,
    }
)


class GrpcController:
    """Calls to whichever replica answers, each with a deadline, tried again at the next one."""

    def __init__(
        self,
        *,
        channel: PeerChannel,
        node: str,
        address: ipaddress.IPv6Address,
        control_port: int,
        locator: Locator | None,
        deadline: float,
        backoff: Sequence[float],
    ) -> None:
        """Take `deadline` and the pauses of `backoff` in seconds."""
        self._channel = channel
        self._node = node
        self._address = address
        self._control_port = control_port
        self._locator = locator
        self._deadline = deadline
        self._backoff = backoff

    async def register(self, *, highest: Generation, held: Iterable[Endpoint]) -> Registration:
        """Make this node known with what it has wired; return its registration."""
        reply = await self._call(
            lambda stub: stub.Register,
            pb.RegisterRequest(
                node=self._node,
                control_address=str(self._address),
                control_port=self._control_port,
                locator=str(self._locator) if self._locator else "",
                highest=_generation(highest),
                held=[
                    pb.Held(
                        identifier=e.identifier.value,
                        pod=_pod(e.pod),
                        container_id=e.container_id,
                        generation=_generation(e.generation),
                    )
                    for e in held
                    if e.state is State.WIRED
                ],
            ),
        )
        try:
            return Registration(
                locator=Locator.parse(reply.locator),
                domain=Domain.parse(
                    sir_prefix=reply.sir_prefix,
                    locator_space=reply.locator_space,
                    checksum_mode=reply.checksum_mode,
                ),
                closed_ports=tuple(reply.closed_ports),
                ask_first=tuple(reply.ask_first),
            )
        except ValueError as error:
            raise ControllerError(f"controller {self._channel.name} answered what does not parse: {error}") from error

    async def assign(
        self, *, pod: Pod, container_id: str, take_over: bool, reserved: Identifier | None = None
    ) -> Assigned:
        """Return the pod's identifier, whose mapping now points here."""
        reply = await self._call(
            lambda stub: stub.Assign,
            pb.AssignRequest(
                node=self._node,
                pod=_pod(pod),
                container_id=container_id,
                take_over=take_over,
                reserved=reserved.value if reserved is not None else 0,
            ),
        )
        (identifier,) = self._identifiers([reply.identifier])
        generation = Generation(reply.generation.epoch, reply.generation.revision)
        return Assigned(identifier=identifier, generation=generation, owner=reply.owner)

    async def release(self, *, pod: Pod, container_id: str, identifier: Identifier) -> None:
        """End what the container holds, and take the identifier out of the reserve."""
        await self._call(
            lambda stub: stub.Release,
            pb.ReleaseRequest(node=self._node, pod=_pod(pod), container_id=container_id, identifier=identifier.value),
        )

    async def report(
        self,
        *,
        version: str,
        serving: bool,
        problems: Mapping[str, str],
        owners: Iterable[str],
        past_netfilter: bool,
    ) -> None:
        """Tell how this node is."""
        request = pb.ReportRequest(
            node=self._node,
            version=version,
            serving=serving,
            problems=problems,
            owners=sorted(owners),
            past_netfilter=past_netfilter,
        )
        await self._call(lambda stub: stub.Report, request)

    async def reserve(self, *, count: int) -> list[Identifier]:
        """Return all identifiers of this node's reserve, filled up to `count`."""
        reply = await self._call(lambda stub: stub.Reserve, pb.ReserveRequest(node=self._node, count=count))
        return self._identifiers(reply.identifiers)

    def _identifiers(self, numbers: Iterable[int]) -> list[Identifier]:
        try:
            return [Identifier(number) for number in numbers]
        except ValueError as error:
            raise ControllerError(f"controller {self._channel.name} answered what does not parse: {error}") from error

    async def _call(self, method: Callable[[ilanet_pb2_grpc.ControllerStub], Any], request: object) -> Any:  # noqa: ANN401 - stubs have no types
        """Call a method until a replica answers or the back-off sequence ends."""
        for pause in (*self._backoff, None):
            try:
                stub = ilanet_pb2_grpc.ControllerStub(self._channel.get())
                call: Awaitable[Any] = method(stub)(request, timeout=self._deadline)
                return await call
            except grpc.aio.AioRpcError as error:
                if error.code() in _REFUSALS:
                    held = error.code() is grpc.StatusCode.FAILED_PRECONDITION
                    raise Refused(error.details() or error.code().name, held=held) from error
                failure = f"controller {self._channel.name}: {error.code().name}: {error.details()}"
            except OSError as error:
                failure = f"certificates for controller {self._channel.name}: {error}"
            if pause is None:
                raise ControllerError(failure)
            await asyncio.sleep(pause)
        raise AssertionError("the loop ends by return or raise")


def _pod(pod: Pod) -> pb.Pod:
    return pb.Pod(
        namespace=pod.namespace,
        name=pod.name,
        uid=pod.uid,
        keep_address=pod.keep_address,
        owner=pod.owner_name,
    )


def _generation(generation: Generation) -> pb.Generation:
    return pb.Generation(epoch=generation.epoch, revision=generation.revision)
