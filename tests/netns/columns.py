# SPDX-License-Identifier: Apache-2.0
"""The matrix of CNI rows on ilanet and on Debian's ptp and bridge, behind `make matrix`; writes docs/cni-matrix.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.cluster import Cluster
from lab.fabric import Host
from lab.namespace import CommandError, run
from lab.process import SOURCE, ProcessError
from lab.runtime import CONFIG, EXECUTABLE
from tests.matrix import report
from tests.matrix.plugin import Subject
from tests.matrix.rig import RigError, throw_away
from tests.matrix.suite import Column, Finding, Mark
from tests.matrix.suite import run as ask_all

PAGE = SOURCE / "docs/cni-matrix.md"
DEBIAN = Path("/usr/lib/cni")
_PACKAGE = "containernetworking-plugins"

HEAD = """\
# The CNI matrix

Each row asks one thing of a CNI plugin that the specification or a runtime relies on.
It is asked in each cniVersion of 0.4.0, 1.0.0 and 1.1.0 that the plugin lists, and fails if it fails in one of them.
The suite is `tests/matrix`: point it at any plugin with `python -m tests.matrix --plugin FILE --config FILE`.
It needs root, Python 3.11 and iproute2, works in namespaces of its own and leaves the machine's network alone.
This page is written by `make matrix`; `build/matrix.json` then holds every answer.
"n/a" is what cannot be asked of a plugin; it is no pass, and the reasons stand below.

## The rows
"""


def _addresses(subnet: str) -> Mapping[str, Any]:
    return {"type": "host-local", "ranges": [[{"subnet": subnet}]], "routes": [{"dst": "::/0"}]}


PTP: Mapping[str, Any] = {"name": "matrix-ptp", "type": "ptp", "ipam": _addresses("fd00:7074::/64")}
BRIDGE: Mapping[str, Any] = {
    "name": "matrix-bridge",
    "type": "bridge",
    "bridge": "cni0",
    "isGateway": True,
    "ipam": _addresses("fd00:6272::/64"),
}


@dataclass(frozen=True, slots=True)
class Agent:
    """The agent of a cluster's host as the plugin's daemon; implements tests.matrix.plugin.Daemon."""

    cluster: Cluster
    host: Host

    def stop(self) -> None:
        self.cluster.agents[self.host.name].stop()

    def start(self) -> None:
        self.cluster.start_agent(self.host)
        self.cluster.wait_ready()

    def freeze(self) -> None:
        self.cluster.agents[self.host.name].signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.cluster.agents[self.host.name].signal(signal.SIGCONT)


def ilanet(
    undo: ExitStack, cluster: Cluster, *, plugin: Path = EXECUTABLE, grace: float = 0.5, patience: float = 10
) -> Subject:
    """Return ilanet on a running cluster's first host; what was made for it is removed by `undo`."""
    host = cluster.hosts[0]
    return undo.enter_context(
        throw_away(
            plugin=plugin,
            config=CONFIG,
            name="ilanet",
            host=host.namespace.name,
            environment={
                **os.environ,
                "ILANET_SOCKET": str(cluster.socket(host)),
                "ILANET_QUEUE": str(cluster.queue(host)),
            },
            watched=[cluster.directory / host.name / "state"],
            daemon=Agent(cluster, host),
            grace=grace,
            patience=patience,
        )
    )


def one_host() -> Cluster:
    """Return a cluster, not started, that is enough to ask all rows."""
    return Cluster(name=f"matrix-{os.getpid()}", hosts=1, controllers=1)


def _say(finding: Finding) -> None:
    print(report.line(finding), flush=True)


def _columns() -> list[Column]:
    cluster = one_host()
    columns = []
    try:
        cluster.start()
        with ExitStack() as undo:
            columns.append(ask_all(ilanet(undo, cluster), say=_say))
    finally:
        cluster.close()
    version = run("dpkg-query", "-W", "-f", "${Version}", _PACKAGE)
    for config in (PTP, BRIDGE):
        described = {"package": f"Debian's {_PACKAGE} {version}", "configuration": f"`{json.dumps(config)}`"}
        with throw_away(plugin=DEBIAN / config["type"], config=config, described=described) as subject:
            columns.append(ask_all(subject, say=_say))
    for column in columns:
        print(report.summary(column))
    return columns


def main() -> int:
    """Write the page; return 1 if ilanet fails a row."""
    parser = argparse.ArgumentParser(prog="make matrix", description=__doc__)
    parser.add_argument("--json", type=Path, default=SOURCE / "build/matrix.json", help="all answers go there")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        columns = _columns()
    except (RigError, CommandError, ProcessError, OSError) as error:
        print(f"matrix: {error}", file=sys.stderr)
        return 2
    arguments.json.parent.mkdir(exist_ok=True)
    arguments.json.write_text(json.dumps({"kernel": platform.release(), **report.tree(columns)}, indent=1) + "\n")
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(report.markdown(columns, head=HEAD))
    return 1 if columns[0].counts[Mark.FAIL] else 0


if __name__ == "__main__":
    raise SystemExit(main())
