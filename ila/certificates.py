# SPDX-License-Identifier: Apache-2.0
"""Keys, certificates and who signs them (X.509, EC P-256); for the controller, who enrols at it, and the lab."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NODE = "ilanet:node:"
"""How the common name of a node's certificate begins; the node's name follows."""

CONTROLLER = "ilanet-controller"
AGENT = "ilanet-agent"
ETCD = "ilanet-etcd"
"""Names in the certificates of servers, and of etcd's users as which controllers and agents come."""

_LEEWAY = dt.timedelta(minutes=5)
"""Clocks of a cluster may differ by so much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """What a certificate says of its holder."""

    common_name: str
    organization: str = ""

    names: tuple[str, ...] = ()
    """DNS names and addresses of a server, which is a client too; none: a client only."""


class CertificateError(ValueError):
    """A certificate, a key or a request for one does not parse, or does not fit the other; the message says which."""


class Authority:
    """Signs certificates; holds its private key in memory."""

    def __init__(self, *, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate

    @classmethod
    def new(cls, common_name: str, *, lifetime: dt.timedelta) -> Self:
        """Make one that has signed itself."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = _builder(name, name, key.public_key(), key.public_key(), lifetime)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
        return cls(key=key, certificate=builder.sign(key, hashes.SHA256()))

    @classmethod
    def parse(cls, *, certificate: bytes, key: bytes) -> Self:
        """Return the one of these PEM texts; CertificateError if they do not parse or do not belong together."""
        try:
            parsed = x509.load_pem_x509_certificate(certificate)
            private = serialization.load_pem_private_key(key, None)
        except (ValueError, TypeError) as error:
            raise CertificateError(f"the authority's certificate or key does not parse: {error}") from error
        if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != parsed.public_key():
            raise CertificateError("the authority's key is not the elliptic curve key of its certificate")
        return cls(key=private, certificate=parsed)

    @property
    def certificate(self) -> bytes:
        """Its own certificate, PEM."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key(self) -> bytes:
        """Its private key, PEM."""
        return _pem(self._key)

    @property
    def expires(self) -> dt.datetime:
        """When its own certificate ends."""
        return self._certificate.not_valid_after_utc

    def sign(self, request: bytes, leaf: Leaf, *, lifetime: dt.timedelta) -> bytes:
        """Return a certificate, PEM, for the key that a request (DER, PKCS #10) proves to have; `leaf` says the rest.

        CertificateError if the request does not parse or was not signed by its key.
        """
        try:
            parsed = x509.load_der_x509_csr(request)
            if not parsed.is_signature_valid:
                raise CertificateError("the request for a certificate was not signed by its key")
            public = parsed.public_key()
        except (ValueError, InvalidSignature) as error:
            raise CertificateError(f"the request for a certificate does not parse: {error}") from error
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise CertificateError("the request for a certificate has no elliptic curve key")
        return self._sign(public, leaf, lifetime)

    def issue(self, leaf: Leaf, *, lifetime: dt.timedelta) -> tuple[bytes, bytes]:
        """Return a new key and its certificate, as (certificate, key), PEM; a lifetime below zero has ended."""
        key = ec.generate_private_key(ec.SECP256R1())
        return self._sign(key.public_key(), leaf, lifetime), _pem(key)

    def _sign(self, public: ec.EllipticCurvePublicKey, leaf: Leaf, lifetime: dt.timedelta) -> bytes:
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, leaf.common_name)]
        if leaf.organization:
            attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, leaf.organization))
        signer = self._certificate.subject
        builder = _builder(x509.Name(attributes), signer, public, self._key.public_key(), lifetime)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if leaf.names else [])]
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        if leaf.names:
            names = x509.SubjectAlternativeName([_name(name) for name in leaf.names])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def new_request() -> tuple[bytes, bytes]:
    """Return a new private key (PEM) and a request for its certificate (DER): its signer says for whom it is."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return _pem(key), request.public_bytes(serialization.Encoding.DER)


def remaining(certificate: bytes, now: dt.datetime) -> float:
    """Return which part of a certificate's (PEM) lifetime is left: 1 when new, 0 or less when over.

    CertificateError if it does not parse.
    """
    try:
        parsed = x509.load_pem_x509_certificate(certificate)
    except ValueError as error:
        raise CertificateError(f"certificate does not parse: {error}") from error
    begin, end = parsed.not_valid_before_utc, parsed.not_valid_after_utc
    return (end - now) / (end - begin)


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


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePublicKey,
    lifetime: dt.timedelta,
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + lifetime) - _LEEWAY)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


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
