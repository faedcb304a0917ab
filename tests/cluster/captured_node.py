# SPDX-License-Identifier: Apache-2.0
"""What somebody with one node's account and certificates tries; runs inside a pod, prints outcomes as JSON.

Its arguments are JSON: "self" and "other" (node names), "theirs" (a pod on the other node), "mine" (one on this).
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import ssl
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import grpc
from etcd3aio._protobuf import KVStub, PutRequest, RangeRequest

from ila.certificates import new_request
from ila.settings import address
from proto import ilanet_pb2 as pb
from proto.ilanet_pb2_grpc import ControllerStub, EnrolmentStub

CA = Path("/etc/ilanet-ca/ca.crt").read_bytes()
TOKEN, API_TOKEN = (Path(f"/var/run/secrets/ilanet/{name}").read_text() for name in ("token", "api"))
CONTROLLER, ETCD = (os.environ[f"ILANET_{name}_SERVICE_HOST"] for name in ("CONTROLLER", "ETCD"))
AUTHORITIES = {CONTROLLER: "ilanet-controller", ETCD: "ilanet-etcd"}


def channel(host: str, port: int, certificate: bytes | None = None, key: bytes | None = None) -> grpc.aio.Channel:
    options = [(f"grpc.{name}", AUTHORITIES[host]) for name in ("default_authority", "ssl_target_name_override")]
    return grpc.aio.secure_channel(
        f"ipv6:[{host}]:{port}", grpc.ssl_channel_credentials(CA, key, certificate), options=options
    )


async def outcome(call: Awaitable[Any]) -> str:
    """Return how a call ends: OK, or its status and what it says."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"
    return "OK"


async def sign(purpose: pb.Purpose, token: str = TOKEN) -> tuple[bytes, bytes]:
    key, request = new_request()
    async with channel(CONTROLLER, 7442) as door:
        asked = pb.SignRequest(token=token, purpose=purpose, request=request)
        reply = await EnrolmentStub(door).Sign(asked, timeout=10)
    return reply.certificate, key


def api_server() -> str:
    """Ask the API server with the node's token."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"])
    connection = http.client.HTTPSConnection(host, port, timeout=10, context=context)
    connection.request("GET", "/api/v1/pods", headers={"Authorization": f"Bearer {TOKEN}"})
    return str(connection.getresponse().status)


async def main(told: dict[str, Any]) -> dict[str, str]:
    said: dict[str, str] = {"the API server, with this token": api_server()}
    said["a member's certificate"] = await outcome(sign(pb.Purpose.PURPOSE_ETCD_MEMBER))
    said["any certificate, with no token"] = await outcome(sign(pb.Purpose.PURPOSE_NODE, "x"))
    said["any certificate, with a token for the API server"] = await outcome(sign(pb.Purpose.PURPOSE_NODE, API_TOKEN))
    certificate, key = await sign(pb.Purpose.PURPOSE_NODE)
    here = str(address(os.environ["HOST_IPS"]))

    def register(node: str, where: str) -> pb.RegisterRequest:
        return pb.RegisterRequest(node=node, control_address=where, control_port=7444)

    def assign(node: str, pod: dict[str, Any], **more: Any) -> pb.AssignRequest:
        return pb.AssignRequest(node=node, pod=pb.Pod(**pod), container_id="attack", **more)

    async with channel(CONTROLLER, 7443, certificate, key) as door:
        stub = ControllerStub(door)
        tries = {
            "registering the other node": stub.Register(register(told["other"], here), timeout=10),
            "another node's address": stub.Register(register(told["self"], told["address"]), timeout=10),
            "the other node's pod, as that node": stub.Assign(assign(told["other"], told["theirs"]), timeout=10),
            "the other node's pod": stub.Assign(assign(told["self"], told["theirs"], take_over=True), timeout=10),
            "its identifier, for a pod of ours": stub.Assign(
                assign(told["self"], told["mine"], take_over=True, reserved=told["identifier"]), timeout=10
            ),
            "a pod that is not there": stub.Assign(
                assign(told["self"], {"namespace": "x", "name": "x", "uid": "x"}), timeout=10
            ),
            "a pod of ours under another name": stub.Assign(
                assign(told["self"], {**told["mine"], "name": told["theirs"]["name"]}), timeout=10
            ),
            "the other node's reserve": stub.Reserve(pb.ReserveRequest(node=told["other"], count=1), timeout=10),
            "the other node's report": stub.Report(pb.ReportRequest(node=told["other"], serving=True), timeout=10),
            "a release of the other's pod": stub.Release(
                pb.ReleaseRequest(node=told["other"], pod=pb.Pod(**told["theirs"]), container_id="x"), timeout=10
            ),
        }
        for name, call in tries.items():
            said[name] = await outcome(call)
    reader, reader_key = await sign(pb.Purpose.PURPOSE_ETCD_READER)
    async with channel(ETCD, 2379, reader, reader_key) as door:
        kv = KVStub(door)
        mappings, owners = b"/ilanet/v1/mappings/", b"/ilanet/v1/owners/"
        everything = RangeRequest(key=mappings, range_end=mappings + b"\xff")
        said["reading mappings"] = await outcome(kv.Range(everything, timeout=10))
        said["writing a mapping"] = await outcome(kv.Put(PutRequest(key=mappings + b"x", value=b"x"), timeout=10))
        everything = RangeRequest(key=owners, range_end=owners + b"\xff")
        said["reading owners"] = await outcome(kv.Range(everything, timeout=10))
    async with channel(ETCD, 2379, certificate, key) as door:
        put = PutRequest(key=b"/ilanet/v1/epoch", value=b"9")
        said["writing to etcd as the node"] = await outcome(KVStub(door).Put(put, timeout=10))
    return said


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(json.loads(sys.argv[1])))))
