# SPDX-License-Identifier: Apache-2.0
"""R13-R18: what ADD owes to others: interfaces that exist, earlier plugins, delegates, other containers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.matrix.plugin import Pod
from tests.matrix.result import convert, members
from tests.matrix.row import Failed, row
from tests.matrix.rows.deleting import LATER, with_later
from tests.matrix.rows.output import own_link
from tests.matrix.trial import Trial

EARLIER = "early0"
EARLIER_ADDRESS = "fd00:6d61:6561::5/64"
_TOGETHER = 8


def earlier(trial: Trial, pod: Pod) -> dict[str, Any]:
    """Make in a pod what a plugin before this one would have made, and return its result."""
    trial.place.add_link(pod.netns, EARLIER, EARLIER_ADDRESS)
    result = {
        "interfaces": [
            {"name": "early-host", "mac": "02:00:00:00:00:01"},
            {"name": EARLIER, "mac": trial.place.links(pod.netns)[EARLIER].mac, "sandbox": pod.netns},
        ],
        "ips": [{"address": EARLIER_ADDRESS, "gateway": "fd00:6d61:6561::1", "interface": 1}],
        "routes": [{"dst": "fd00:6d61:6561::/64"}],
        "dns": {"nameservers": ["fd00:6d61:6561::53"], "domain": "early.example", "search": ["early.example"]},
    }
    return convert(result, trial.version)


def _kept(told: dict[str, Any], result: dict[str, Any], key: str) -> None:
    """See that each member of prevResult's list is in the result."""
    for item in members(told, key):
        same = [other for other in members(result, key) if item.items() <= other.items()]
        if not same:
            raise Failed(f"{key}: {item} of prevResult is lost")


@row("R13", "ADD fails if the interface exists already, and leaves it as it is")
def interface_exists(trial: Trial) -> None:
    pod = trial.pod()
    trial.place.add_link(pod.netns, pod.interface, EARLIER_ADDRESS)
    before = trial.place.links(pod.netns)[pod.interface]
    trial.refuse("ADD where the interface exists", trial.call("ADD", pod))
    if trial.place.links(pod.netns).get(pod.interface) != before:
        raise Failed(f"the foreign interface became {trial.place.links(pod.netns).get(pod.interface)}")


@row("R14", "interfaces and addresses of prevResult are passed on, with the indexes right")
def previous_is_passed_on(trial: Trial) -> None:
    pod = trial.pod()
    told = earlier(trial, pod)
    result = trial.add(pod, config=trial.config(prevResult=told))
    _kept(told, result, "interfaces")
    places = {index: link.get("name") for index, link in enumerate(members(result, "interfaces"))}
    found = {item["address"]: places.get(item.get("interface", -1)) for item in members(result, "ips")}
    if found.get(EARLIER_ADDRESS) != EARLIER:
        raise Failed(f"{EARLIER_ADDRESS} of {EARLIER} became that of {found.get(EARLIER_ADDRESS)}: {result}")
    index, _ = own_link(result, pod)
    if pod.interface not in found.values():
        raise Failed(f"no address has the index {index} of the own interface: {result.get('ips')}")


@row("R14", "routes and dns of prevResult are passed on")
def previous_routes_are_passed_on(trial: Trial) -> None:
    pod = trial.pod()
    told = earlier(trial, pod)
    result = trial.add(pod, config=trial.config(prevResult=told))
    _kept(told, result, "routes")
    for key, value in told["dns"].items():
        if result.get("dns", {}).get(key) != value:
            raise Failed(f"dns of prevResult is {told['dns']}, of the result {result.get('dns')}")


@row("R14", "keys of prevResult that it does not know are passed on")
def unknown_keys_are_passed_on(trial: Trial) -> None:
    pod = trial.pod()
    told = {**earlier(trial, pod), "example.org/extra": {"a": [1]}}
    result = trial.add(pod, config=trial.config(prevResult=told))
    if result.get("example.org/extra") != {"a": [1]}:
        raise Failed("example.org/extra of prevResult is lost")


@row("R14", "after an earlier plugin, CHECK passes with the chain's result and DEL leaves the earlier's interface")
def life_in_a_chain(trial: Trial) -> None:
    pod = trial.pod()
    before = trial.traces()
    trial.add(pod, config=trial.config(prevResult=earlier(trial, pod)))
    trial.check(pod)
    trial.delete(pod)
    trial.gone("after DEL", before)
    if EARLIER not in trial.place.links(pod.netns):
        raise Failed(f"DEL removed {EARLIER}")


@row("R14", "a prevResult without members, or with null for lists, is taken")
def previous_is_empty(trial: Trial) -> None:
    for told in ({}, {"interfaces": None, "ips": None, "routes": None}):
        pod = trial.pod()
        result = trial.add(pod, config=trial.config(prevResult={"cniVersion": trial.version, **told}))
        own_link(result, pod)
        trial.check(pod)


@row("R14", "with an interface of the same name on the host before it, its address still points to the pod's")
def same_name_on_the_host(trial: Trial) -> None:
    pod = trial.pod()
    told = {"interfaces": [{"name": pod.interface, "mac": "02:00:00:00:00:01"}], "ips": [], "routes": [], "dns": {}}
    result = trial.add(pod, config=trial.config(prevResult=convert(told, trial.version)))
    index, _ = own_link(result, pod)
    if {item.get("interface") for item in members(result, "ips")} != {index}:
        raise Failed(f"the pod's interface has index {index}, the addresses are {result.get('ips')}")
    trial.check(pod)


@row("R14", "between an earlier and a later plugin, CHECK passes and DEL frees its own part only")
def between_plugins(trial: Trial) -> None:
    pod = trial.pod()
    before = trial.traces()
    result = trial.add(pod, config=trial.config(prevResult=earlier(trial, pod)))
    config = trial.config(prevResult=with_later(trial, result, pod.netns))
    trial.succeed("CHECK with the chain's final result", trial.call("CHECK", pod, config=config))
    trial.delete(pod, "DEL with the chain's final result", config=config)
    trial.gone("after DEL", before)
    for name in (EARLIER, LATER):
        if name not in trial.place.links(pod.netns):
            raise Failed(f"DEL removed {name}")


def _fails(trial: Trial, what: str, pod: Pod, environment: Mapping[str, str] | None = None) -> None:
    before = trial.traces()
    trial.refuse(what, trial.call("ADD", pod, environment=environment))
    trial.gone(f"after {what}", before)


@row("R15", "ADD that fails leaves nothing: a namespace that is not there")
def namespace_is_missing(trial: Trial) -> None:
    pod = trial.pod()
    _fails(trial, "ADD to a namespace that is not there", pod, environment={"CNI_NETNS": f"{pod.netns}-gone"})


@row("R15", "ADD that fails leaves nothing: a file that is no namespace")
def namespace_is_a_file(trial: Trial) -> None:
    _fails(trial, "ADD to /dev/null", trial.pod(), environment={"CNI_NETNS": "/dev/null"})


@row("R15", "ADD that fails leaves nothing: the interface exists")
def occupied_leaves_nothing(trial: Trial) -> None:
    pod = trial.pod()
    trial.place.add_link(pod.netns, pod.interface)
    _fails(trial, "ADD where the interface exists", pod)


@row("R16", "its delegate is called with DEL before an ADD fails, if the delegate's own ADD failed")
def failing_delegate_is_undone(trial: Trial) -> None:
    pod, delegate = trial.pod(), trial.delegate()
    config, path = trial.delegating(delegate)
    delegate.fail("ADD")
    trial.refuse("ADD with a failing delegate", trial.call("ADD", pod, config=config, environment={"CNI_PATH": path}))
    if delegate.calls() != ["ADD", "DEL"]:
        raise Failed(f"the delegate was called with {', '.join(delegate.calls())}, not with ADD, DEL")


@row("R16", "its delegate is called with DEL before an ADD fails, if something else failed")
def delegate_is_undone(trial: Trial) -> None:
    pod, delegate = trial.pod(), trial.delegate()
    config, path = trial.delegating(delegate)
    trial.place.add_link(pod.netns, pod.interface)
    trial.refuse(
        "ADD where the interface exists", trial.call("ADD", pod, config=config, environment={"CNI_PATH": path})
    )
    if delegate.calls() not in ([], ["ADD", "DEL"]):
        raise Failed(f"the delegate was called with {', '.join(delegate.calls())}")


@row("R17", "a pod's new sandbox is attached beside the old, and the old one's late DEL does it no harm")
def new_sandbox(trial: Trial) -> None:
    old, new = trial.pod(name="web-0"), trial.pod(name="web-0")
    trial.add(old)
    trial.add(new)
    links = dict(trial.place.links(new.netns))
    trial.delete(old, "the old sandbox's DEL")
    if dict(trial.place.links(new.netns)) != links:
        raise Failed(f"the new sandbox had {links}, and has {dict(trial.place.links(new.netns))}")
    trial.check(new, "CHECK of the new sandbox")


@row("R18", f"{_TOGETHER} ADDs and then {_TOGETHER} DELs of different containers at once succeed")
def at_once(trial: Trial) -> None:
    pods = [trial.pod() for _ in range(_TOGETHER)]
    before = trial.traces()
    results = _together(trial.add, pods)
    taken = [item["address"] for result in results for item in members(result, "ips")]
    if len(set(taken)) != len(taken):
        raise Failed(f"an address was given twice: {', '.join(sorted(taken))}")
    _together(trial.delete, pods)
    trial.gone("after all DELs", before)


def _together(call: Callable[[Pod], Any], pods: Sequence[Pod]) -> list[Any]:
    with ThreadPoolExecutor(len(pods)) as pool:
        return list(pool.map(call, pods))
