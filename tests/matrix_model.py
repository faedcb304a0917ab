# SPDX-License-Identifier: Apache-2.0
"""A CNI plugin as short as one can be that keeps every rule, in memory: what the suite's own tests break on purpose."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tests.matrix.plugin import Link, Outcome
from tests.matrix.result import convert, members
from tests.matrix.row import VERSIONS, number

_NAMES = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    "GC": ("CNI_PATH",),
    "STATUS": ("CNI_PATH",),
    "VERSION": (),
}
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_LINK = re.compile(r"(?!\.{1,2}$)[^\s/:]{1,15}")
_PREFIX = "fd00:6d6f::"

Key = tuple[str, str]
"""Container id and interface."""


class Refusal(Exception):  # noqa: N818 - says what it is
    """An error object."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.tree = {"code": code, "msg": message, "details": details}


@dataclass(frozen=True, slots=True)
class Held:
    """An attachment."""

    netns: str
    network: str
    address: str
    pod: str
    """What CNI_ARGS call the pod."""


class Model:
    """The plugin, the place that it works in and its daemon, all in one; implements Plugin, Place and Daemon."""

    is_process = True
    search_path = "/nowhere"
    own = "host"

    def __init__(self) -> None:
        self.inside: dict[str, dict[str, Link]] = {self.own: {}}
        self.routed: set[str] = set()
        self.held: dict[Key, Held] = {}
        self.numbers = itertools.count(2)
        self.queue: list[Key] = []
        self.is_away = self.is_frozen = False

    # --- Plugin ---

    def call(self, command: str, environment: Mapping[str, str], stdin: bytes) -> Outcome:
        if not command:
            return Outcome(exit_code=0, stdout=b"", stderr=f"a model; CNI {', '.join(VERSIONS)}".encode())
        seconds = 1.0 if self.is_frozen and command == "STATUS" else 0.0
        try:
            tree = self.answer(command, environment, stdin)
        except Refusal as refusal:
            error = json.dumps({"cniVersion": _version(stdin), **refusal.tree})
            return Outcome(exit_code=1, stdout=error.encode(), seconds=seconds)
        return Outcome(exit_code=0, stdout=json.dumps(tree).encode() if tree else b"", seconds=seconds)

    def answer(self, command: str, environment: Mapping[str, str], stdin: bytes) -> dict[str, Any]:
        if command not in _NAMES:
            raise Refusal(4, f"unknown CNI_COMMAND {command}")
        if missing := [name for name in _NAMES[command] if not environment.get(name)]:
            raise Refusal(4, f"missing: {','.join(missing)}")
        if command == "VERSION":
            return {"cniVersion": VERSIONS[-1], "supportedVersions": list(VERSIONS)}
        key = (environment.get("CNI_CONTAINERID", ""), environment.get("CNI_IFNAME", ""))
        if "CNI_IFNAME" in _NAMES[command] and not (_NAME.fullmatch(key[0]) and _LINK.fullmatch(key[1])):
            raise Refusal(4, f"{key} is no attachment")
        config = self.read(command, stdin)
        if command in ("GC", "STATUS"):
            self.needs_daemon(50)
            return self.collect(config) if command == "GC" else {}
        if command == "DEL":
            self.delete(key, environment)
            return {}
        netns = environment["CNI_NETNS"]
        if command == "ADD":
            self.needs_daemon(11)
            return self.add(key, netns, config, environment)
        self.needs_daemon(11)
        self.check(key, netns, config)
        return {}

    def read(self, command: str, stdin: bytes) -> dict[str, Any]:
        try:
            config: dict[str, Any] = dict(json.loads(stdin or b"nothing").items())
        except (ValueError, AttributeError) as error:
            raise Refusal(6, "no JSON object") from error
        version = config.get("cniVersion", "0.1.0")
        if version not in VERSIONS:
            raise Refusal(1, "incompatible CNI versions", f"{version} is none of {', '.join(VERSIONS)}")
        if command in ("GC", "STATUS") and number(version) < (1, 1, 0):
            raise Refusal(1, f"{command} came with 1.1.0")
        if not _NAME.fullmatch(config.get("name", "")):
            raise Refusal(7, "no network name")
        return config

    def needs_daemon(self, code: int) -> None:
        if self.is_away or self.is_frozen:
            raise Refusal(code, "the daemon is away")

    def add(self, key: Key, netns: str, config: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
        if netns == self.own or netns not in self.inside:
            raise Refusal(8, f"{netns} cannot be a pod's namespace")
        if key[1] in self.inside[netns]:
            raise Refusal(101, f"{key[1]} exists")
        address = self.address()
        mac = f"02:00:00:00:00:{next(self.numbers) % 256:02x}"
        self.inside[netns][key[1]] = Link(mac, 1500, frozenset({address}))
        self.routed.add(netns)
        self.held[key] = Held(netns, config["name"], address, environment.get("CNI_ARGS", ""))
        told = config.get("prevResult") or {}
        links = members(told, "interfaces")
        interface = {"name": key[1], "mac": mac, "mtu": 1500, "sandbox": netns}
        made = {
            **told,
            "interfaces": [*links, {"name": "model0"}, interface],
            "ips": [*members(told, "ips"), {"address": address, "interface": len(links) + 1}],
            "routes": [*members(told, "routes"), {"dst": "::/0"}],
        }
        return convert(made, config["cniVersion"])

    def address(self) -> str:
        return f"{_PREFIX}{next(self.numbers):x}/128"

    def delete(self, key: Key, environment: Mapping[str, str]) -> None:
        assert environment
        if self.is_away:
            self.queue.append(key)
        else:
            self.free(key)

    def free(self, key: Key) -> None:
        held = self.held.pop(key, None)
        if held is not None:
            self.inside.get(held.netns, {}).pop(key[1], None)

    def check(self, key: Key, netns: str, config: Mapping[str, Any]) -> None:
        if "prevResult" not in config:
            raise Refusal(7, "no prevResult")
        held = self.held.get(key)
        if held is None:
            raise Refusal(3, f"{key} is not attached")
        link = self.inside[netns].get(key[1])
        told = [item["address"] for item in members(config["prevResult"], "ips")]
        if link is None or held.address not in link.addresses or held.address not in told or netns not in self.routed:
            raise Refusal(100, f"{key} is not as it was made")

    def collect(self, config: Mapping[str, Any]) -> dict[str, Any]:
        listed = config.get("cni.dev/valid-attachments")
        try:
            kept = {(item["containerID"] + "", item["ifname"] + "") for item in listed}  # type: ignore[union-attr]
        except TypeError as error:
            raise Refusal(7, f"{listed!r} is no list of attachments") from error
        for key, held in list(self.held.items()):
            if held.network == config["name"] and key not in kept:
                self.free(key)
        return {}

    # --- Place ---

    def make(self) -> str:
        netns = f"pod{next(self.numbers)}"
        self.inside[netns] = {}
        return netns

    def remove(self, netns: str) -> None:
        self.inside.pop(netns, None)

    def links(self, netns: str) -> Mapping[str, Link]:
        return self.inside[netns]

    def add_link(self, netns: str, name: str, address: str = "") -> None:
        self.inside[netns][name] = Link("02:00:00:00:00:01", 1500, frozenset({address} if address else ()))

    def remove_link(self, netns: str, name: str) -> None:
        del self.inside[netns][name]

    def remove_address(self, netns: str, name: str, address: str) -> None:
        link = self.inside[netns][name]
        self.inside[netns][name] = replace(link, addresses=link.addresses - {address})

    def remove_routes(self, netns: str) -> None:
        self.routed.discard(netns)

    def traces(self, containers: Collection[str]) -> frozenset[str]:
        assert containers is not None
        return frozenset(" ".join(key) for key in self.held)

    # --- Daemon ---

    def stop(self) -> None:
        self.is_away = True

    def start(self) -> None:
        self.is_away = False
        while self.queue:
            self.free(self.queue.pop(0))

    def freeze(self) -> None:
        self.is_frozen = True

    def thaw(self) -> None:
        self.is_frozen = False


def _version(stdin: bytes) -> str:
    try:
        version = str(json.loads(stdin)["cniVersion"])
    except (ValueError, KeyError, TypeError):
        return VERSIONS[0]
    return version if version in VERSIONS else VERSIONS[0]
