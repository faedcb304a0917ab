# SPDX-License-Identifier: Apache-2.0
"""Gives ilanet's own pods their certificates against their tokens, and this controller its own; in Kubernetes only.

The authority is made by whichever controller comes first, and kept in a Secret; where it is put there by somebody
else (cert-manager), it is used as it is.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import logging
from collections.abc import Sequence
from pathlib import Path

import grpc

from controller.answers import answered
from controller.core import enrolment
from controller.core.decision import Refused
from controller.core.kubernetes import Kubernetes, KubernetesError, NodeFacts
from controller.core.pods import PodFacts
from controller.informer import Informer
from controller.standing import Standing
from ila.certificates import CONTROLLER, Authority, Leaf, remaining, replace
from ila.enrolment import RENEW
from proto import ilanet_pb2 as pb
from proto.ilanet_pb2_grpc import EnrolmentServicer

log = logging.getLogger("controller.enrolment")

LIFETIME = dt.timedelta(days=30)
"""Of every certificate; renewed at its half, so that controllers may be away for two weeks."""

_AUTHORITY_LIFETIME = dt.timedelta(days=3650)
_PATIENCE = 5.0
"""Seconds that a caller waits for the node of its token to be heard of."""

ROOT = "root"
"""The user of etcd who makes users."""

_CHECK = 600.0
"""Seconds between two looks at the authority and at our own certificates."""


class Certificates:
    """The authority, and this controller's own certificates as files: server, etcd, root (.pem and .key), ca.pem.

    given: the authority is somebody else's to make.
    """

    def __init__(
        self,
        *,
        kubernetes: Kubernetes,
        namespace: str,
        address: ipaddress.IPv6Address,
        directory: Path,
        given: bool,
        standing: Standing,
        backoff: Sequence[float],
    ) -> None:
        self._kubernetes = kubernetes
        self._namespace = namespace
        self._address = address
        self._directory = directory
        self._given = given
        self._standing = standing
        self._backoff = tuple(backoff)
        self.authority: Authority | None = None

    async def start(self) -> None:
        """Return once the authority is known, published, and our own certificates are on disk."""
        attempt = 0
        while True:
            try:
                await self.step()
            except KubernetesError as error:
                self._standing.waiting(str(error))
            else:
                return
            await asyncio.sleep(self._backoff[min(attempt, len(self._backoff) - 1)])
            attempt += 1

    async def run(self) -> None:
        """Look for ever whether something is to be renewed."""
        while True:
            await asyncio.sleep(_CHECK)
            try:
                await self.step()
            except (KubernetesError, OSError) as error:
                self._standing.problem("certificates", str(error))
            else:
                self._standing.well("certificates")

    async def step(self) -> None:
        """Read or make the authority, publish it, and renew what is due; KubernetesError, OSError."""
        authority = await self._kubernetes.read_authority(self._namespace)
        if authority is None and self._given:
            raise KubernetesError("the secret ilanet-ca is not there yet: whoever makes it (authority_given) has not")
        if authority is None:
            made = Authority.new("ilanet authority", lifetime=_AUTHORITY_LIFETIME)
            if not await self._kubernetes.write_authority(self._namespace, made):
                log.info("another controller has made the authority")
            authority = await self._kubernetes.read_authority(self._namespace)
            if authority is None:
                raise KubernetesError("the authority's secret has vanished again")
        changed = self.authority is None or authority.certificate != self.authority.certificate
        self.authority = authority
        await self._kubernetes.publish_authorities(self._namespace, authority.certificate.decode())
        replace(self._directory / "ca.pem", authority.certificate, mode=0o644) if changed else None
        own = Leaf(common_name=CONTROLLER, names=(CONTROLLER, "localhost", "::1", str(self._address)))
        for name, leaf in (
            ("server", own),
            ("etcd", Leaf(common_name=CONTROLLER)),
            ("root", Leaf(common_name=ROOT)),
        ):
            if changed or self._due(name):
                certificate, key = authority.issue(leaf, lifetime=LIFETIME)
                replace(self._directory / f"{name}.key", key, mode=0o600)
                replace(self._directory / f"{name}.pem", certificate, mode=0o644)
                log.info("certificate %s renewed", name)

    def _due(self, name: str) -> bool:
        raw = (self._directory / f"{name}.pem").read_bytes()
        return remaining(raw, dt.datetime.now(dt.UTC)) < RENEW


class EnrolmentServer(EnrolmentServicer):
    """Answers agents and etcd members that have no certificate yet."""

    def __init__(
        self,
        *,
        kubernetes: Kubernetes,
        certificates: Certificates,
        namespace: str,
        nodes: Informer[NodeFacts],
        pods: Informer[PodFacts],
        etcd_members: int,
        standing: Standing,
    ) -> None:
        self._kubernetes = kubernetes
        self._certificates = certificates
        self._namespace = namespace
        self._nodes = nodes
        self._pods = pods
        self._etcd_members = etcd_members
        self._standing = standing

    async def Sign(  # noqa: N802 - gRPC
        self, request: pb.SignRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> pb.SignReply:
        """Sign a certificate (proto/ilanet.proto)."""
        return await answered("Sign", "", context, self._standing, self._sign(request))

    async def _sign(self, request: pb.SignRequest) -> pb.SignReply:
        authority = self._certificates.authority
        if authority is None:
            raise KubernetesError("the authority is not known yet")
        review = await self._kubernetes.review(request.token, enrolment.AUDIENCE)
        place = ("", review.node) if review else ("", "")
        await self._nodes.until(lambda: place in self._nodes.objects or not place[1], _PATIENCE)
        node = self._nodes.objects.get(place)
        leaf = enrolment.leaf(request.purpose, review, namespace=self._namespace, node=node)
        members = await self._members() if request.purpose == pb.Purpose.PURPOSE_ETCD_MEMBER else {}
        certificate = authority.sign(request.request, leaf, lifetime=LIFETIME)
        log.info("signed %s for node=%s: %s", pb.Purpose.Name(request.purpose), place[1], leaf.common_name)
        return pb.SignReply(certificate=certificate, authorities=authority.certificate, members=members)

    async def _members(self) -> dict[str, str]:
        def found() -> dict[str, str]:
            pods = {name: pod for (space, name), pod in self._pods.objects.items() if space == self._namespace}
            nodes = {name: node for (_, name), node in self._nodes.objects.items()}
            return enrolment.members(pods, nodes, count=self._etcd_members)

        def there() -> bool:
            try:
                return bool(found())
            except Refused:
                return False

        await self._pods.until(there, _PATIENCE)
        return found()
