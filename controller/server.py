# SPDX-License-Identifier: Apache-2.0
"""The gRPC face of the service: checks who calls, parses requests, turns refusals into status codes."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

import grpc

from controller.core.assignment import Claim, Holder
from controller.core.decision import Reason, Refused
from controller.core.registration import Registration
from controller.service import Service
from controller.standing import Standing
from ila.address import Identifier, Locator
from ila.channel import Fingerprint, fingerprint
from ila.domain import Domain
from ila.mapping import Generation, OwnerName, RecordError, checked_container, checked_name
from ila.store import StoreError
from proto import ilanet_pb2 as pb
from proto.ilanet_pb2_grpc import ControllerServicer

log = logging.getLogger(__name__)

T = TypeVar("T")
Context = grpc.aio.ServicerContext[object, object]

_CODES = {
    Reason.MALFORMED: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.NOT_YOURS: grpc.StatusCode.PERMISSION_DENIED,
    Reason.TAKEN: grpc.StatusCode.ALREADY_EXISTS,
    Reason.EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.NOT_NOW: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.MISCONFIGURED: grpc.StatusCode.UNAVAILABLE,
}
"""A misconfigured replica is like none at all: another one may answer."""

_NODE_IDENTITY = "ilanet:node:"


class ControllerServer(ControllerServicer):
    """Answers agents."""

    def __init__(
        self,
        *,
        service: Service,
        domain: Domain,
        closed_ports: tuple[int, ...],
        authenticated: bool,
        standing: Standing,
    ) -> None:
        self._standing = standing
        self._service = service
        self._domain = domain
        self._closed_ports = closed_ports
        self._authenticated = authenticated

    async def Register(self, request: pb.RegisterRequest, context: Context) -> pb.RegisterReply:  # noqa: N802 - gRPC
        """Make a node known (proto/ilanet.proto)."""
        return await self._answer("Register", request.node, context, self._register(request, context))

    async def Assign(self, request: pb.AssignRequest, context: Context) -> pb.AssignReply:  # noqa: N802 - gRPC
        """Give a pod its identifier (proto/ilanet.proto)."""
        return await self._answer("Assign", request.node, context, self._assign(request, context))

    async def Release(self, request: pb.ReleaseRequest, context: Context) -> pb.ReleaseReply:  # noqa: N802 - gRPC
        """End what a container holds (proto/ilanet.proto)."""
        return await self._answer("Release", request.node, context, self._release(request, context))

    async def Reserve(self, request: pb.ReserveRequest, context: Context) -> pb.ReserveReply:  # noqa: N802 - gRPC
        """Hand identifiers out in advance (proto/ilanet.proto)."""
        return await self._answer("Reserve", request.node, context, self._reserve(request, context))

    async def _register(self, request: pb.RegisterRequest, context: Context) -> pb.RegisterReply:
        node = self._caller(request.node, context)
        parsed = Registration(
            node=node,
            address=ipaddress.IPv6Address(request.control_address),
            port=_port(request.control_port),
            declared=Locator.parse(request.locator) if request.locator else None,
            highest=Generation(request.highest.epoch, request.highest.revision),
        )
        registered = await self._service.register(parsed, [_claim(node, held) for held in request.held])
        return pb.RegisterReply(
            locator=str(registered.node.locator),
            sir_prefix=str(self._domain.sir_prefix),
            locator_space=[str(space) for space in self._domain.locator_space],
            checksum_mode=self._domain.checksum_mode.value,
            closed_ports=self._closed_ports,
            generation=_generation(registered.generation),
        )

    async def _assign(self, request: pb.AssignRequest, context: Context) -> pb.AssignReply:
        holder = _holder(self._caller(request.node, context), request.pod, request.container_id)
        reserved = Identifier(request.reserved) if request.reserved else None
        assigned = await self._service.assign(holder, take_over=request.take_over, reserved=reserved)
        return pb.AssignReply(
            identifier=assigned.identifier.value,
            sir_address=str(self._domain.sir_prefix.address(assigned.identifier)),
            generation=_generation(assigned.generation),
        )

    async def _release(self, request: pb.ReleaseRequest, context: Context) -> pb.ReleaseReply:
        holder = _holder(self._caller(request.node, context), request.pod, request.container_id)
        identifier = Identifier(request.identifier) if request.identifier else None
        await self._service.release(holder, identifier=identifier)
        return pb.ReleaseReply()

    async def _reserve(self, request: pb.ReserveRequest, context: Context) -> pb.ReserveReply:
        identifiers = await self._service.reserve(self._caller(request.node, context), request.count)
        return pb.ReserveReply(identifiers=[identifier.value for identifier in identifiers])

    async def _answer(self, call: str, node: str, context: Context, answer: Awaitable[T]) -> T:
        """Return the answer, or end the call with the status that fits."""
        with self._standing.call(call) as ended:
            try:
                return await answer
            except Refused as error:
                code, message = _CODES[error.reason], str(error)
            except RecordError as error:
                log.exception("%s of node=%s met a broken record", call, node)
                code, message = grpc.StatusCode.INTERNAL, str(error)
            except StoreError as error:
                code, message = grpc.StatusCode.UNAVAILABLE, str(error)
            except ValueError as error:
                code, message = grpc.StatusCode.INVALID_ARGUMENT, str(error)
            except asyncio.CancelledError:
                ended.outcome = grpc.StatusCode.CANCELLED.name.lower()
                raise
            except Exception:
                log.exception("%s of node=%s failed", call, node)
                code, message = grpc.StatusCode.INTERNAL, "the controller failed; its log says why"
            ended.outcome = code.name.lower()
        log.warning("%s of node=%s ended: %s: %s", call, node, code.name, message)
        return await context.abort(code, message)

    def _caller(self, name: str, context: Context) -> str:
        """Return the name of the node that calls; Refused if its certificate is not that node's."""
        node = checked_name(name, "node")
        if not self._authenticated:
            return node
        names = [raw.decode(errors="replace") for raw in context.auth_context().get("x509_common_name", ())]
        if names != [_NODE_IDENTITY + node]:
            raise Refused(Reason.NOT_YOURS, f"the certificate of {', '.join(names)!r} may not act for node {node!r}")
        return node


def _port(number: int) -> int:
    if not 0 < number < 65536:
        raise ValueError(f"control port {number} is not between 1 and 65535")
    return number


def _owner(pod: pb.Pod) -> OwnerName:
    return OwnerName.of_name(pod.namespace, pod.name) if pod.keep_address else OwnerName.of_uid(pod.uid)


def _holder(node: str, pod: pb.Pod, container: str) -> Holder:
    return Holder(owner=_owner(pod), node=node, container=checked_container(container))


def _claim(node: str, held: pb.Held) -> Claim:
    return Claim(
        _holder(node, held.pod, held.container_id),
        Identifier(held.identifier),
        Generation(held.generation.epoch, held.generation.revision),
    )


def _generation(generation: Generation) -> pb.Generation:
    return pb.Generation(epoch=generation.epoch, revision=generation.revision)


class ServerCertificates:
    """The server's TLS files as gRPC wants them: looked at anew for each connection."""

    def __init__(self, *, certificate: Path, key: Path, client_ca: Path) -> None:
        self._files = (certificate, key, client_ca)
        self._fingerprint: Fingerprint | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials that follow the files; OSError if they cannot be read now."""
        return grpc.dynamic_ssl_server_credentials(
            self._read(),
            self._changed,  # type: ignore[arg-type]  # the stub forgets that None means unchanged
            require_client_authentication=True,
        )

    def _read(self) -> grpc.ServerCertificateConfiguration:
        found = fingerprint(self._files)
        certificate, key, client_ca = (path.read_bytes() for path in self._files)
        self._fingerprint = found
        return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=client_ca)

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the new configuration, None if it is the old one; gRPC calls this from threads of its own."""
        try:
            if fingerprint(self._files) == self._fingerprint:
                return None
            configuration = self._read()
        except OSError as error:
            log.warning("server certificate cannot be read, the old one stays: %s", error)
            return None
        log.info("server certificate=%s has changed", self._files[0])
        return configuration
