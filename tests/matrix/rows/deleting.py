# SPDX-License-Identifier: Apache-2.0
"""R19, R20, R28 and R29: DEL succeeds whatever is missing, and frees what ADD took."""

from __future__ import annotations

from typing import Any

from tests.matrix.result import convert, members
from tests.matrix.row import Failed, NotAsked, checked, row
from tests.matrix.trial import Trial

LATER = "later0"
LATER_ADDRESS = "fd00:6d61:6c61::5/64"


@row("R19", "DEL of an attached pod succeeds and leaves nothing")
def plain(trial: Trial) -> None:
    pod = trial.pod()
    before = trial.traces()
    trial.add(pod)
    trial.delete(pod)
    trial.gone("after DEL", before)
    if trial.attached(pod):
        raise Failed(f"the namespace still has {pod.interface}")


@row("R19", "DEL without CNI_NETNS succeeds")
def without_namespace(trial: Trial) -> None:
    pod = trial.pod()
    before = trial.traces()
    trial.add(pod)
    trial.delete(pod, "DEL without CNI_NETNS", lacking=["CNI_NETNS"])
    trial.place.remove(pod.netns)
    trial.gone("after DEL without CNI_NETNS and the namespace's end", before)


@row("R19", "DEL with an empty CNI_NETNS succeeds")
def empty_namespace(trial: Trial) -> None:
    pod = trial.pod()
    trial.add(pod)
    trial.delete(pod, "DEL with an empty CNI_NETNS", environment={"CNI_NETNS": ""})


@row("R19", "DEL of a pod whose namespace is gone succeeds and leaves nothing")
def namespace_is_gone(trial: Trial) -> None:
    pod = trial.pod()
    before = trial.traces()
    trial.add(pod)
    trial.place.remove(pod.netns)
    trial.delete(pod, "DEL after the namespace")
    trial.gone("after DEL", before)


@row("R19", "DEL without prevResult succeeds and leaves nothing")
def without_previous(trial: Trial) -> None:
    pod = trial.pod()
    before = trial.traces()
    trial.add(pod)
    trial.delete(pod, "DEL without prevResult", config=trial.config())
    trial.gone("after DEL without prevResult", before)


@row("R19", "DEL of an unknown container succeeds")
def unknown_container(trial: Trial) -> None:
    pod = trial.pod()
    trial.delete(pod, "DEL of an unknown container")


@row("R19", "DEL succeeds a second time")
def twice(trial: Trial) -> None:
    pod = trial.pod()
    trial.add(pod)
    trial.delete(pod)
    trial.delete(pod, "the second DEL")


@row("R19", "DEL after an ADD that failed succeeds")
def after_a_failed_add(trial: Trial) -> None:
    pod = trial.pod()
    trial.place.add_link(pod.netns, pod.interface)
    trial.refuse("ADD where the interface exists", trial.call("ADD", pod))
    trial.delete(pod, "DEL after a failed ADD")


@row("R19", "DEL of a pod whose interface is gone succeeds and leaves nothing")
def interface_is_gone(trial: Trial) -> None:
    pod = trial.pod()
    before = trial.traces()
    trial.add(pod)
    trial.place.remove_link(pod.netns, pod.interface)
    trial.delete(pod, "DEL after the interface")
    trial.gone("after DEL", before)


@row("R19", "DEL while its daemon is away succeeds, and is done once the daemon is back", once=True)
def daemon_is_away(trial: Trial) -> None:
    known, unknown = trial.pod(), trial.pod()
    before = trial.traces()
    trial.daemon  # noqa: B018 - asks for it before anything is made
    trial.add(known)
    with trial.away():
        trial.delete(known, "DEL with the daemon away")
        trial.delete(known, "the second DEL with the daemon away")
        trial.delete(unknown, "DEL of an unknown container with the daemon away")
    trial.gone("with the daemon back", before)


def with_later(trial: Trial, result: dict[str, Any], netns: str) -> dict[str, Any]:
    """Make in a pod what a plugin after this one would have made, and return the chain's final result."""
    trial.place.add_link(netns, LATER, LATER_ADDRESS)
    links = [*members(result, "interfaces"), {"name": LATER, "sandbox": netns}]
    address = {"address": LATER_ADDRESS, "interface": len(links) - 1}
    final = {
        **result,
        "interfaces": links,
        "ips": [*members(result, "ips"), address],
        "routes": [*members(result, "routes"), {"dst": "fd00:6d61:6c61::/64"}],
        "dns": {**result.get("dns", {}), "search": ["later.example"]},
    }
    return convert(final, trial.version)


@row("R20", "DEL with the final result of a chain succeeds and leaves nothing of its own")
def final_result(trial: Trial) -> None:
    pod = trial.pod()
    before = trial.traces()
    final = with_later(trial, trial.add(pod), pod.netns)
    trial.delete(pod, "DEL with the final result", config=trial.config(prevResult=final))
    trial.gone("after DEL", before)
    if LATER not in trial.place.links(pod.netns):
        raise Failed(f"DEL removed {LATER}, which a later plugin made")


@row("R28", "the network's name ties DEL to ADD: DEL frees all though other members have changed")
def name_is_the_tie(trial: Trial) -> None:
    pod = trial.pod()
    before = trial.traces()
    result = trial.add(pod)
    changed = trial.config(prevResult=result, runtimeConfig={"matrix": 1}, args={"labels": {"later": "yes"}})
    trial.delete(pod, "DEL with other members", config=changed)
    trial.gone("after DEL", before)


def _between(trial: Trial, *, made: str, deleted: str) -> None:
    if made == deleted:
        raise NotAsked("VERSION lists only one of the versions checked")
    pod = trial.pod()
    before = trial.traces()
    result = trial.add(pod, config=trial.config(cniVersion=made))
    config = trial.config(cniVersion=deleted, prevResult=convert(result, deleted))
    trial.delete(pod, f"DEL with {deleted} of what ADD made with {made}", config=config)
    trial.gone("after DEL", before)


@row("R29", "DEL in the oldest version frees what ADD made in the newest", once=True)
def delete_in_an_old_version(trial: Trial) -> None:
    known = checked(trial.supported)
    _between(trial, made=known[-1], deleted=known[0])


@row("R29", "DEL in the newest version frees what ADD made in the oldest", once=True)
def delete_in_a_new_version(trial: Trial) -> None:
    known = checked(trial.supported)
    _between(trial, made=known[0], deleted=known[-1])
