# SPDX-License-Identifier: Apache-2.0
"""Getting certificates from a real server over TLS: what is asked, when again, and what is said when it fails."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from controller.etcd_member import MemberConfig, render
from ila import settings
from ila.certificates import Authority, Leaf
from ila.enrolment import Enroller, NotEnrolled, Wanted
from ila.settings import Enrolment
from proto import ilanet_pb2 as pb
from proto.ilanet_pb2_grpc import EnrolmentServicer, add_EnrolmentServicer_to_server

DAY = dt.timedelta(days=1)
NODE = pb.Purpose.PURPOSE_NODE
Context = grpc.aio.ServicerContext[object, object]


class Signer(EnrolmentServicer):
    """Signs what is asked, or refuses."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.asked: list[pb.SignRequest] = []
        self.refuse = ""

    async def Sign(self, request: pb.SignRequest, context: Context) -> pb.SignReply:  # noqa: N802 - gRPC
        self.asked.append(request)
        if self.refuse:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, self.refuse)
        certificate = self.authority.sign(request.request, Leaf(common_name="one"), lifetime=DAY)
        return pb.SignReply(certificate=certificate, authorities=self.authority.certificate, members={"m": "fd00::1"})


class Place:
    """A controller's door, and a pod's folder."""

    def __init__(self, directory: Path, port: int, signer: Signer) -> None:
        self.directory = directory
        self.signer = signer
        self.ca = directory / "ca.pem"
        self.ca.write_bytes(signer.authority.certificate)
        self.token = directory / "token"
        self.token.write_text("first\n")
        self.wanted = Wanted(
            purpose=NODE,
            certificate=directory / "tls/node.pem",
            key=directory / "tls/node.key",
            authorities=directory / "tls/ca.pem",
        )
        self.now = dt.datetime.now(dt.UTC)
        self.enroller = Enroller(
            settings=Enrolment(endpoints=(f"127.0.0.1:{port}",), token=self.token),
            ca=self.ca,
            wanted=[self.wanted],
            now=lambda: self.now,
        )


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    authority = Authority.new("test", lifetime=DAY)
    signer = Signer(authority)
    certificate, key = authority.issue(Leaf(common_name="c", names=("ilanet-controller",)), lifetime=DAY)
    server = grpc.aio.server()
    add_EnrolmentServicer_to_server(signer, server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    await server.start()
    try:
        yield Place(tmp_path, port, signer)
    finally:
        await server.stop(None)


async def test_a_certificate_is_asked_for_once(place: Place) -> None:
    """With the token as it is now; key and certificate fit, the key is nobody else's to read."""
    for _ in range(2):
        await place.enroller.step()
    (asked,) = place.signer.asked
    assert (asked.token, asked.purpose) == ("first", NODE)
    key = serialization.load_pem_private_key(place.wanted.key.read_bytes(), None)
    certificate = x509.load_pem_x509_certificate(place.wanted.certificate.read_bytes())
    assert key.public_key() == certificate.public_key()
    assert place.wanted.key.stat().st_mode & 0o777 == 0o600
    assert place.wanted.authorities is not None
    assert place.wanted.authorities.read_bytes() == place.signer.authority.certificate
    assert place.enroller.members == {"m": "fd00::1"}


async def test_it_is_renewed_at_half_of_its_life(place: Place) -> None:
    """With a new key and the token of then; also when one of the files is gone."""
    await place.enroller.step()
    first = place.wanted.key.read_bytes()
    place.now += DAY * 0.4
    await place.enroller.step()
    assert len(place.signer.asked) == 1
    place.now += DAY * 0.2
    place.token.write_text("second")
    await place.enroller.step()
    assert [asked.token for asked in place.signer.asked] == ["first", "second"]
    assert place.wanted.key.read_bytes() != first
    place.now -= DAY * 0.6
    place.wanted.key.unlink()
    await place.enroller.step()
    assert len(place.signer.asked) == 3


async def test_what_fails_is_said(place: Place) -> None:
    """The controller's words, a token or authority that is not there; the old certificate stays."""
    await place.enroller.step()
    old = place.wanted.certificate.read_bytes()
    place.now += DAY * 0.6
    place.signer.refuse = "not you"
    with pytest.raises(NotEnrolled, match=r"PURPOSE_NODE: controller 127\.0\.0\.1:.*: PERMISSION_DENIED: not you"):
        await place.enroller.step()
    place.token.unlink()
    with pytest.raises(NotEnrolled, match=r"PURPOSE_NODE: .*token"):
        await place.enroller.step()
    place.token.write_text("x")
    place.ca.write_bytes(Authority.new("other", lifetime=DAY).certificate)
    with pytest.raises(NotEnrolled, match="UNAVAILABLE"):
        await place.enroller.step()
    assert place.wanted.certificate.read_bytes() == old


async def test_the_loop_says_and_goes_on(place: Place) -> None:
    """A reason, then none."""
    said: list[str] = []
    place.signer.refuse = "too early"
    task = asyncio.ensure_future(place.enroller.run(said.append, (0.01,)))
    async with asyncio.timeout(10):
        while not said:
            await asyncio.sleep(0.01)
        place.signer.refuse = ""
        while said[-1]:
            await asyncio.sleep(0.01)
    task.cancel()
    assert "too early" in said[0]


def test_a_member_s_configuration(tmp_path: Path) -> None:
    """Peers by their addresses, TLS for all; one that is no member is refused."""
    file = tmp_path / "etcd.toml"
    file.write_text(
        'name = "${NAME}"\ndirectory = "/run/etcd"\ndata = "/var/lib/etcd"\n'
        '[enrolment]\nendpoints = ["[::1]:7442"]\ntoken = "/token"\nca = "/ca"\n'
    )
    config = settings.read(MemberConfig, file, {"NAME": "etcd-1"})
    text = render(config, {"etcd-0": "fd00::1", "etcd-1": "fd00::2"}).decode()
    assert '"initial-cluster": "etcd-0=https://[fd00::1]:2380,etcd-1=https://[fd00::2]:2380"' in text
    assert '"listen-client-urls": "https://[fd00::2]:2379,https://[::1]:2379"' in text
    assert text.count('"client-cert-auth": true') == 2
    with pytest.raises(ValueError, match="etcd-1 is none of etcd's members: etcd-0"):
        render(config, {"etcd-0": "fd00::1"})
    with pytest.raises(settings.SettingsError, match="the environment has no variable 'NAME'"):
        settings.read(MemberConfig, file, {})
    file.write_text(file.read_text().replace('ca = "/ca"\n', ""))
    with pytest.raises(settings.SettingsError, match="enrolment needs ca"):
        settings.read(MemberConfig, file, {"NAME": "etcd-1"})
