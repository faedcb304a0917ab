# SPDX-License-Identifier: Apache-2.0
"""The lab's command line, behind `make demo`, `make up`, `make down`, `make shell` and `make status`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys

from lab.cluster import STATE, Cluster
from lab.demo import DemoError, Story, tell
from lab.namespace import NETNS, CommandError, Namespace
from lab.process import ProcessError
from lab.progress import progress
from lab.runtime import CniError


def _say(text: str) -> None:
    print(text, flush=True)


def _demo(name: str) -> int:
    """Run the demo; whatever happens, leave nothing behind."""
    cluster = Cluster(name=name, say=progress)
    status = 1
    try:
        cluster.start()
        tell(cluster, Story(_say))
        status = 0
    except KeyboardInterrupt:
        _say("\ninterrupted")
        status = 130
    except (CommandError, CniError, ProcessError, DemoError, OSError) as error:
        _say(f"\nFAILED: {error}")
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _say("")
        progress("taking everything down")
        cluster.close()
        left = cluster.leftovers()
        progress(f"LEFT BEHIND: {', '.join(left)}" if left else "nothing is left: no process, namespace, mount or file")
    return status or bool(left)


def _up(name: str) -> int:
    """Bring the demo network up and leave it running."""
    cluster = Cluster(name=name, say=progress)
    try:
        cluster.start()
        for number, host in enumerate(cluster.hosts, start=1):
            for letter in "ab":
                pod = cluster.pod(f"pod{number}{letter}", host)
                _say(f"{pod.name} on {host.name}: {pod.address}")
    except BaseException:
        cluster.close()
        raise
    _say("up: `make shell POD=pod1a` enters a pod, `make status` asks every agent, `make down` ends it")
    return 0


def _shell(name: str, pod: str) -> int:
    """Run a shell in a pod."""
    if not pod:
        known = sorted(path.name.removeprefix(f"{name}-") for path in NETNS.glob(f"{name}-pod*"))
        _say(f"which pod? make shell POD=NAME with NAME one of: {', '.join(known) or 'none; run make up first'}")
        return 2
    namespace = Namespace(f"{name}-{pod}")
    if not namespace.path.exists():
        _say(f"there is no pod {pod!r}; `make up` makes pod1a to pod3b")
        return 1
    shell = os.environ.get("SHELL", "/bin/bash")
    return subprocess.call([*namespace.prefix, "env", f"PS1={pod}# ", shell])


def _status(name: str) -> int:
    """Print what every agent says of itself."""
    cluster = Cluster(name=name)
    for path in sorted((STATE / name).glob("agent-*.toml")):
        host = path.stem.removeprefix("agent-")
        answer = cluster.ask(Namespace(f"{name}-{host}"), "/status")
        _say(f"{host}: {json.dumps(json.loads(answer), indent=1)}")
    return 0


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="lab", description="A whole ilanet on one machine.")
    parser.add_argument("command", choices=["demo", "up", "down", "shell", "status"])
    parser.add_argument("pod", nargs="?", default="")
    parser.add_argument("--name", default="ilanet", help="prefix of all namespaces")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        match arguments.command:
            case "demo":
                return _demo(arguments.name)
            case "up":
                return _up(arguments.name)
            case "down":
                Cluster(name=arguments.name).close()
                return 0
            case "shell":
                return _shell(arguments.name, arguments.pod)
            case _:
                return _status(arguments.name)
    except (CommandError, CniError, ProcessError, OSError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
