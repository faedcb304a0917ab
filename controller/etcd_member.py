# SPDX-License-Identifier: Apache-2.0
"""Beside an etcd member in its pod: gets its certificates and writes its configuration, then keeps them right.

python -m controller.etcd_member --config FILE        for ever
python -m controller.etcd_member --is-ready FILE      exit status 0 once etcd can start: for a probe
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ila import log as ila_log
from ila import settings
from ila.certificates import ETCD, replace
from ila.enrolment import Enroller, Wanted
from ila.settings import Enrolment, setting
from proto import ilanet_pb2 as pb

log = logging.getLogger("controller.etcd_member")

_BACKOFF = (0.5, 1.0, 2.0, 5.0)
_CLIENT, _PEER, _METRICS = 2379, 2380, 2381


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberConfig:
    """Everything a member is told."""

    name: str = setting(settings.text)
    """Of the member: its pod's."""

    directory: Path = setting(settings.file_path)
    """Where certificates and etcd.yaml go; etcd sees it at the same place."""

    data: Path = setting(settings.file_path)
    """Where etcd keeps its data."""

    enrolment: Enrolment = setting(settings.table(Enrolment))
    log: str = setting(ila_log.form, "text")
    """Form of log lines: 'text' or 'json'."""

    def __post_init__(self) -> None:
        """Refuse an enrolment without the authorities: nothing else here has them."""
        if self.enrolment.ca is None:
            raise ValueError("enrolment needs ca")


def render(config: MemberConfig, members: Mapping[str, str]) -> bytes:
    """Return etcd's configuration file (JSON is YAML); ValueError if this member is none of `members`."""
    if config.name not in members:
        raise ValueError(f"{config.name} is none of etcd's members: {', '.join(sorted(members))}")
    own = f"[{members[config.name]}]"
    cluster = ",".join(f"{name}=https://[{address}]:{_PEER}" for name, address in sorted(members.items()))
    directory = config.directory
    secure = {
        "cert-file": str(directory / "server.pem"),
        "key-file": str(directory / "server.key"),
        "trusted-ca-file": str(directory / "ca.pem"),
        "client-cert-auth": True,
    }
    tree = {
        "name": config.name,
        "data-dir": str(config.data / "data"),
        "listen-client-urls": f"https://{own}:{_CLIENT},https://[::1]:{_CLIENT}",
        "advertise-client-urls": f"https://{own}:{_CLIENT}",
        "listen-peer-urls": f"https://{own}:{_PEER}",
        "initial-advertise-peer-urls": f"https://{own}:{_PEER}",
        "listen-metrics-urls": f"http://{own}:{_METRICS}",
        "initial-cluster": cluster,
        "initial-cluster-token": ETCD,
        "initial-cluster-state": "new",
        "auto-compaction-mode": "periodic",
        "auto-compaction-retention": "1h",
        "client-transport-security": secure,
        "peer-transport-security": secure,
        "logger": "zap",
        "log-level": "warn",
        "log-outputs": ["stderr"],
    }
    return json.dumps(tree, indent=1).encode()


async def serve(config: MemberConfig) -> None:
    """Work for ever."""
    ca = config.enrolment.ca
    assert ca is not None  # noqa: S101 - the settings refuse it
    wanted = Wanted(
        purpose=pb.Purpose.PURPOSE_ETCD_MEMBER,
        certificate=config.directory / "server.pem",
        key=config.directory / "server.key",
        authorities=config.directory / "ca.pem",
    )
    enroller = Enroller(settings=config.enrolment, ca=ca, wanted=[wanted])
    said = ""

    def say(reason: str) -> None:
        nonlocal said
        if reason and reason != said:
            log.warning("%s", reason)
        said = reason
        if not reason and enroller.members:
            replace(config.directory / "etcd.yaml", render(config, enroller.members), mode=0o644)

    await enroller.run(say, _BACKOFF)


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="controller.etcd_member", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", type=Path, help="TOML file (controller/etcd_member.py)")
    what.add_argument("--is-ready", type=Path, metavar="FILE", help="tell whether etcd.yaml is there")
    arguments = parser.parse_args()
    if arguments.is_ready:
        return 0 if arguments.is_ready.exists() else 1
    try:
        config = settings.read(MemberConfig, arguments.config)
    except settings.SettingsError as error:
        print(f"etcd_member: {error}", file=sys.stderr)  # noqa: T201 - before there is a log
        return 2
    ila_log.set_up(config.log)
    asyncio.run(serve(config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
