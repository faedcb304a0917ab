# SPDX-License-Identifier: Apache-2.0
"""The lab's command line, behind `make demo`, `make up`, `make down`, `make shell` and `make status`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from types import FrameType

from lab.cluster import Cluster
from lab.demo import DemoError, Story, pod_places, tell
from lab.namespace import NETNS, CommandError, Namespace
from lab.process import ProcessError
from lab.progress import progress
from lab.runtime import CniError
from lab.standing import addresses, alone, faults

NAMES = {"up": "ilanet", "demo": "ilademo"}
"""The networks' own names: a demo never touches what `make up` has left; neither name begins as the other does."""

_ERRORS = (CommandError, CniError, ProcessError, DemoError, OSError)
_INTERRUPTED = 130
_HOW_TO_USE = "up: `make shell POD=pod1a` enters a pod, `make status` asks every agent, `make down` ends it"


def _say(text: str) -> None:
    print(text, flush=True)


def _demo(name: str) -> int:
    """Run the demo; whatever happens, leave nothing behind."""
    story = Story(_say)
    cluster = Cluster(name=name, say=story.prepare)
    return _with_cluster(cluster, story, lambda: tell(cluster, story), stays=False)


def _up(name: str) -> int:
    """Bring the network up and leave it running; one that is up and well stays as it is."""
    story = Story(_say)
    cluster = Cluster(name=name, say=story.prepare)

    def add_pods() -> None:
        story.prepare("six pods")
        for pod, host in pod_places(cluster.hosts):
            _say(f"{pod} on {host.name}: {cluster.pod(pod, host).address}")
        _say(_HOW_TO_USE)

    if cluster.leftovers():
        wrong = faults(cluster)
        if not wrong:
            _say(f"network {name!r} is up already and well; nothing was changed")
            for pod, address in addresses(cluster).items():
                _say(f"{pod}: {address}")
            _say(_HOW_TO_USE)
            return 0
        _say(f"network {name!r} is there but not whole; it is taken down and brought up anew, for:")
        _list(wrong)
    return _with_cluster(cluster, story, add_pods, stays=True)


def _with_cluster(cluster: Cluster, story: Story, work: Callable[[], None], *, stays: bool) -> int:
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
            _say(f"\nFAILED at {story.now!r}: {error}")
        finally:
            _ignore_interruptions()
    except KeyboardInterrupt:
        status = _INTERRUPTED
        _say(f"\ninterrupted at {story.now!r}")
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


def _down(name: str) -> int:
    """Take the network down; none is no error."""
    cluster = Cluster(name=name)
    if not cluster.leftovers():
        _say(f"network {name!r} is not up")
        return 0
    _ignore_interruptions()
    return bool(_take_down(cluster))


def _shell(name: str, pod: str) -> int:
    """Run a shell in a pod."""
    namespace = Namespace(f"{name}-{pod}")
    if not pod.startswith("pod") or not namespace.path.exists():
        known = sorted(path.name.removeprefix(f"{name}-") for path in NETNS.glob(f"{name}-pod*"))
        _say(f"there is no pod {pod!r}" if pod else "which pod?")
        _say(f"make shell POD=NAME with NAME one of: {', '.join(known)}" if known else "there is none; run make up")
        return 2
    shell = os.environ.get("SHELL", "/bin/bash")
    return subprocess.call([*namespace.prefix, "env", f"PS1={pod}# ", shell])


def _status(name: str) -> int:
    """Print what every agent says of itself, and what is wrong with the whole."""
    cluster = Cluster(name=name)
    if not cluster.leftovers():
        _say(f"network {name!r} is not up; run make up")
        return 1
    for host in cluster.recall():
        with contextlib.suppress(OSError):  # named below
            _say(f"{host.name}: {json.dumps(cluster.status(host), indent=1)}")
    wrong = faults(cluster, patience=0)
    _say("wrong:" if wrong else "nothing is wrong")
    _list(wrong)
    return bool(wrong)


def _list(sentences: list[str]) -> None:
    for sentence in sentences:
        _say(f"  - {sentence}")


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="lab", description="A whole ilanet on one machine.")
    parser.add_argument("command", choices=["demo", "up", "down", "shell", "status"])
    parser.add_argument("pod", nargs="?", default="")
    parser.add_argument("--name", help="prefix of all namespaces; the demo has one of its own")
    arguments = parser.parse_args()
    name = arguments.name or NAMES.get(arguments.command, NAMES["up"])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if arguments.command == "shell":
            return _shell(name, arguments.pod)
        if arguments.command == "status":
            return _status(name)
        with alone(name):
            return {"demo": _demo, "up": _up, "down": _down}[arguments.command](name)
    except _ERRORS as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        _say("\ninterrupted")
        return _INTERRUPTED


if __name__ == "__main__":
    raise SystemExit(main())
