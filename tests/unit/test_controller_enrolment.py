# SPDX-License-Identifier: Apache-2.0
"""Certificates for ilanet's own pods: which token gets which, what others try, and the authority that signs."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path

import pytest
from cryptography import x509
from prometheus_client import CollectorRegistry

from controller.core import enrolment
from controller.core.decision import Refused
from controller.core.kubernetes import KubernetesError, Review, parse_node
from controller.core.pods import parse_pod
from controller.enrolment import LIFETIME, Certificates
from controller.standing import Standing
from ila.certificates import Authority, CertificateError, Leaf, new_request, remaining
from proto import ilanet_pb2 as pb
from tests.fakes_kubernetes import FakeKubernetes, node, pod

AGENT = Review(namespace="ilanet-system", account="ilanet-agent", node="n1")
ETCD = Review(namespace="ilanet-system", account="ilanet-etcd", node="n1")
N1 = parse_node(node("n1"))
NODE, READER, MEMBER = pb.Purpose.PURPOSE_NODE, pb.Purpose.PURPOSE_ETCD_READER, pb.Purpose.PURPOSE_ETCD_MEMBER
DAY = dt.timedelta(days=1)


@pytest.mark.parametrize(
    ("purpose", "review", "leaf"),
    [
        (NODE, AGENT, Leaf(common_name="ilanet:node:n1")),
        (READER, AGENT, Leaf(common_name="ilanet-agent")),
        (MEMBER, ETCD, Leaf(common_name="ilanet-etcd", names=("ilanet-etcd", "localhost", "::1", "fd00:a::1"))),
    ],
)
def test_what_a_token_is_worth(purpose: pb.Purpose, review: Review, leaf: Leaf) -> None:
    """The certificate says what the review says, and nothing that the caller says."""
    assert enrolment.leaf(purpose, review, namespace="ilanet-system", node=N1) == leaf


@pytest.mark.parametrize(
    ("purpose", "review", "reason"),
    [
        (NODE, None, "the token is no service account's"),
        (NODE, ETCD, "is for ilanet-system/ilanet-agent, not for ilanet-system/ilanet-etcd"),
        (MEMBER, AGENT, "is for ilanet-system/ilanet-etcd, not for ilanet-system/ilanet-agent"),
        (NODE, Review(namespace="theirs", account="ilanet-agent", node="n1"), "not for theirs/ilanet-agent"),
        (NODE, Review(namespace="ilanet-system", account="ilanet-agent", node=""), "names no node"),
        (pb.Purpose.PURPOSE_UNSPECIFIED, AGENT, "unknown purpose 0"),
        (77, AGENT, "unknown purpose 77"),
    ],
)
def test_what_a_token_is_not_worth(purpose: pb.Purpose, review: Review | None, reason: str) -> None:
    """Another account, another namespace, a token that no pod has."""
    with pytest.raises(Refused, match=reason):
        enrolment.leaf(purpose, review, namespace="ilanet-system", node=N1)


def test_a_node_that_is_not_there() -> None:
    """A certificate for it would outlive it."""
    with pytest.raises(Refused, match="does not show"):
        enrolment.leaf(NODE, AGENT, namespace="ilanet-system", node=None)


def test_etcd_begins_with_all_of_its_members() -> None:
    """By their pods' names, at the addresses of the nodes that they are on."""
    nodes = {"n1": N1, "n2": parse_node(node("n2", "fd00:a::2"))}
    first, second = (parse_pod(pod(f"ilanet-etcd-{number}", node=f"n{number + 1}")) for number in (0, 1))
    pods = {first.name: first, second.name: second}
    assert enrolment.members(pods, nodes, count=2) == {"ilanet-etcd-0": "fd00:a::1", "ilanet-etcd-1": "fd00:a::2"}
    with pytest.raises(Refused, match="all of its 3 pods are on nodes; ilanet-etcd-2 is not"):
        enrolment.members(pods, nodes, count=3)
    with pytest.raises(Refused, match="ilanet-etcd-1 is not"):
        enrolment.members(pods, {"n1": N1}, count=2)


def test_a_request_is_signed_for_its_own_key() -> None:
    """Whatever subject it has; one that another key has signed, or that is none, is refused."""
    authority = Authority.new("test", lifetime=DAY)
    key, request = new_request()
    certificate = x509.load_pem_x509_certificate(authority.sign(request, Leaf(common_name="one"), lifetime=DAY))
    assert certificate.subject.rfc4514_string() == "CN=one"
    assert b"PRIVATE KEY" in key
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate))
    broken = bytearray(request)
    broken[-1] ^= 1
    for wrong in (bytes(broken), b"", request[:-20]):
        with pytest.raises(CertificateError, match="request for a certificate"):
            authority.sign(wrong, Leaf(common_name="one"), lifetime=DAY)


def test_an_authority_that_is_none() -> None:
    """Texts that do not parse, or a key of another."""
    one, other = Authority.new("one", lifetime=DAY), Authority.new("other", lifetime=DAY)
    assert Authority.parse(certificate=one.certificate, key=one.key).certificate == one.certificate
    for certificate, key in ((one.certificate, other.key), (b"x", one.key), (one.certificate, b"")):
        with pytest.raises(CertificateError, match="authority's"):
            Authority.parse(certificate=certificate, key=key)


def certificates(kubernetes: FakeKubernetes, directory: Path, *, given: bool = False) -> Certificates:
    return Certificates(
        kubernetes=kubernetes,
        namespace="ilanet-system",
        address=ipaddress.IPv6Address("fd00:a::1"),
        directory=directory,
        given=given,
        standing=Standing(registry=CollectorRegistry()),
        backoff=(0.0,),
    )


async def test_the_first_controller_makes_the_authority(tmp_path: Path) -> None:
    """The second takes it up; a failure on the way is tried again; what others check by is published."""
    kubernetes = FakeKubernetes()
    kubernetes.fail_next = "read_authority"
    first, second = (certificates(kubernetes, tmp_path / name) for name in ("one", "two"))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    await first.start()
    made = kubernetes.authority
    assert made is not None
    await second.start()
    assert kubernetes.authority is made
    assert kubernetes.bundle.encode() == made.certificate == (tmp_path / "two/ca.pem").read_bytes()
    for name in ("server", "etcd", "root"):
        raw = (tmp_path / f"two/{name}.pem").read_bytes()
        x509.load_pem_x509_certificate(raw).verify_directly_issued_by(x509.load_pem_x509_certificate(made.certificate))
        assert remaining(raw, dt.datetime.now(dt.UTC)) > 0.99
        assert (tmp_path / f"two/{name}.key").stat().st_mode & 0o777 == 0o600


async def test_an_authority_that_is_given_is_awaited(tmp_path: Path) -> None:
    """None is made in its place."""
    kubernetes = FakeKubernetes()
    subject = certificates(kubernetes, tmp_path, given=True)
    with pytest.raises(KubernetesError, match="secret ilanet-ca is not there yet"):
        await subject.step()
    assert kubernetes.authority is None
    kubernetes.authority = Authority.new("given", lifetime=LIFETIME)
    await subject.step()
    assert (tmp_path / "ca.pem").read_bytes() == kubernetes.authority.certificate


async def test_certificates_are_renewed_when_due_and_when_the_authority_is_another(tmp_path: Path) -> None:
    """Not before."""
    kubernetes = FakeKubernetes()
    subject = certificates(kubernetes, tmp_path)
    await subject.start()
    first = (tmp_path / "server.pem").read_bytes()
    await subject.step()
    assert (tmp_path / "server.pem").read_bytes() == first
    assert kubernetes.authority is not None
    old, _ = kubernetes.authority.issue(Leaf(common_name="x"), lifetime=LIFETIME)
    (tmp_path / "server.pem").write_bytes(old)
    kubernetes.authority = Authority.new("of somebody else", lifetime=LIFETIME)
    await subject.step()
    x509.load_pem_x509_certificate((tmp_path / "server.pem").read_bytes()).verify_directly_issued_by(
        x509.load_pem_x509_certificate(kubernetes.authority.certificate)
    )
    over, _ = kubernetes.authority.issue(Leaf(common_name="x"), lifetime=dt.timedelta(days=-1))
    (tmp_path / "server.pem").write_bytes(over)
    await subject.step()
    assert remaining((tmp_path / "server.pem").read_bytes(), dt.datetime.now(dt.UTC)) > 0.99
    kubernetes.fail_next = "read_authority"
    with pytest.raises(KubernetesError):
        await subject.step()
