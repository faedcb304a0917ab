# SPDX-License-Identifier: Apache-2.0
"""A certificate authority for demo and tests: certificates for servers, controllers, nodes and etcd's users."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = dt.timedelta(days=1)
_LEEWAY = dt.timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Certificate:
    """Paths of a certificate, its private key and the authority's certificate, all PEM."""

    certificate: Path
    key: Path
    ca: Path


class Authority:
    """Signs certificates (EC P-256) into files of one directory; its own key stays in memory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ilanet lab authority")])

    @property
    def ca(self) -> Path:
        """The authority's own certificate."""
        return self._directory / "ca.pem"

    def create(self) -> None:
        """Write the authority's certificate; must come first."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        builder = self._builder(self._name, self._key.public_key(), lifetime=_DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
        replace(self.ca, _pem(builder.sign(self._key, hashes.SHA256())), mode=0o644)

    def server(self, file: str, *, names: Iterable[str], lifetime: dt.timedelta = _DAY) -> Certificate:
        """Write FILE.pem and FILE.key for a server with these DNS names and addresses; serves as a client too."""
        names = list(names)
        return self._issue(file, common_name=names[0], names=names, lifetime=lifetime)

    def client(
        self, file: str, *, common_name: str, organization: str = "", lifetime: dt.timedelta = _DAY
    ) -> Certificate:
        """Write FILE.pem and FILE.key for a client; a lifetime below zero has ended."""
        return self._issue(file, common_name=common_name, organization=organization, names=[], lifetime=lifetime)

    def issued(self, file: str) -> Certificate:
        """Return the paths of what is, or will be, called FILE."""
        return Certificate(self._directory / f"{file}.pem", self._directory / f"{file}.key", self.ca)

    def _issue(
        self, file: str, *, common_name: str, names: list[str], lifetime: dt.timedelta, organization: str = ""
    ) -> Certificate:
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        if organization:
            attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
        builder = self._builder(x509.Name(attributes), key.public_key(), lifetime=lifetime)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if names else [])]
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_name(name) for name in names]), critical=False
            )
        made = self.issued(file)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        replace(made.key, private, mode=0o600)
        replace(made.certificate, _pem(builder.sign(self._key, hashes.SHA256())), mode=0o644)
        return made

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, lifetime: dt.timedelta
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, now + lifetime) - _LEEWAY)
            .not_valid_after(now + lifetime)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


def replace(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file so that a reader finds the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
