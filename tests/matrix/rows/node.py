# SPDX-License-Identifier: Apache-2.0
"""R23-R25: GC frees what the runtime no longer lists, STATUS tells in time whether ADD can be served."""

from __future__ import annotations

from tests.matrix.plugin import Outcome
from tests.matrix.row import Failed, row
from tests.matrix.trial import Trial

_NOT_AVAILABLE = (50, 51)
_BOUND = 1.0
"""Seconds that STATUS may take."""


def _see_kept(trial: Trial, what: str, before: frozenset[str]) -> None:
    """See that nothing was freed."""
    if taken := before - trial.traces():
        raise Failed(f"{what} took {', '.join(sorted(taken))}")


@row("R23", "GC frees an attachment that is not listed, and nothing else", since="1.1.0")
def unlisted_is_freed(trial: Trial) -> None:
    kept, stale = trial.pod(), trial.pod()
    trial.add(kept)
    before = trial.traces()
    trial.add(stale)
    trial.succeed("GC", trial.collect(kept))
    trial.gone("after GC", before)
    trial.check(kept, "CHECK of a listed pod after GC")


@row("R23", "GC frees an attachment whose namespace is gone", since="1.1.0")
def unlisted_without_namespace(trial: Trial) -> None:
    stale = trial.pod()
    before = trial.traces()
    trial.add(stale)
    trial.place.remove(stale.netns)
    trial.succeed("GC", trial.collect())
    trial.gone("after GC", before)


@row("R23", "GC with an empty list frees all of the network", since="1.1.0")
def empty_list(trial: Trial) -> None:
    pods = [trial.pod(), trial.pod()]
    before = trial.traces()
    for pod in pods:
        trial.add(pod)
    trial.succeed("GC", trial.collect())
    trial.gone("after GC", before)


@row("R23", "GC compares container and interface: another interface of a listed container is freed", since="1.1.0")
def other_interface(trial: Trial) -> None:
    stale = trial.pod()
    before = trial.traces()
    trial.add(stale)
    listed = {"containerID": stale.container_id, "ifname": "other0"}
    config = trial.config(**{"cni.dev/valid-attachments": [listed], "cni.dev/attachments": [listed]})
    trial.succeed("GC", trial.call("GC", config=config))
    trial.gone("after GC", before)


@row("R23", "GC leaves other networks' attachments alone", since="1.1.0")
def other_network(trial: Trial) -> None:
    other = trial.pod()
    config = trial.config(name=f"{trial.subject.config['name']}-other")
    trial.add(other, config=config)
    before = trial.traces()
    trial.succeed("GC", trial.collect())
    _see_kept(trial, "GC of this network", before)
    if not trial.attached(other):
        raise Failed("GC of this network removed another network's interface")
    trial.succeed("GC of the other network", trial.collect(config=config))
    if trial.attached(other):
        raise Failed("GC of the other network left its interface")


@row("R23", "GC with nothing to free succeeds, and prints nothing", since="1.1.0")
def nothing_to_free(trial: Trial) -> None:
    kept = trial.pod()
    trial.add(kept)
    before = trial.traces()
    for _ in range(2):
        outcome = trial.succeed("GC", trial.collect(kept))
        if outcome.stdout.strip():
            raise Failed(f"GC prints {outcome.stdout[:200]!r}")
    _see_kept(trial, "GC", before)


@row("R23", "GC with a list that is none fails and frees nothing", since="1.1.0")
def list_is_none(trial: Trial) -> None:
    kept = trial.pod()
    trial.add(kept)
    before = trial.traces()
    for wrong in ("text", [7], [{"containerID": 7, "ifname": "eth0"}]):
        config = trial.config(**{"cni.dev/valid-attachments": wrong, "cni.dev/attachments": wrong})
        trial.refuse(f"GC with {wrong!r}", trial.call("GC", config=config))
        _see_kept(trial, f"GC with {wrong!r}", before)


@row("R23", "GC asks its delegate, and fails if that one does", since="1.1.0")
def delegate_collects(trial: Trial) -> None:
    delegate = trial.delegate()
    config, path = trial.delegating(delegate)
    trial.succeed("GC", trial.collect(config=config, environment={"CNI_PATH": path}))
    if delegate.calls() != ["GC"]:
        raise Failed(f"the delegate was called with {', '.join(delegate.calls()) or 'nothing'}")
    delegate.fail("GC")
    trial.refuse("GC with a failing delegate", trial.collect(config=config, environment={"CNI_PATH": path}))


def _in_time(trial: Trial, what: str, outcome: Outcome) -> None:
    if outcome.timed_out or outcome.seconds > _BOUND + trial.subject.grace:
        raise Failed(f"{what} took {outcome.seconds:.2f} s")


@row("R24", "STATUS succeeds within a second and prints nothing while ADD can be served", since="1.1.0")
def status(trial: Trial) -> None:
    outcome = trial.succeed("STATUS", trial.call("STATUS"))
    _in_time(trial, "STATUS", outcome)
    if outcome.stdout.strip():
        raise Failed(f"it prints {outcome.stdout[:200]!r}")


@row("R24", "STATUS while its daemon is away: code 50 or 51, within a second", since="1.1.0", once=True)
def status_while_the_daemon_is_away(trial: Trial) -> None:
    with trial.away():
        outcome = trial.call("STATUS")
    trial.refuse("STATUS with the daemon away", outcome, *_NOT_AVAILABLE)
    _in_time(trial, "STATUS with the daemon away", outcome)


@row("R24", "STATUS while its daemon hangs: code 50 or 51, within a second", since="1.1.0", once=True)
def status_while_the_daemon_hangs(trial: Trial) -> None:
    with trial.hanging():
        outcome = trial.call("STATUS")
    _in_time(trial, "STATUS with the daemon hanging", outcome)
    trial.refuse("STATUS with the daemon hanging", outcome, *_NOT_AVAILABLE)


@row("R24", "STATUS asks its delegate, and fails if that one does", since="1.1.0")
def delegate_s_status(trial: Trial) -> None:
    delegate = trial.delegate()
    config, path = trial.delegating(delegate)
    trial.succeed("STATUS", trial.call("STATUS", config=config, environment={"CNI_PATH": path}))
    delegate.fail("STATUS")
    trial.refuse("STATUS with a failing delegate", trial.call("STATUS", config=config, environment={"CNI_PATH": path}))


@row("R25", "VERSION and DEL are served while STATUS fails", since="1.1.0", once=True)
def status_is_no_precondition(trial: Trial) -> None:
    pod = trial.pod()
    with trial.away():
        trial.refuse("STATUS with the daemon away", trial.call("STATUS"))
        trial.succeed("VERSION after a failed STATUS", trial.call("VERSION"))
        trial.delete(pod, "DEL after a failed STATUS")
