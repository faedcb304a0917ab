# SPDX-License-Identifier: Apache-2.0
"""What a runtime does when its node has power again; for kinds.py only."""

from __future__ import annotations

import time
from collections.abc import Callable

from lab.fabric import Host
from lab.faults.churn import TRY_AGAIN
from lab.faults.stage import PATIENCE, Stage
from lab.runtime import CniError, Pod


def restart_pods(stage: Stage, host: Host, kept: Pod, left: Pod | None) -> None:
    """Delete the sandboxes that went with the power, and give the same pods new ones."""
    for pod in (kept, left):
        if pod is not None:
            _delete_gone(pod)
    stage.add(kept.name, host, container=f"{kept.container_id}r")
    stage.serve_again(kept.name)
    if left is not None:
        fresh = stage.make(left.name, host, container=f"{left.container_id}r")
        again(fresh.delete)
        stage.drop(fresh.name)


def _delete_gone(pod: Pod) -> None:
    """Delete a sandbox whose namespace is no more."""
    known = {"prevResult": pod.result} if pod.result else {}
    again(lambda: pod.call("DEL", config=known, CNI_NETNS=""))


def again(call: Callable[[], object]) -> None:
    """Call until the answer is no longer 'later'."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            call()
            return
        except CniError as error:
            if error.code != TRY_AGAIN or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
