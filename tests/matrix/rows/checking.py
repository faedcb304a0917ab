# SPDX-License-Identifier: Apache-2.0
"""R21 and R22: CHECK sees what is missing, bears with later plugins, and is quick."""

from __future__ import annotations

import statistics

from tests.matrix.plugin import Pod
from tests.matrix.result import members
from tests.matrix.row import Failed, NotAsked, row
from tests.matrix.rows.deleting import with_later
from tests.matrix.trial import Trial

_TRY_AGAIN = 11
_TIMES = 5


@row("R21", "CHECK passes right after ADD")
def right_after_add(trial: Trial) -> None:
    pod = trial.pod()
    trial.add(pod)
    trial.check(pod)


def _refused(trial: Trial, what: str, pod: Pod) -> None:
    trial.refuse(f"CHECK {what}", trial.call("CHECK", pod, config=trial.previous(pod)))


@row("R21", "CHECK fails if the interface is missing")
def without_interface(trial: Trial) -> None:
    pod = trial.pod()
    trial.add(pod)
    trial.place.remove_link(pod.netns, pod.interface)
    _refused(trial, "without the interface", pod)


@row("R21", "CHECK fails if an address is missing")
def without_address(trial: Trial) -> None:
    pod = trial.pod()
    address = members(trial.add(pod), "ips")[0]["address"]
    trial.place.remove_address(pod.netns, pod.interface, address)
    _refused(trial, "without the address", pod)


@row("R21", "CHECK fails if the routes are missing")
def without_routes(trial: Trial) -> None:
    pod = trial.pod()
    if not members(trial.add(pod), "routes"):
        raise NotAsked("the result of ADD lists no routes")
    trial.place.remove_routes(pod.netns)
    _refused(trial, "without the routes", pod)


@row("R21", "CHECK fails if prevResult has another address than the pod")
def another_address(trial: Trial) -> None:
    pod = trial.pod()
    result = trial.add(pod)
    wrong = [{**item, "address": "fd00:6d61:7777::7/128"} for item in members(result, "ips")]
    config = trial.config(prevResult={**result, "ips": wrong})
    trial.refuse("CHECK of another address", trial.call("CHECK", pod, config=config))


@row("R21", "CHECK passes after a later plugin has added an interface, an address and a route")
def after_a_later_plugin(trial: Trial) -> None:
    pod = trial.pod()
    final = with_later(trial, trial.add(pod), pod.netns)
    outcome = trial.call("CHECK", pod, config=trial.config(prevResult=final))
    trial.succeed("CHECK with the chain's final result", outcome)


@row("R21", "CHECK without prevResult fails")
def without_previous_result(trial: Trial) -> None:
    pod = trial.pod()
    trial.add(pod)
    trial.refuse("CHECK without prevResult", trial.call("CHECK", pod, config=trial.config()))


@row("R21", "CHECK fails after DEL")
def after_del(trial: Trial) -> None:
    pod = trial.pod()
    trial.add(pod)
    trial.delete(pod)
    _refused(trial, "after DEL", pod)


@row("R21", "CHECK asks its delegate, and fails if that one does")
def delegate_is_checked(trial: Trial) -> None:
    pod, delegate = trial.pod(), trial.delegate()
    config, path = trial.delegating(delegate)
    previous = {**config, "prevResult": trial.add(pod, config=config, environment={"CNI_PATH": path})}
    trial.succeed("CHECK", trial.call("CHECK", pod, config=previous, environment={"CNI_PATH": path}))
    if delegate.calls() != ["ADD", "CHECK"]:
        raise Failed(f"the delegate was called with {', '.join(delegate.calls())}")
    delegate.fail("CHECK")
    trial.refuse(
        "CHECK with a failing delegate", trial.call("CHECK", pod, config=previous, environment={"CNI_PATH": path})
    )


@row("R21", "CHECK while its daemon is away: code 11", once=True)
def check_while_the_daemon_is_away(trial: Trial) -> None:
    pod = trial.pod()
    trial.daemon  # noqa: B018 - asks for it before anything is made
    trial.add(pod)
    with trial.away():
        outcome = trial.call("CHECK", pod, config=trial.previous(pod))
        trial.refuse("CHECK with the daemon away", outcome, _TRY_AGAIN)


@row("R22", "how long CHECK takes (CRI-O runs it after every ADD)", once=True, judged=False)
def duration(trial: Trial) -> str:
    pod = trial.pod()
    trial.add(pod)
    return f"{statistics.median(trial.check(pod).seconds for _ in range(_TIMES)) * 1000:.1f} ms"
