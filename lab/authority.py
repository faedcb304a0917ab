# SPDX-License-Identifier: Apache-2.0
"""A certificate authority for demo and tests: certificates for servers, controllers, nodes and etcd's users."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ila import certificates
from ila.certificates import Leaf, replace

_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Certificate:
    """Paths of a certificate, its private key and the authority's certificate, all PEM."""

    certificate: Path
    key: Path
    ca: Path


class Authority:
    """Signs certificates into files of one directory; its own key stays in memory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._signer = certificates.Authority.new("ilanet lab authority", lifetime=_DAY)

    @property
    def ca(self) -> Path:
        """The authority's own certificate."""
        return self._directory / "ca.pem"

    def create(self) -> None:
        """Write the authority's certificate; must come first."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace(self.ca, self._signer.certificate, mode=0o644)

    def server(self, file: str, *, names: Iterable[str], lifetime: dt.timedelta = _DAY) -> Certificate:
        """Write FILE.pem and FILE.key for a server with these DNS names and addresses; serves as a client too."""
        names = tuple(names)
        return self._issue(file, Leaf(common_name=names[0], names=names), lifetime)

    def client(
        self, file: str, *, common_name: str, organization: str = "", lifetime: dt.timedelta = _DAY
    ) -> Certificate:
        """Write FILE.pem and FILE.key for a client; a lifetime below zero has ended."""
        return self._issue(file, Leaf(common_name=common_name, organization=organization), lifetime)

    def issued(self, file: str) -> Certificate:
        """Return the paths of what is, or will be, called FILE."""
        return Certificate(self._directory / f"{file}.pem", self._directory / f"{file}.key", self.ca)

    def _issue(self, file: str, leaf: Leaf, lifetime: dt.timedelta) -> Certificate:
        certificate, key = self._signer.issue(leaf, lifetime=lifetime)
        made = self.issued(file)
        replace(made.key, key, mode=0o600)
        replace(made.certificate, certificate, mode=0o644)
        return made
