# SPDX-License-Identifier: Apache-2.0
"""The lab's command line, behind `make demo`, `make up`, `make down`, `make shell` and `make status`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from types import FrameType

from lab.cluster import STATE, Cluster
from lab.demo import DemoError, Story, tell
from lab.namespace import NETNS, CommandError, Namespace
from lab.process import ProcessError
from lab.progress import progress
from lab.runtime import CniError

_ERRORS = (CommandError, CniError, ProcessError, DemoError, OSError)
_INTERRUPTED = 130


def _say(text: str) -> None:
    print(text, flush=True)


def _demo(name: str) -> int:
    """Run the demo; whatever happens, leave nothing behind."""
    cluster = Cluster(name=name, say=progress)
    return _with_cluster(cluster, lambda: tell(cluster, Story(_say)), stays=False)


def _up(name: str) -> int:
    """Bring the demo network up and leave it running."""
    cluster = Cluster(name=name, say=progress)

    def add_pods() -> None:
        for number, host in enumerate(cluster.hosts, start=1):
            for letter in "ab":
                pod = cluster.pod(f"pod{number}{letter}", host)
                _say(f"{pod.name} on {host.name}: {pod.address}")
        _say("up: `make shell POD=pod1a` enters a pod, `make status` asks every agent, `make down` ends it")

    return _with_cluster(cluster, add_pods, stays=True)


def _with_cluster(cluster: Cluster, work: Callable[[], None], *, stays: bool) -> int:
    """Bring a cluster up, work with it, and take it down; return the exit status.

    stays: it is left running once the work is done; an error or an interruption leaves nothing behind all the same.
    """
    status = 1
    try:
        try:
            _heed_one_interruption()
            cluster.start()
            work()
            status = 0
        except _ERRORS as error:
            _say(f"\nFAILED: {error}")
        finally:
            _ignore_interruptions()
    except KeyboardInterrupt:
        status = _INTERRUPTED
        _say("\ninterrupted")
    finally:
        left = [] if stays and not status else _take_down(cluster)
    return status or bool(left)


def _take_down(cluster: Cluster) -> list[str]:
    """Remove a cluster, say so, and return what is left of it."""
    _say("")
    progress("taking everything down")
    cluster.close()
    left = cluster.leftovers()
    progress(f"LEFT BEHIND: {', '.join(left)}" if left else "nothing is left: no process, namespace, mount or file")
    return left


def _heed_one_interruption() -> None:
    """Let the first SIGINT or SIGTERM raise KeyboardInterrupt and no other: what it sets off must come to its end."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        _ignore_interruptions()
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


def _ignore_interruptions() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


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
    except _ERRORS as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        _say("\ninterrupted")
        return _INTERRUPTED


if __name__ == "__main__":
    raise SystemExit(main())
