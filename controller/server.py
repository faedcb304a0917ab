# SPDX-License-Identifier: Apache-2.0
"""The gRPC face of the service: checks who calls, parses requests, turns refusals into status codes."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Iterable
from pathlib import Path

import grpc

from controller.answers import Context, answered
from controller.core.assignment import Claim, Holder
from controller.core.decision import Reason, Refused
from controller.core.registration import Registration
from controller.reports import Report, Reports
from controller.rules import Rules, owner_of
from controller.service import Service
from controller.standing import Standing
from ila.address import Identifier, Locator
from ila.certificates import NODE
from ila.channel import Fingerprint, fingerprint
from ila.domain import Domain
from ila.mapping import Generation, checked_container, checked_name
from proto import ilanet_pb2 as pb
from proto.ilanet_pb2_grpc import ControllerServicer

log = logging.getLogger(__name__)


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
        rules: Rules,
        reports: Reports,
    ) -> None:
        self._rules = rules
        self._reports = reports
        self._standing = standing
        self._service = service
        self._domain = domain
        self._closed_ports = closed_ports
        self._authenticated = authenticated

    async def Register(self, request: pb.RegisterRequest, context: Context) -> pb.RegisterReply:  # noqa: N802 - gRPC
        """Make a node known (proto/ilanet.proto)."""
        return await answered("Register", request.node, context, self._standing, self._register(request, context))

    async def Assign(self, request: pb.AssignRequest, context: Context) -> pb.AssignReply:  # noqa: N802 - gRPC
        """Give a pod its identifier (proto/ilanet.proto)."""
        return await answered("Assign", request.node, context, self._standing, self._assign(request, context))

    async def Release(self, request: pb.ReleaseRequest, context: Context) -> pb.ReleaseReply:  # noqa: N802 - gRPC
        """End what a container holds (proto/ilanet.proto)."""
        return await answered("Release", request.node, context, self._standing, self._release(request, context))

    async def Reserve(self, request: pb.ReserveRequest, context: Context) -> pb.ReserveReply:  # noqa: N802 - gRPC
        """Hand identifiers out in advance (proto/ilanet.proto)."""
        return await answered("Reserve", request.node, context, self._standing, self._reserve(request, context))

    async def Report(self, request: pb.ReportRequest, context: Context) -> pb.ReportReply:  # noqa: N802 - gRPC
        """Hear how a node is (proto/ilanet.proto)."""
        return await answered("Report", request.node, context, self._standing, self._report(request, context))

    async def _register(self, request: pb.RegisterRequest, context: Context) -> pb.RegisterReply:
        node = self._caller(request.node, context)
        parsed = Registration(
            node=node,
            address=ipaddress.IPv6Address(request.control_address),
            port=_port(request.control_port),
            declared=Locator.parse(request.locator) if request.locator else None,
            highest=Generation(request.highest.epoch, request.highest.revision),
        )
        try:
            allowed = await self._rules.registered(parsed)
            held = frozenset(owner_of(item.pod) for item in request.held)
            registered = await self._service.register(allowed, await self._claims(node, request.held), held=held)
        except Refused as error:
            self._rules.refused(node, None, error)
            raise
        return pb.RegisterReply(
            locator=str(registered.node.locator),
            sir_prefix=str(self._domain.sir_prefix),
            locator_space=[str(space) for space in self._domain.locator_space],
            checksum_mode=self._domain.checksum_mode.value,
            closed_ports=self._closed_ports,
            ask_first=self._rules.ask_first,
            generation=_generation(registered.generation),
        )

    async def _claims(self, node: str, held: Iterable[pb.Held]) -> list[Claim]:
        """Return what a node says it holds, without what it may not; that is logged.

        All at once: each one that Kubernetes does not show is waited for, and a node that was away may hold many.
        """
        claims = [(item.pod, _claim(node, item)) for item in held]
        allowed = await asyncio.gather(*(self._is_allowed(node, pod, claim) for pod, claim in claims))
        return [claim for (_, claim), may in zip(claims, allowed, strict=True) if may]

    async def _is_allowed(self, node: str, pod: pb.Pod, claim: Claim) -> bool:
        try:
            grant = await self._rules.grant(node, pod)
            if grant.owner != claim.holder.owner:
                raise Refused(Reason.NOT_YOURS, f"the owner is {grant.owner}")
        except Refused as error:
            fields = _about(node, pod)
            log.warning("claim of node=%s identifier=%s is not taken: %s", node, claim.identifier, error, extra=fields)
            return False
        return True

    async def _assign(self, request: pb.AssignRequest, context: Context) -> pb.AssignReply:
        node = self._caller(request.node, context)
        try:
            grant = await self._rules.grant(node, request.pod, take_over=request.take_over)
            holder = Holder(owner=grant.owner, node=node, container=checked_container(request.container_id))
            assigned = await self._service.assign(
                holder,
                take_over=grant.take_over,
                reserved=Identifier(request.reserved) if request.reserved else None,
                wanted=self._identifier(grant.wanted),
            )
        except Refused as error:
            log.warning("refused: %s", error, extra=_about(node, request.pod))
            self._rules.refused(node, request.pod, error)
            raise
        log.info("identifier=%s is held", assigned.identifier, extra=_about(node, request.pod))
        return pb.AssignReply(
            identifier=assigned.identifier.value,
            sir_address=str(self._domain.sir_prefix.address(assigned.identifier)),
            generation=_generation(assigned.generation),
            owner=grant.owner.text,
        )

    def _identifier(self, address: ipaddress.IPv6Address | None) -> Identifier | None:
        """Return who an address under the SIR prefix names; Refused if it is none of a pod."""
        if address is None:
            return None
        if address not in self._domain.sir_prefix.network:
            raise Refused(Reason.MALFORMED, f"address {address} is not under the SIR prefix {self._domain.sir_prefix}")
        try:
            return Identifier(int(address) & (1 << 64) - 1)
        except ValueError as error:
            raise Refused(Reason.MALFORMED, f"address {address}: {error}") from error

    async def _release(self, request: pb.ReleaseRequest, context: Context) -> pb.ReleaseReply:
        holder = _holder(self._caller(request.node, context), request.pod, request.container_id)
        identifier = Identifier(request.identifier) if request.identifier else None
        await self._service.release(holder, identifier=identifier)
        log.info("identifier=%s is released", identifier or "as held", extra=_about(holder.node, request.pod))
        return pb.ReleaseReply()

    async def _reserve(self, request: pb.ReserveRequest, context: Context) -> pb.ReserveReply:
        identifiers = await self._service.reserve(self._caller(request.node, context), request.count)
        return pb.ReserveReply(identifiers=[identifier.value for identifier in identifiers])

    async def _report(self, request: pb.ReportRequest, context: Context) -> pb.ReportReply:
        node = self._caller(request.node, context)
        report = Report(
            version=request.version,
            serving=request.serving,
            problems=dict(request.problems),
            owners=frozenset(request.owners),
            past_netfilter=request.past_netfilter,
            when=time.monotonic(),
        )
        self._reports.put(node, report)
        return pb.ReportReply()

    def _caller(self, name: str, context: Context) -> str:
        """Return the name of the node that calls; Refused if its certificate is not that node's."""
        node = checked_name(name, "node")
        if not self._authenticated:
            return node
        names = [raw.decode(errors="replace") for raw in context.auth_context().get("x509_common_name", ())]
        if names != [NODE + node]:
            raise Refused(Reason.NOT_YOURS, f"the certificate of {', '.join(names)!r} may not act for node {node!r}")
        return node


def _about(node: str, pod: pb.Pod) -> dict[str, str]:
    """Return what a log line is about."""
    return {"node": node, "pod": f"{pod.namespace}/{pod.name}" if pod.name else pod.uid}


def _port(number: int) -> int:
    if not 0 < number < 65536:
        raise ValueError(f"control port {number} is not between 1 and 65535")
    return number


def _holder(node: str, pod: pb.Pod, container: str) -> Holder:
    return Holder(owner=owner_of(pod), node=node, container=checked_container(container))


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

    def __init__(self, *, certificate: Path, key: Path, client_ca: Path | None) -> None:
        """Take None as `client_ca` where clients have no certificate yet."""
        self._files = (certificate, key, *([] if client_ca is None else [client_ca]))
        self._fingerprint: Fingerprint | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials that follow the files; OSError if they cannot be read now."""
        return grpc.dynamic_ssl_server_credentials(
            self._read(),
            self._changed,  # type: ignore[arg-type]  # the stub forgets that None means unchanged
            require_client_authentication=len(self._files) > 2,
        )

    def _read(self) -> grpc.ServerCertificateConfiguration:
        found = fingerprint(self._files)
        certificate, key, *client_ca = (path.read_bytes() for path in self._files)
        self._fingerprint = found
        return grpc.ssl_server_certificate_configuration(
            [(key, certificate)], root_certificates=client_ca[0] if client_ca else None
        )

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
