# SPDX-License-Identifier: Apache-2.0
"""Settings files: TOML read into a frozen dataclass, every key known, every value parsed; for agent and controller.

A parser is a function that takes what TOML gave and returns the value, or raises ValueError saying what it
must be; `read` adds the file, the key and the offending text.
`${NAME}` in a text stands for an environment variable, so that the pods of all nodes share one file.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from ila.address import Locator

_NODE = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_DEVICE = re.compile(r"[^\s/:]{1,15}")
_VARIABLE = re.compile(r"\$\{([^}]*)\}")

_NO_SERVICE = (
    ": there was no such Service when this pod started; make it, which takes a cluster with IPv6, and delete this pod"
)

T = TypeVar("T")


class SettingsError(ValueError):
    """The settings are wrong; the message names the file, the key and the text."""


def setting(parse: Callable[[object], T], default: Any = MISSING) -> Any:  # noqa: ANN401 - as dataclasses.field
    """Return a dataclass field that `parse` reads; without a default the key must be there."""
    if default is MISSING:
        return field(metadata={"parse": parse})
    return field(default=default, metadata={"parse": parse})


def read(kind: type[T], path: Path, environment: Mapping[str, str] = os.environ) -> T:
    """Return the settings in a TOML file as a `kind`; SettingsError names file, key and text."""
    try:
        return table(kind)(_filled(tomllib.loads(path.read_text()), environment))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: {error}") from error


def _filled(value: object, environment: Mapping[str, str]) -> object:
    """Return a value with the environment's variables in place of `${NAME}`; ValueError names one that is not set."""
    if isinstance(value, dict):
        return {key: _filled(item, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, environment) for item in value]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        found = environment.get(match[1])
        if found is None:
            why = _NO_SERVICE if match[1].endswith("_SERVICE_HOST") else ""
            raise ValueError(f"{value!r}: the environment has no variable {match[1]!r}{why}")
        return found

    return _VARIABLE.sub(variable, value)


def table(kind: type[T]) -> Callable[[object], T]:
    """Return the parser of a TOML table into a dataclass made of setting() fields."""

    def parse(value: object) -> T:
        if not isinstance(value, dict):
            raise ValueError("must be a table")
        known: dict[str, Field[Any]] = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
        for key in value:
            if key not in known:
                raise ValueError(f"key {key!r} is unknown: one of {', '.join(known)}")
        values = {}
        for name, item in known.items():
            if name in value:
                try:
                    values[name] = item.metadata["parse"](value[name])
                except ValueError as error:
                    raise ValueError(f"key {name!r}: {value[name]!r}: {error}") from error
            elif item.default is MISSING:
                raise ValueError(f"key {name!r} is missing")
        return kind(**values)

    return parse


def text(value: object) -> str:
    """Parse a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError("must be a text that is not empty")
    return value


def texts(value: object) -> tuple[str, ...]:
    """Parse a list of texts."""
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ValueError("must be a list of texts")
    return tuple(value)


def flag(value: object) -> bool:
    """Parse true or false."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def integer(low: int, high: int) -> Callable[[object], int]:
    """Return the parser of a whole number within bounds, both included."""

    def parse(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return parse


def seconds(value: object) -> float:
    """Parse a duration in seconds, above 0 and at most a day."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 86400:
        raise ValueError("must be a number of seconds above 0, at most 86400")
    return float(value)


def file_path(value: object) -> Path:
    """Parse an absolute path."""
    path = Path(text(value))
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


def node_name(value: object) -> str:
    """Parse a node's name: what Kubernetes allows."""
    if not _NODE.fullmatch(text(value)):
        raise ValueError("must be a DNS name in lower case of at most 253 characters")
    return str(value)


def device_names(value: object) -> tuple[str, ...]:
    """Parse a list of names of network interfaces."""
    names = texts(value)
    for name in names:
        if not _DEVICE.fullmatch(name) or name in (".", ".."):
            raise ValueError(f"{name!r} is no interface name")
    return names


def address(value: object) -> ipaddress.IPv6Address:
    """Parse an IPv6 address, or the first one of a list with commas (Kubernetes' status.hostIPs)."""
    found = [ipaddress.ip_address(item.strip()) for item in text(value).split(",")]
    for item in found:
        if isinstance(item, ipaddress.IPv6Address):
            return item
    raise ValueError("has no IPv6 address: ilanet needs nodes with one, as in a cluster with IPv6 or both families")


def ipv4_network(value: object) -> ipaddress.IPv4Network:
    """Parse a network of IPv4 with room for a pod: its first address is a gateway's."""
    network = ipaddress.IPv4Network(text(value))
    if network.prefixlen > 30 or network.is_multicast or network.is_loopback or network.is_unspecified:
        raise ValueError("must be a network of unicast addresses, a /30 or shorter")
    return network


def locator(value: object) -> Locator:
    """Parse a locator written as a /64."""
    return Locator.parse(text(value))


def endpoint(value: object) -> str:
    """Parse 'address:port' or '[address]:port'."""
    host, _, port = text(value).rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("is not 'address:port' or '[address]:port'")
    return str(value)


def endpoints(value: object) -> tuple[str, ...]:
    """Parse a list of at least one endpoint."""
    found = tuple(endpoint(item) for item in texts(value))
    if not found:
        raise ValueError("must name at least one endpoint")
    return found


def is_loopback(place: str) -> bool:
    """Tell whether an endpoint's host is a loopback address (or 'localhost')."""
    host = place.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """Where a pod of ilanet gets its certificates, against its service account's token (controller/enrolment.py)."""

    endpoints: tuple[str, ...] = setting(endpoints)
    """'[address]:port' of every replica; any will do."""

    token: Path = setting(file_path)
    """The token, of audience 'ilanet'; read again for every request, since the kubelet replaces it."""

    authority: str = setting(text, "ilanet-controller")
    """A name in every replica's certificate."""

    ca: Path | None = setting(file_path, None)
    """PEM file of the authorities that may have signed it; none: that of the controllers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """How to reach a server (controller or etcd): mutual TLS, or plaintext on loopback."""

    endpoints: tuple[str, ...] = setting(endpoints)
    """'[address]:port' of every replica; any will do."""

    authority: str = setting(text, "")
    """A name in every replica's certificate; empty only without TLS."""

    ca: Path | None = setting(file_path, None)
    """PEM file of the authority that signed the servers' certificates."""

    certificate: Path | None = setting(file_path, None)
    """PEM file of our certificate; read again when it changes."""

    key: Path | None = setting(file_path, None)
    """PEM file of the certificate's private key."""

    insecure: bool = setting(flag, default=False)
    """Plaintext; refused unless every endpoint is a loopback address."""

    def __post_init__(self) -> None:
        """Refuse a peer that is neither wholly TLS nor plaintext on loopback."""
        secure = (self.authority, self.ca, self.certificate, self.key)
        if not self.insecure and not all(secure):
            raise ValueError("needs authority, ca, certificate and key (or insecure = true on loopback)")
        if self.insecure and any(secure):
            raise ValueError("insecure = true contradicts authority, ca, certificate and key")
        for place in self.endpoints:
            if self.insecure and not is_loopback(place):
                raise ValueError(f"insecure = true is for loopback only; {place!r} is not")
