# SPDX-License-Identifier: Apache-2.0
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import spec
from cni.spec import AskedWrongly, CniError, Code, Command, PodName
from ila.annotations import ADDRESS, KEEP_ADDRESS

ENVIRONMENT = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c0ffee",
    "CNI_NETNS": "/run/netns/pod",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=a-b-c",
}
CONFIG: dict[str, Any] = {"cniVersion": "1.0.0", "name": "ilanet", "type": "ilanet"}


def parse(config: object = CONFIG, **environment: str) -> spec.Request:
    return spec.parse({**ENVIRONMENT, **environment}, json.dumps(config).encode())


def refused(config: object = CONFIG, **environment: str) -> CniError:
    with pytest.raises(CniError) as caught:
        parse(config, **environment)
    return caught.value


def test_a_request_of_kubernetes_is_read_whole() -> None:
    """Environment, CNI_ARGS and configuration become one value."""
    request = parse({**CONFIG, "dns": {"nameservers": ["fd00::53"]}})
    assert request.command is Command.ADD
    assert (request.container_id, request.interface, request.netns) == ("c0ffee", "eth0", "/run/netns/pod")
    assert request.pod == PodName(namespace="shop", name="web-0", uid="a-b-c")
    assert request.config.dns == {"nameservers": ["fd00::53"]}
    assert not request.config.keep_address
    assert not request.override


def test_without_kubernetes_the_container_is_the_pod() -> None:
    """No CNI_ARGS: the uid is the container id."""
    assert parse(CNI_ARGS="").pod == PodName(namespace="", name="", uid="c0ffee")


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        ("ADD", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"),
        ("CHECK", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"),
        ("DEL", "CNI_CONTAINERID,CNI_IFNAME,CNI_PATH"),
        ("STATUS", "CNI_PATH"),
        ("GC", "CNI_PATH"),
    ],
)
def test_every_missing_variable_is_named(command: str, needed: str) -> None:
    """R1: code 4, one message for all of them, and an empty variable is a missing one."""
    with pytest.raises(AskedWrongly) as caught:
        spec.parse({"CNI_COMMAND": command, "CNI_PATH": ""}, b"{}")
    assert caught.value.code is Code.INVALID_ENVIRONMENT
    assert f"[{needed}]" in caught.value.message


@pytest.mark.parametrize("command", ["", "add", "ADD ", "DELETE"])
def test_an_unknown_command_is_refused(command: str) -> None:
    """R3."""
    assert refused(CNI_COMMAND=command).code is Code.INVALID_ENVIRONMENT


@pytest.mark.parametrize(
    "container_id", ["../../etc", "a/b", "-a", ".a", "a b", "a\n", "ä", "a:b", "x" * 300, "x" * 201, "a\0b"]
)
def test_a_container_id_that_is_none_is_refused(container_id: str) -> None:
    """R2, and no longer than file names and interface aliases allow."""
    for command in ("ADD", "DEL", "CHECK"):
        error = refused(CNI_COMMAND=command, CNI_CONTAINERID=container_id)
        assert error.code is Code.INVALID_ENVIRONMENT
        assert "CNI_CONTAINERID" in error.message
        assert len(error.message) < 200


@pytest.mark.parametrize(
    "interface", ["a/b", "a:b", "a b", "a\t", ".", "..", "sixteencharacter", "x" * 300, "äääääääää", "a\n", "a\u2003b"]
)
def test_an_interface_name_that_is_none_is_refused(interface: str) -> None:
    """R2: the kernel's rule, in bytes."""
    error = refused(CNI_IFNAME=interface)
    assert error.code is Code.INVALID_ENVIRONMENT
    assert "CNI_IFNAME" in error.message


@pytest.mark.parametrize(
    "arguments",
    [
        "K8S_POD_NAME",
        "K8S_POD_NAMESPACE=a;K8S_POD_NAME=../b",
        "K8S_POD_NAMESPACE=a/b;K8S_POD_NAME=b",
        "K8S_POD_NAMESPACE=a;K8S_POD_NAME=" + "b" * 300,
        "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_UID=" + "c" * 300,
        "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_UID=a/b",
        "K8S_POD_NAMESPACE=a",
        "K8S_POD_NAME=b",
    ],
)
def test_pod_names_that_are_none_are_refused(arguments: str) -> None:
    """They become keys of etcd and part of files: code 4 on ADD, while DEL does not look at them."""
    error = refused(CNI_ARGS=arguments)
    assert error.code is Code.INVALID_ENVIRONMENT
    assert "CNI_ARGS" in error.message
    assert parse(CNI_COMMAND="DEL", CNI_ARGS=arguments).container_id == "c0ffee"


@pytest.mark.parametrize(
    "stdin",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"1",
        b"{}x",
        b"\xff\xfe{}",
        b'{"name": "\xff"}',
        b"[" * 100_000,
        b'{"a": NaN}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"cniVersion": 1, "name": "a"}',
        b'{"cniVersion": "1.0.0", "name": ["a"]}',
        b'{"cniVersion": "1.0.0", "name": "a", "dns": []}',
        b'{"cniVersion": "1.0.0", "name": "a", "prevResult": []}',
        b'{"cniVersion": "1.0.0", "name": "a", "prevResult": {"ips": {}}}',
        b'{"cniVersion": "1.0.0", "name": "a", "prevResult": {"interfaces": [null]}}',
        b'{"cniVersion": "1.0.0", "name": "a", "prevResult": {"routes": ["::/0"]}}',
        b'{"cniVersion": "1.0.0", "name": "a", "runtimeConfig": "x"}',
        b'{"cniVersion": "1.0.0", "name": "a", "runtimeConfig": {"io.kubernetes.cri.pod-annotations": 1}}',
        b'{"cniVersion": "1.0.0", "name": "a", "keepAddress": "true"}',
        b'{"cniVersion": "1.0.0", "name": "a", "keepAddress": 1}',
        b'{"cniVersion": "1.0.0", "name": "a", "runtimeConfig": {"bandwidth": 1}}',
        b'{"cniVersion": "1.0.0", "name": "a", "runtimeConfig": {"bandwidth": {"ingressRate": "8"}}}',
    ],
)
def test_input_that_does_not_decode_is_refused(stdin: bytes) -> None:
    """R4: code 6 for what is not JSON, not an object or of the wrong kind."""
    with pytest.raises(AskedWrongly) as caught:
        spec.parse(ENVIRONMENT, stdin)
    assert caught.value.code is Code.DECODING_FAILURE


@pytest.mark.parametrize("name", ["", "../x", "a b", "-a", "a/b", "ä"])
def test_a_network_name_that_is_none_is_refused(name: str) -> None:
    """R4: code 7; also without any name."""
    assert refused({**CONFIG, "name": name}).code is Code.INVALID_CONFIG
    assert refused({"cniVersion": "1.0.0"}).code is Code.INVALID_CONFIG


@pytest.mark.parametrize("version", ["", "0.1.0", "0.3.1", "1.0", "1.2.0", "v1.0.0", "2.0.0"])
def test_a_version_that_we_do_not_speak_is_refused(version: str) -> None:
    """R4: code 1 with both sides' versions in the details; none means 0.1.0."""
    error = refused({**CONFIG, "cniVersion": version})
    assert error.code is Code.INCOMPATIBLE_VERSION
    assert "0.4.0, 1.0.0, 1.1.0" in error.details
    assert (version or "0.1.0") in error.details


@pytest.mark.parametrize("command", ["GC", "STATUS"])
def test_commands_that_came_with_1_1_need_it(command: str) -> None:
    """R5."""
    assert refused(CNI_COMMAND=command).code is Code.INCOMPATIBLE_VERSION
    assert refused({**CONFIG, "cniVersion": "0.4.0"}, CNI_COMMAND=command).code is Code.INCOMPATIBLE_VERSION
    config = {**CONFIG, "cniVersion": "1.1.0", "cni.dev/valid-attachments": []}
    assert parse(config, CNI_COMMAND=command).command.value == command


@pytest.mark.parametrize("listed", [None, []])
def test_gc_with_an_empty_list_keeps_nothing(listed: list[object] | None) -> None:
    """R23: Go writes an empty list as null."""
    config = {**CONFIG, "cniVersion": "1.1.0", "cni.dev/valid-attachments": listed}
    assert parse(config, CNI_COMMAND="GC").config.attachments == frozenset()


def test_gc_keeps_what_is_listed() -> None:
    """R23: by container and interface."""
    listed = [{"containerID": "a", "ifname": "eth0"}, {"containerID": "a", "ifname": "net1", "extra": 1}]
    config = {**CONFIG, "cniVersion": "1.1.0", "cni.dev/valid-attachments": listed}
    assert parse(config, CNI_COMMAND="GC").config.attachments == {("a", "eth0"), ("a", "net1")}
    assert parse(config).config.attachments == frozenset()


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({}, Code.INVALID_CONFIG),
        ({"cni.dev/valid-attachments": {}}, Code.DECODING_FAILURE),
        ({"cni.dev/valid-attachments": ["a"]}, Code.DECODING_FAILURE),
        ({"cni.dev/valid-attachments": [{"containerID": 1, "ifname": "eth0"}]}, Code.DECODING_FAILURE),
        ({"cni.dev/valid-attachments": [{"containerID": "a"}]}, Code.INVALID_CONFIG),
        ({"cni.dev/valid-attachments": [{"ifname": "eth0"}]}, Code.INVALID_CONFIG),
    ],
)
def test_gc_refuses_a_list_that_it_cannot_read_whole(members: dict[str, Any], code: Code) -> None:
    """What is not understood might be an attachment that lives: nothing is freed."""
    assert refused({**CONFIG, "cniVersion": "1.1.0", **members}, CNI_COMMAND="GC").code is code


@pytest.mark.parametrize(("configured", "annotation"), [("", "true"), ("true", "false"), ("true", "")])
def test_keeping_the_address_is_asked_for_by_annotation_or_config(configured: str, annotation: str) -> None:
    """The pod's own word wins."""
    annotations = {KEEP_ADDRESS: annotation} if annotation else {}
    runtime = {"io.kubernetes.cri.pod-annotations": {"other": 1, **annotations}}
    request = parse({**CONFIG, "keepAddress": bool(configured), "runtimeConfig": runtime})
    assert request.config.keep_address is ((annotation or configured) == "true")


def test_who_asks_for_an_address_keeps_it() -> None:
    """Whether it may have it, the controller says: it must be asked first."""
    runtime = {"io.kubernetes.cri.pod-annotations": {ADDRESS: "fd00::1", KEEP_ADDRESS: "false"}}
    assert parse({**CONFIG, "runtimeConfig": runtime}).config.keep_address


def test_an_annotation_that_is_neither_true_nor_false_is_refused() -> None:
    """A typing error must not silently give a pod a new address."""
    runtime = {"io.kubernetes.cri.pod-annotations": {KEEP_ADDRESS: "yes"}}
    error = refused({**CONFIG, "runtimeConfig": runtime})
    assert error.code is Code.INVALID_CONFIG
    assert "'yes'" in error.message


@pytest.mark.parametrize(
    ("bandwidth", "limited"),
    [
        *(
            (None, False),
            ({}, False),
            ({"ingressRate": 0}, False),
            ({"ingressRate": 8}, True),
            ({"egressRate": 8}, True),
        ),
        ({"IngressRate": 0, "IngressBurst": 0, "EgressRate": 8, "EgressBurst": 9}, True),  # as containerd writes it
    ],
)
def test_a_bandwidth_limit_is_seen(bandwidth: object, limited: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    """The capability that the plugin after ours has too."""
    assert parse({**CONFIG, "runtimeConfig": {"bandwidth": bandwidth}}).config.limited is limited


def test_a_host_port_is_seen() -> None:
    """The capability that the plugin after ours has too."""
    ports = [{"hostPort": 80, "containerPort": 80, "protocol": "tcp"}]
    assert parse({**CONFIG, "runtimeConfig": {"portMappings": ports}}).config.forwarded
    assert not parse({**CONFIG, "runtimeConfig": {"portMappings": []}}).config.forwarded


def test_unknown_keys_are_tolerated() -> None:
    """R7: reserved and foreign keys do not disturb."""
    assert parse({**CONFIG, "args": {}, "cni.dev/x": 1, "capabilities": {}, "future": None}).config.name == "ilanet"


WORDS = st.text(alphabet="a0./:\ud800ä", max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=4,
)


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(("cniVersion", "name", "dns", "prevResult", "runtimeConfig", "keepAddress"), JSON),
    )
)
def test_no_json_does_more_than_be_refused(tree: dict[str, Any]) -> None:
    """Whatever the values are, the outcome is a request or a CniError."""
    with contextlib.suppress(CniError):
        spec.parse(ENVIRONMENT, json.dumps({**CONFIG, **tree}).encode())


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(stdin: bytes) -> None:
    """The same for input that is no JSON."""
    with pytest.raises(CniError):
        spec.parse(ENVIRONMENT, stdin)
