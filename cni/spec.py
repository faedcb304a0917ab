# SPDX-License-Identifier: Apache-2.0
"""What a runtime asks, read from environment and standard input and checked whole; pure, for cni and the agent.

The rules are those of containernetworking/cni SPEC.md 1.1.0 and of its pkg/skel.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from ila.annotations import ADDRESS, KEEP_ADDRESS

VERSIONS = ("0.4.0", "1.0.0", "1.1.0")
"""Supported cniVersions, oldest first; cni/shim/shim.h repeats them, and a test compares."""

USUAL_VERSION = "1.0.0"
"""To answer in where the configuration does not say what was asked."""

_ANNOTATIONS = "io.kubernetes.cri.pod-annotations"
_VALID_ATTACHMENTS = "cni.dev/valid-attachments"
_NO_VERSION = "0.1.0"
_LONGEST_ID = 200
"""Characters of a container id: it is part of file names (255 bytes) and interface aliases (255 bytes)."""

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_INTERFACE = re.compile(r"[^\s/:\0]{1,15}")
_POD_NAME = re.compile(r"[a-z0-9]([a-z0-9.\-]{0,251}[a-z0-9])?")
_POD_UID = re.compile(r"[a-zA-Z0-9\-]{1,128}")


class Code(enum.IntEnum):
    """Error codes of the specification, and ours from 100."""

    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2
    UNKNOWN_CONTAINER = 3
    INVALID_ENVIRONMENT = 4
    IO_FAILURE = 5
    DECODING_FAILURE = 6
    INVALID_CONFIG = 7
    INVALID_NAMESPACE = 8
    TRY_AGAIN_LATER = 11
    NOT_AVAILABLE = 50
    CHECK_FAILED = 100
    INTERFACE_EXISTS = 101
    REFUSED = 102
    INTERNAL = 999


class CniError(Exception):
    """What the runtime is told instead of a result."""

    def __init__(self, code: Code, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details


class AskedWrongly(CniError):  # noqa: N818 - says who erred
    """The request is wrong: repeating it will not help."""


class TryAgain(CniError):  # noqa: N818 - says what to do
    """The world failed: the same request may succeed later."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(Code.TRY_AGAIN_LATER, message, details)


class Command(enum.Enum):
    """What CNI_COMMAND may be."""

    ADD = "ADD"
    DEL = "DEL"
    CHECK = "CHECK"
    GC = "GC"
    STATUS = "STATUS"
    VERSION = "VERSION"


_ATTACHMENT = ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH")
_REQUIRED: Mapping[Command, tuple[str, ...]] = {
    Command.ADD: _ATTACHMENT,
    Command.CHECK: _ATTACHMENT,
    Command.DEL: ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    Command.GC: ("CNI_PATH",),
    Command.STATUS: ("CNI_PATH",),
    Command.VERSION: (),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PodName:
    """Who the sandbox belongs to, as CNI_ARGS say."""

    namespace: str
    """Empty without Kubernetes."""

    name: str
    """Empty without Kubernetes."""

    uid: str
    """Without Kubernetes: the container id."""


class Attached(NamedTuple):
    """A container's interface, as the runtime knows an attachment."""

    container_id: str
    interface: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The network configuration on standard input."""

    version: str
    name: str
    dns: Mapping[str, Any] | None
    keep_address: bool
    limited: bool
    """runtimeConfig asks for a bandwidth limit, which the `bandwidth` plugin after ours will set."""

    forwarded: bool
    """runtimeConfig asks for ports of the host, which the `portmap` plugin after ours will forward."""

    previous: Mapping[str, Any] | None
    """prevResult, with interfaces, ips and routes known to be lists of objects."""

    attachments: frozenset[Attached]
    """What the runtime still has of this network; only GC gives it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One checked request of a runtime; what its command does not need may be empty."""

    command: Command
    container_id: str
    interface: str
    netns: str
    override: bool
    """CNI_NETNS_OVERRIDE: the pod's namespace may be the agent's own."""

    pod: PodName
    config: Config


def parse_command(environment: Mapping[str, str]) -> Command:
    """Return the command and see that its variables are there; CniError 4 names every missing one."""
    text = environment.get("CNI_COMMAND", "")
    if not text:
        raise AskedWrongly(Code.INVALID_ENVIRONMENT, "required env variables [CNI_COMMAND] missing")
    try:
        command = Command(text)
    except ValueError:
        raise AskedWrongly(Code.INVALID_ENVIRONMENT, f"unknown CNI_COMMAND: {text!r}") from None
    missing = [name for name in _REQUIRED[command] if not environment.get(name)]
    if missing:
        raise AskedWrongly(Code.INVALID_ENVIRONMENT, f"required env variables [{','.join(missing)}] missing")
    return command


def parse(environment: Mapping[str, str], stdin: bytes) -> Request:
    """Return the request in environment and standard input; CniError says which part is wrong."""
    command = parse_command(environment)
    container_id = environment.get("CNI_CONTAINERID", "")
    interface = environment.get("CNI_IFNAME", "")
    if "CNI_CONTAINERID" in _REQUIRED[command]:
        _check_container_id(container_id)
    if "CNI_IFNAME" in _REQUIRED[command]:
        check_interface(interface)
    return Request(
        command=command,
        container_id=container_id,
        interface=interface,
        netns=environment.get("CNI_NETNS", ""),
        override=environment.get("CNI_NETNS_OVERRIDE", "").upper() in ("1", "TRUE"),
        pod=_pod(environment.get("CNI_ARGS", ""), container_id if command is Command.ADD else ""),
        config=parse_config(stdin, command),
    )


def _check_container_id(text: str) -> None:
    if not _NAME.fullmatch(text) or len(text) > _LONGEST_ID:
        raise AskedWrongly(
            Code.INVALID_ENVIRONMENT,
            f"CNI_CONTAINERID {_quoted(text)} is no container id",
            f"it must match {_NAME.pattern} and have at most {_LONGEST_ID} characters",
        )


def check_interface(text: str) -> None:
    """Refuse what cannot be an interface's name."""
    if not _INTERFACE.fullmatch(text) or text in (".", "..") or len(text.encode(errors="surrogateescape")) > 15:
        raise AskedWrongly(
            Code.INVALID_ENVIRONMENT,
            f"CNI_IFNAME {_quoted(text)} is no interface name",
            "it must have 1 to 15 bytes, without '/', ':' and white space, and not be '.' or '..'",
        )


def _pod(arguments: str, container_id: str) -> PodName:
    """Return the pod that CNI_ARGS name; only ADD (which gives a container id) asks for it."""
    if not container_id:
        return PodName(namespace="", name="", uid="")
    found = {}
    for pair in filter(None, arguments.split(";")):
        key, separator, value = pair.partition("=")
        if not separator:
            raise AskedWrongly(Code.INVALID_ENVIRONMENT, f"CNI_ARGS has {_quoted(pair)}, which is not KEY=VALUE")
        found[key] = value
    for key, pattern in (
        ("K8S_POD_NAMESPACE", _POD_NAME),
        ("K8S_POD_NAME", _POD_NAME),
        ("K8S_POD_UID", _POD_UID),
    ):
        if found.get(key) and not pattern.fullmatch(found[key]):
            raise AskedWrongly(Code.INVALID_ENVIRONMENT, f"CNI_ARGS has {key}={_quoted(found[key])}, which is no name")
    namespace, name = found.get("K8S_POD_NAMESPACE", ""), found.get("K8S_POD_NAME", "")
    if bool(namespace) != bool(name):
        raise AskedWrongly(
            Code.INVALID_ENVIRONMENT,
            "CNI_ARGS has only one of K8S_POD_NAMESPACE and K8S_POD_NAME",
            f"namespace {namespace!r}, name {name!r}",
        )
    return PodName(namespace=namespace, name=name, uid=found.get("K8S_POD_UID") or container_id)


def decode(stdin: bytes) -> dict[str, Any]:
    """Return the JSON object on standard input; CniError 6 says why there is none."""
    try:
        tree = json.loads(stdin, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise AskedWrongly(Code.DECODING_FAILURE, "network configuration is not JSON", str(error)) from error
    if not isinstance(tree, dict):
        raise AskedWrongly(Code.DECODING_FAILURE, f"network configuration is a JSON {_kind(tree)}, not an object")
    return tree


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def parse_config(stdin: bytes, command: Command) -> Config:
    """Return the configuration; CniError 6 for what does not decode, 1 for the version, 7 for the rest."""
    tree = decode(stdin)
    version = _member(tree, "cniVersion", str, _NO_VERSION) or _NO_VERSION
    if version not in VERSIONS:
        raise AskedWrongly(
            Code.INCOMPATIBLE_VERSION,
            "incompatible CNI versions",
            f"config is {version!r}, plugin supports {', '.join(VERSIONS)}",
        )
    if command in (Command.GC, Command.STATUS) and version != "1.1.0":
        raise AskedWrongly(
            Code.INCOMPATIBLE_VERSION, f"{command.value} is not part of CNI {version}", "it came with 1.1.0"
        )
    name = _member(tree, "name", str, "")
    if not _NAME.fullmatch(name):
        what = f"network name {_quoted(name)} is wrong" if name else "network configuration has no name"
        raise AskedWrongly(Code.INVALID_CONFIG, what, f"it must match {_NAME.pattern}")
    return Config(
        version=version,
        name=name,
        dns=_member(tree, "dns", dict, None),
        keep_address=_keep_address(tree),
        limited=_limited(tree),
        forwarded=bool(_member(_member(tree, "runtimeConfig", dict, None) or {}, "portMappings", list, None)),
        previous=_previous(tree),
        attachments=_attachments(tree) if command is Command.GC else frozenset(),
    )


def _keep_address(tree: dict[str, Any]) -> bool:
    configured = bool(_member(tree, "keepAddress", bool, default=False))
    runtime = _member(tree, "runtimeConfig", dict, None) or {}
    annotations = _member(runtime, _ANNOTATIONS, dict, None) or {}
    text = annotations.get(KEEP_ADDRESS, "true" if configured else "false")
    if text not in ("true", "false"):
        raise AskedWrongly(
            Code.INVALID_CONFIG, f"annotation {KEEP_ADDRESS} is {_quoted(str(text))}", "it must be 'true' or 'false'"
        )
    return bool(text == "true") or ADDRESS in annotations


def _limited(tree: dict[str, Any]) -> bool:
    """Tell whether the runtime asks for a limit.

    containerd writes IngressRate (go-cni v1.1, types.go: BandWidth has no JSON names) where the conventions say
    ingressRate; plugins in Go, whose decoder does not mind the case, take both.
    """
    runtime = _member(tree, "runtimeConfig", dict, None) or {}
    bandwidth = _member(runtime, "bandwidth", dict, None) or {}
    rates = [name for name in bandwidth if name.lower() in ("ingressrate", "egressrate")]
    return any(_member(bandwidth, name, int, 0) for name in rates)


def _previous(tree: dict[str, Any]) -> dict[str, Any] | None:
    previous: dict[str, Any] | None = _member(tree, "prevResult", dict, None)
    if previous is None:
        return None
    for key in ("interfaces", "ips", "routes"):
        for item in _member(previous, key, list, None) or []:
            if not isinstance(item, dict):
                raise AskedWrongly(Code.DECODING_FAILURE, f"prevResult.{key} holds a JSON {_kind(item)}, not an object")
    return previous


def _attachments(tree: dict[str, Any]) -> frozenset[Attached]:
    """Return the attachments that GC must keep.  A missing list would free everything, so it is refused."""
    if _VALID_ATTACHMENTS not in tree:
        raise AskedWrongly(Code.INVALID_CONFIG, f"GC needs {_VALID_ATTACHMENTS!r}, which is missing")
    found = set()
    for item in _member(tree, _VALID_ATTACHMENTS, list, None) or []:
        if not isinstance(item, dict):
            raise AskedWrongly(
                Code.DECODING_FAILURE, f"{_VALID_ATTACHMENTS!r} holds a JSON {_kind(item)}, not an object"
            )
        attached = Attached(_member(item, "containerID", str, ""), _member(item, "ifname", str, ""))
        if not all(attached):
            raise AskedWrongly(
                Code.INVALID_CONFIG,
                f"{_VALID_ATTACHMENTS!r} holds {_quoted(json.dumps(item))}",
                "each must have a containerID and an ifname",
            )
        found.add(attached)
    return frozenset(found)


def _member(tree: dict[str, Any], key: str, kind: type, default: Any) -> Any:  # noqa: ANN401 - JSON
    value = tree.get(key)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise AskedWrongly(Code.DECODING_FAILURE, f"{key!r} is a JSON {_kind(value)}: {_quoted(json.dumps(value))}")
    return value


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return names[type(value)]


def _quoted(text: str) -> str:
    return repr(text) if len(text) <= 80 else f"{text[:80]!r}... ({len(text)} characters)"
