# SPDX-License-Identifier: Apache-2.0
"""Sysctls that ilanet changes, with what they were before on disk; for agent/kernel/host.py."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from agent.core.network import NetworkError
from agent.core.ports import Records

ROOT = Path("/proc/sys")
"""Where sysctls are, for who is not in a container."""

_CONF = "net/ipv6/conf"
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_RECORD = "sysctls"
FORWARDING = f"{_CONF}/all/forwarding"
IPV4_FORWARDING = "net/ipv4/ip_forward"


def read(root: Path, name: str) -> str | None:
    """Return the value of a sysctl, named as its path below `root`; None if there is none."""
    try:
        return (root / name).read_text().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NetworkError(f"sysctl {name}: {error.strerror}") from error


def write(root: Path, name: str, value: str) -> None:
    """Set a sysctl; NetworkError names it."""
    try:
        (root / name).write_text(value)
    except OSError as error:
        raise NetworkError(f"sysctl {name} = {value}: {error.strerror}") from error


def wanted(root: Path, underlay: Iterable[str], *, ipv4: bool = False) -> dict[str, str]:
    """Return what has to change, in order: turning forwarding on deletes routes learnt where accept_ra is 1.

    ipv4: it is to be forwarded too.
    """
    changes = {}
    for device in underlay:
        name = f"{_CONF}/{device}/accept_ra"
        if read(root, name) == "1":
            changes[name] = "2"
    if read(root, FORWARDING) != "1":
        changes[FORWARDING] = "1"
    if ipv4 and read(root, IPV4_FORWARDING) != "1":
        changes[IPV4_FORWARDING] = "1"
    return changes


class SavedSysctls:
    """Changes sysctls, and remembers durably, before the first change, what they were in this boot."""

    def __init__(self, *, records: Records, root: Path) -> None:
        self._records = records
        self._root = root

    def apply(self, changes: Mapping[str, str]) -> None:
        """Save what is not saved yet, then set them in the given order."""
        if not changes:
            return
        before = self._load()
        for name in changes:
            # the kernel copies `all` to `default` and to every interface
            copies = sorted(f"{_CONF}/{path.name}/forwarding" for path in (self._root / _CONF).iterdir())
            for affected in [name, *copies] if name == FORWARDING else [name]:
                value = read(self._root, affected)
                if value is not None:
                    before.setdefault(affected, value)
        record = {"boot": _boot(), "before": before}
        self._records.save(_RECORD, json.dumps(record, indent=1).encode())
        for name, value in changes.items():
            write(self._root, name, value)

    def restore(self) -> None:
        """Set everything to what it was before, forwarding first, and forget; a gone interface does not matter."""
        before = self._load()
        for name in sorted(before, key=lambda name: (name != FORWARDING, not name.endswith("/forwarding"), name)):
            value = read(self._root, name)
            if value is not None and value != before[name]:
                write(self._root, name, before[name])
        self._records.remove(_RECORD)

    def _load(self) -> dict[str, str]:
        raw = self._records.load().get(_RECORD)
        if raw is None:
            return {}
        try:
            record = json.loads(raw)
            before = {str(name): str(value) for name, value in record["before"].items()}
            boot = record["boot"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise NetworkError(f"record {_RECORD} of sysctls does not parse: {raw[:300]!r}") from error
        return before if boot == _boot() else {}


def _boot() -> str:
    return _BOOT.read_text().strip()
