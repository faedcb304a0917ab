# SPDX-License-Identifier: Apache-2.0
"""Getting certificates from a controller and renewing them in time; for agents and etcd members in Kubernetes."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from ila.certificates import CertificateError, new_request, remaining, replace
from ila.channel import target
from ila.settings import Enrolment
from proto import ilanet_pb2 as pb
from proto.ilanet_pb2_grpc import EnrolmentStub

log = logging.getLogger(__name__)

RENEW = 0.5
"""A certificate is renewed when less than this part of its lifetime is left."""

_DEADLINE = 10.0
_CHECK = 60.0
"""Seconds between two looks at the certificates."""


class NotEnrolled(Exception):  # noqa: N818 - says what is not
    """No certificate was given; the message is the controller's, or says why it could not be asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One certificate and the files, PEM, that it and its key belong in."""

    purpose: pb.Purpose
    certificate: Path
    key: Path
    authorities: Path | None = None
    """Where the authorities that may have signed a peer's go; None: nowhere."""


class Enroller:
    """Keeps certificates there and valid; nothing is asked while they are."""

    def __init__(
        self,
        *,
        settings: Enrolment,
        ca: Path,
        wanted: Sequence[Wanted],
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        """Take the file of the authorities that the controllers' own certificates are checked with."""
        self._settings = settings
        self._ca = settings.ca or ca
        self._wanted = tuple(wanted)
        self._now = now
        self.members: Mapping[str, str] = {}
        """For an etcd member: the address of each member by its name, as last heard."""

    async def step(self) -> None:
        """Get whatever is missing or soon over; NotEnrolled if one could not be had."""
        for wanted in self._wanted:
            if self._due(wanted):
                await self._get(wanted)

    async def run(self, said: Callable[[str], None], backoff: Sequence[float]) -> None:
        """Step for ever; `said` hears why a certificate cannot be had, and '' once all are right."""
        attempt = 0
        while True:
            try:
                await self.step()
            except NotEnrolled as error:
                said(str(error))
                pause = backoff[min(attempt, len(backoff) - 1)]
                attempt += 1
            else:
                said("")
                pause, attempt = _CHECK, 0
            await asyncio.sleep(pause)

    def _due(self, wanted: Wanted) -> bool:
        try:
            return not wanted.key.exists() or remaining(wanted.certificate.read_bytes(), self._now()) < RENEW
        except (OSError, CertificateError):
            return True

    async def _get(self, wanted: Wanted) -> None:
        key, request = new_request()
        name = pb.Purpose.Name(wanted.purpose)
        where = ",".join(self._settings.endpoints)
        try:
            token = self._settings.token.read_text().strip()
            credentials = grpc.ssl_channel_credentials(root_certificates=self._ca.read_bytes())
            names = ("grpc.default_authority", "grpc.ssl_target_name_override", "grpc.enable_http_proxy")
            options = list(zip(names, (self._settings.authority, self._settings.authority, 0), strict=True))
            channel = grpc.aio.secure_channel(target(self._settings.endpoints), credentials, options=options)
            async with channel:
                asked = pb.SignRequest(token=token, purpose=wanted.purpose, request=request)
                reply = await EnrolmentStub(channel).Sign(asked, timeout=_DEADLINE)
        except grpc.aio.AioRpcError as error:
            raise NotEnrolled(f"{name}: controller {where}: {error.code().name}: {error.details()}") from error
        except OSError as error:
            raise NotEnrolled(f"{name}: {error}") from error
        for path in (wanted.key, wanted.certificate):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace(wanted.key, key, mode=0o600)
        replace(wanted.certificate, reply.certificate, mode=0o644)
        if wanted.authorities is not None:
            replace(wanted.authorities, reply.authorities, mode=0o644)
        if reply.members:
            self.members = dict(reply.members)
        log.info("certificate %s renewed: %s", name, wanted.certificate)
