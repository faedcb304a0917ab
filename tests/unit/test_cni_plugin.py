# SPDX-License-Identifier: Apache-2.0
import ipaddress
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni import plugin
from cni.plugin import AddRequest, CheckRequest, DelRequest, GcRequest, Reply
from cni.result import Attachment
from cni.spec import AskedWrongly, Attached, CniError, Code, PodName, TryAgain

ATTACHMENT = Attachment(
    address=ipaddress.IPv6Address("fd00:a::2000:0:0:1"),
    gateway=ipaddress.IPv6Address("fe80::1"),
    host_name="ila0123456789ab",
    host_mac="02:00:00:00:00:01",
    pod_mac="02:00:00:00:00:02",
    mtu=1500,
)
NETNS = "/run/netns/pod"
ENVIRONMENT = {
    "CNI_CONTAINERID": "c0ffee",
    "CNI_NETNS": NETNS,
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
    "CNI_ARGS": "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=a-b-c",
}


class FakeNetwork:
    """Attaches everything, unless told to fail."""

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.fail_next: Exception | None = None

    def _call(self, request: object) -> Attachment:
        self.calls.append(request)
        failure, self.fail_next = self.fail_next, None
        if failure is not None:
            raise failure
        return ATTACHMENT

    async def add(self, request: AddRequest) -> Attachment:
        return self._call(request)

    async def delete(self, request: DelRequest) -> None:
        self._call(request)

    async def check(self, request: CheckRequest) -> Attachment:
        return self._call(request)

    async def gc(self, request: GcRequest) -> None:
        self._call(request)

    async def status(self) -> None:
        self._call("status")


@pytest.fixture
def network() -> FakeNetwork:
    return FakeNetwork()


@pytest.fixture
def netns() -> Iterator[int]:
    descriptor = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    yield descriptor
    os.close(descriptor)


def config(version: str = "1.0.0", /, **members: Any) -> bytes:
    return json.dumps({"cniVersion": version, "name": "ilanet", "type": "ilanet", **members}).encode()


async def call(
    network: FakeNetwork, command: str, stdin: bytes, netns: int | None = None, *, inode: int = 1, **environment: str
) -> Reply:
    words = {**ENVIRONMENT, "CNI_COMMAND": command, **environment}
    return await plugin.run(words, stdin, netns, network, inode=lambda _: inode)


def error(reply: Reply) -> dict[str, Any]:
    assert reply.exit_code == 1
    tree: dict[str, Any] = json.loads(reply.stdout)
    assert set(tree) <= {"cniVersion", "code", "msg", "details"}
    return tree


async def test_add_answers_in_version_1_0(network: FakeNetwork, netns: int) -> None:
    """R8: sandbox is the path, interface an index, and no key of a later version."""
    reply = await call(network, "ADD", config(), netns)
    assert reply.exit_code == 0
    assert json.loads(reply.stdout) == {
        "cniVersion": "1.0.0",
        "interfaces": [
            {"name": "ila0123456789ab", "mac": "02:00:00:00:00:01"},
            {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": NETNS},
        ],
        "ips": [{"address": "fd00:a::2000:0:0:1/128", "gateway": "fe80::1", "interface": 1}],
        "routes": [{"dst": "::/0", "gw": "fe80::1"}],
        "dns": {},
    }
    assert network.calls == [
        AddRequest(
            container_id="c0ffee",
            interface="eth0",
            netns=NETNS,
            netns_fd=netns,
            network="ilanet",
            pod=PodName(namespace="shop", name="web-0", uid="a-b-c"),
            keep_address=False,
            limited=False,
            forwarded=False,
        )
    ]


async def test_add_answers_in_version_0_4(network: FakeNetwork, netns: int) -> None:
    """R8: before 1.0 each address says its family."""
    tree = json.loads((await call(network, "ADD", config("0.4.0"), netns)).stdout)
    assert tree["cniVersion"] == "0.4.0"
    assert [item["version"] for item in tree["ips"]] == ["6"]
    assert all("mtu" not in item for item in (*tree["interfaces"], *tree["routes"]))


async def test_add_answers_in_version_1_1(network: FakeNetwork, netns: int) -> None:
    """R8: the MTU of interfaces and routes came with 1.1."""
    tree = json.loads((await call(network, "ADD", config("1.1.0", dns={"search": ["a"]}), netns)).stdout)
    assert tree["cniVersion"] == "1.1.0"
    assert [item["mtu"] for item in tree["interfaces"]] == [1500, 1500]
    assert tree["routes"] == [{"dst": "::/0", "gw": "fe80::1", "mtu": 1500}]
    assert tree["dns"] == {"search": ["a"]}


async def test_add_passes_on_what_earlier_plugins_made(network: FakeNetwork, netns: int) -> None:
    """R14: nothing of prevResult is lost, and our address names our interface."""
    previous = {
        "interfaces": [{"name": "lo", "sandbox": NETNS}],
        "ips": [{"address": "::1/128", "interface": 0}],
        "routes": [{"dst": "fd00::/8"}],
        "dns": {"domain": "x"},
        "extra": 1,
    }
    tree = json.loads((await call(network, "ADD", config(prevResult=previous), netns)).stdout)
    assert [item["name"] for item in tree["interfaces"]] == ["lo", "ila0123456789ab", "eth0"]
    assert [item["interface"] for item in tree["ips"]] == [0, 2]
    assert [item["dst"] for item in tree["routes"]] == ["fd00::/8", "::/0"]
    assert (tree["dns"], tree["extra"]) == ({"domain": "x"}, 1)


async def test_a_namespace_that_is_gone_is_code_8_and_named(network: FakeNetwork) -> None:
    """The executable could not open it, so it sent no descriptor: ADD and CHECK fail, nothing is asked of the agent."""
    for command in ("ADD", "CHECK"):
        tree = error(await call(network, command, config(prevResult={})))
        assert tree["code"] == Code.INVALID_NAMESPACE
        assert NETNS in tree["msg"]
    assert network.calls == []


async def test_a_plain_file_is_no_namespace(network: FakeNetwork, netns: int) -> None:
    """What the descriptor really is decides, not its path."""
    words = {**ENVIRONMENT, "CNI_COMMAND": "ADD"}
    tree = error(await plugin.run(words, config(), netns, network))
    assert tree["code"] == Code.INVALID_NAMESPACE
    assert "no namespace" in tree["details"]


async def test_a_namespace_of_another_kind_is_refused(network: FakeNetwork) -> None:
    """A pid namespace opens just as well."""
    descriptor = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        words = {**ENVIRONMENT, "CNI_COMMAND": "ADD"}
        tree = error(await plugin.run(words, config(), descriptor, network))
    finally:
        os.close(descriptor)
    assert (tree["code"], tree["details"]) == (Code.INVALID_NAMESPACE, "it is a namespace of another kind")


async def test_the_host_s_own_namespace_is_refused_unless_overridden(network: FakeNetwork, netns: int) -> None:
    """R6, before anything is done."""
    own = Path("/proc/self/ns/net").stat().st_ino
    tree = error(await call(network, "ADD", config(), netns, inode=own))
    assert tree["code"] == Code.INVALID_NAMESPACE
    assert network.calls == []
    assert (await call(network, "ADD", config(), netns, inode=own, CNI_NETNS_OVERRIDE="true")).exit_code == 0


@pytest.mark.parametrize("netns_path", ["", "/run/netns/gone"])
async def test_del_needs_no_namespace(network: FakeNetwork, netns_path: str) -> None:
    """R19: an empty or closed CNI_NETNS, no prevResult: success, and nothing on stdout."""
    assert await call(network, "DEL", config(), CNI_NETNS=netns_path) == Reply(0, b"")
    assert network.calls == [DelRequest(container_id="c0ffee", interface="eth0")]


async def test_check_compares_what_add_said(network: FakeNetwork, netns: int) -> None:
    """R21: the result of ADD, with what later plugins added, still holds."""
    previous = json.loads((await call(network, "ADD", config(), netns)).stdout)
    previous["ips"].append({"address": "192.0.2.1/24"})
    assert await call(network, "CHECK", config(prevResult=previous), netns) == Reply(0, b"")


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({}, Code.INVALID_CONFIG),
        ({"prevResult": {}}, Code.CHECK_FAILED),
        ({"prevResult": {"interfaces": [{"name": "eth0", "sandbox": "/elsewhere"}]}}, Code.CHECK_FAILED),
        ({"prevResult": {"interfaces": [{"name": "eth0", "sandbox": NETNS}]}}, Code.CHECK_FAILED),
        (
            {
                "prevResult": {
                    "interfaces": [{"name": "eth0", "sandbox": NETNS, "mac": "02:00:00:00:00:09"}],
                    "ips": [{"address": "fd00:a::2000:0:0:1/128"}],
                }
            },
            Code.CHECK_FAILED,
        ),
    ],
)
async def test_check_fails_where_add_said_something_else(
    network: FakeNetwork, netns: int, members: dict[str, Any], code: Code
) -> None:
    """Missing prevResult, interface, sandbox, address, or another MAC."""
    assert error(await call(network, "CHECK", config(**members), netns))["code"] == code


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (TryAgain("controller away", "details"), Code.TRY_AGAIN_LATER),
        (AskedWrongly(Code.INTERFACE_EXISTS, "eth0 exists"), Code.INTERFACE_EXISTS),
        (CniError(Code.IO_FAILURE, "disk full"), Code.IO_FAILURE),
    ],
)
async def test_what_the_agent_raises_is_what_the_runtime_reads(
    network: FakeNetwork, netns: int, failure: CniError, code: Code
) -> None:
    """R9: on stdout, in the configuration's version, with the agent's words."""
    for command in ("ADD", "DEL", "CHECK"):
        network.fail_next = failure
        tree = error(await call(network, command, config("1.1.0", prevResult={}), netns))
        assert (tree["code"], tree["msg"], tree["cniVersion"]) == (code, failure.message, "1.1.0")
        assert tree.get("details", "") == failure.details


async def test_a_fault_of_ours_is_an_error_and_logged(
    network: FakeNetwork, netns: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Code 999; the trace stands in the log."""
    network.fail_next = RuntimeError("oops")
    tree = error(await call(network, "ADD", config(), netns))
    assert (tree["code"], tree["details"]) == (Code.INTERNAL, "RuntimeError: oops")
    assert "Traceback" in caplog.text


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        (b'{"cniVersion": "1.0.0"}', "1.0.0"),
        (b"", "1.1.0"),
        (b"nonsense", "1.1.0"),
        (b'{"cniVersion": "0.4.0"}', "0.4.0"),
    ],
)
async def test_version_needs_nothing(network: FakeNetwork, stdin: bytes, version: str) -> None:
    """R11: no other variable, no valid input."""
    reply = await plugin.run({"CNI_COMMAND": "VERSION"}, stdin, None, network)
    assert reply.exit_code == 0
    assert json.loads(reply.stdout) == {"cniVersion": version, "supportedVersions": ["0.4.0", "1.0.0", "1.1.0"]}


@pytest.mark.parametrize(
    ("stdin", "version"),
    [(b"", "1.0.0"), (b'{"cniVersion": "7.0.0"}', "1.0.0"), (b'{"cniVersion": "1.1.0"}', "1.1.0")],
)
async def test_errors_come_in_a_version_that_can_be_read(network: FakeNetwork, stdin: bytes, version: str) -> None:
    """Ours where the asked one is unknown."""
    assert error(await call(network, "ADD", stdin))["cniVersion"] == version


async def test_status_is_the_network_s(network: FakeNetwork) -> None:
    """R24: empty output, or code 50."""
    assert await call(network, "STATUS", config("1.1.0"), CNI_CONTAINERID="", CNI_IFNAME="") == Reply(0, b"")
    network.fail_next = CniError(Code.NOT_AVAILABLE, "not registered")
    assert error(await call(network, "STATUS", config("1.1.0")))["code"] == Code.NOT_AVAILABLE


async def test_gc_names_the_network_and_what_lives(network: FakeNetwork) -> None:
    """R23: empty output; what could not be freed is told."""
    listed = {"cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}]}
    stdin = config("1.1.0", **listed)
    assert await call(network, "GC", stdin, CNI_CONTAINERID="", CNI_IFNAME="", CNI_NETNS="") == Reply(0, b"")
    assert network.calls == [GcRequest(network="ilanet", keep=frozenset({Attached("a", "eth0")}))]
    network.fail_next = CniError(Code.IO_FAILURE, "1 of 2 are not freed")
    assert error(await call(network, "GC", stdin))["code"] == Code.IO_FAILURE


async def test_a_kept_address_needs_a_name(network: FakeNetwork, netns: int) -> None:
    """Without Kubernetes there is nothing a later pod could be recognised by."""
    tree = error(await call(network, "ADD", config(keepAddress=True), netns, CNI_ARGS=""))
    assert tree["code"] == Code.INVALID_CONFIG
    await call(network, "ADD", config(keepAddress=True), netns)
    assert isinstance(network.calls[0], AddRequest)
    assert network.calls[0].keep_address
