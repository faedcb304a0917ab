# SPDX-License-Identifier: Apache-2.0
"""R8-R12: the form of results and errors, VERSION, and standard output."""

from __future__ import annotations

import ipaddress
from typing import Any

from tests.matrix.plugin import Outcome, Pod
from tests.matrix.result import family, keys, members
from tests.matrix.row import VERSIONS, Failed, number, row
from tests.matrix.trial import Trial

_CODES = {1, 2, 3, 4, 5, 6, 7, 8, 11, 50, 51, 999}
_FIRST_OWN_CODE = 100
_TRY_AGAIN = 11


@row("R8", "the result's cniVersion is the configuration's")
def version_of_the_result(trial: Trial) -> None:
    said = trial.add(trial.pod()).get("cniVersion")
    if said != trial.version:
        raise Failed(f"the result says cniVersion {said!r}")


@row("R8", "the result has no key of another version; ips have `version` in 0.4.0 only")
def keys_of_the_result(trial: Trial) -> None:
    result = trial.add(trial.pod())
    for key, known in keys(trial.version).items():
        for item in members(result, key):
            if unknown := set(item) - known:
                raise Failed(f"{key} has {', '.join(sorted(unknown))}")
    if number(trial.version) < (1, 0, 0):
        for item in members(result, "ips"):
            if item.get("version") != family(item["address"]):
                raise Failed(f"ips: {item['address']} has version {item.get('version')!r}")


def own_link(result: dict[str, Any], pod: Pod) -> tuple[int, dict[str, Any]]:
    """Return the pod's interface in a result, with its index."""
    for index, link in enumerate(members(result, "interfaces")):
        if link.get("name") == pod.interface and link.get("sandbox") == pod.netns:
            return index, link
    raise Failed(f"interfaces has no {pod.interface} in sandbox {pod.netns}: {result.get('interfaces')}")


@row("R8", "the container's interface has CNI_NETNS as sandbox, the host's have none")
def sandboxes(trial: Trial) -> None:
    pod = trial.pod()
    result = trial.add(pod)
    own_link(result, pod)
    for link in members(result, "interfaces"):
        if link.get("sandbox") not in (pod.netns, "", None):
            raise Failed(f"{link.get('name')} has sandbox {link['sandbox']!r}")


@row("R8", "each address has a prefix length, its gateway is one, and its index is the container's interface")
def addresses(trial: Trial) -> None:
    pod = trial.pod()
    result = trial.add(pod)
    index, _ = own_link(result, pod)
    if not members(result, "ips"):
        raise Failed("the result has no addresses")
    for item in members(result, "ips"):
        ipaddress.ip_interface(item["address"])
        if "/" not in item["address"] or item.get("interface") != index:
            raise Failed(f"ips: {item}; the container's interface has index {index}")
        if item.get("gateway"):
            ipaddress.ip_address(item["gateway"])


@row("R8", "routes and dns have the specification's form")
def routes(trial: Trial) -> None:
    result = trial.add(trial.pod())
    for item in members(result, "routes"):
        ipaddress.ip_network(item["dst"])
        if item.get("gw"):
            ipaddress.ip_address(item["gw"])
    if not isinstance(result.get("dns", {}), dict):
        raise Failed(f"dns is {result['dns']!r}")


@row("R8", "what the result says is there: interface, MAC, MTU if told, addresses")
def result_is_true(trial: Trial) -> None:
    pod = trial.pod()
    result = trial.add(pod)
    _, told = own_link(result, pod)
    found = trial.place.links(pod.netns).get(pod.interface)
    if found is None:
        raise Failed(f"the namespace has no {pod.interface}")
    if told.get("mac") and told["mac"].lower() != found.mac:
        raise Failed(f"the result says MAC {told['mac']}, the interface has {found.mac}")
    if told.get("mtu") and told["mtu"] != found.mtu:
        raise Failed(f"the result says MTU {told['mtu']}, the interface has {found.mtu}")
    said = {str(ipaddress.ip_interface(item["address"])) for item in members(result, "ips")}
    if not said <= found.addresses:
        raise Failed(f"the result says {', '.join(said)}, the interface has {', '.join(found.addresses) or 'none'}")


def _errors(trial: Trial) -> list[tuple[str, Outcome]]:
    """Return failing calls of several kinds."""
    pod = trial.pod()
    wrong = [
        (
            "ADD to a namespace that is not there",
            trial.call("ADD", pod, environment={"CNI_NETNS": f"{pod.netns}-gone"}),
        ),
        ("ADD without a name", trial.call("ADD", pod, config=trial.config(name=""))),
        ("ADD of a wrong container id", trial.call("ADD", pod, environment={"CNI_CONTAINERID": "../x"})),
        ("CHECK of an unknown container", trial.call("CHECK", pod, config=trial.config(prevResult={}))),
    ]
    for what, outcome in wrong:
        trial.refuse(what, outcome)
    return wrong


@row("R9", "an error is an object on stdout with `code` and `msg`, and nothing else is there")
def errors_on_stdout(trial: Trial) -> None:
    for what, outcome in _errors(trial):
        try:
            tree = outcome.tree()
        except ValueError:
            raise Failed(f"{what}: stdout is {outcome.stdout[:200]!r}") from None
        if not tree.get("msg") or set(tree) - {"cniVersion", "code", "msg", "details"}:
            raise Failed(f"{what}: the error is {tree}")


@row("R9", "an error has cniVersion, the configuration's")
def errors_have_a_version(trial: Trial) -> None:
    for what, outcome in _errors(trial):
        error = outcome.error()
        if error.get("cniVersion") != trial.version:
            said = f"cniVersion {error['cniVersion']!r}" if "cniVersion" in error else "no cniVersion"
            raise Failed(f"{what}: the error has {said}")


@row("R9", "ADD prints its result and nothing else, CHECK and DEL print nothing")
def nothing_else_on_stdout(trial: Trial) -> None:
    pod = trial.pod()
    trial.add(pod)
    for command in ("CHECK", "DEL"):
        outcome = trial.call(command, pod, config=trial.previous(pod))
        if not outcome.exit_code and outcome.stdout.strip():
            raise Failed(f"{command} prints {outcome.stdout[:200]!r}")


@row("R10", "error codes are the specification's, or its own from 100")
def codes(trial: Trial) -> None:
    for what, outcome in _errors(trial):
        code = outcome.error()["code"]
        if type(code) is not int or (code not in _CODES and code < _FIRST_OWN_CODE):
            raise Failed(f"{what}: code {code!r}")


@row("R10", "ADD while its daemon is away: code 11, try again later", once=True)
def add_while_the_daemon_is_away(trial: Trial) -> None:
    pod = trial.pod()
    with trial.away():
        trial.refuse("ADD with the daemon away", trial.call("ADD", pod), _TRY_AGAIN)


def _versions(trial: Trial, what: str, outcome: Outcome) -> list[str]:
    tree = trial.succeed(what, outcome).tree()
    listed = tree.get("supportedVersions")
    if not isinstance(tree.get("cniVersion"), str) or not isinstance(listed, list) or not listed:
        raise Failed(f"{what} gave {tree}")
    return listed


@row("R11", "VERSION tells cniVersion and supportedVersions, among them one of those checked here", once=True)
def version(trial: Trial) -> None:
    listed = _versions(trial, "VERSION", trial.call("VERSION"))
    if not set(listed) & set(VERSIONS):
        raise Failed(f"it supports {', '.join(listed)}")


@row("R11", "VERSION needs no input, no name and no other variable", once=True)
def version_needs_nothing(trial: Trial) -> None:
    _versions(trial, "VERSION without input", trial.call("VERSION", stdin=b"", lacking=["CNI_PATH"]))
    _versions(trial, "VERSION without a name", trial.call("VERSION", stdin=b'{"cniVersion": "1.0.0"}'))


@row("R12", "stdout and stderr are closed when it ends", process=True)
def stdout_is_closed(trial: Trial) -> None:
    pod = trial.pod()
    outcomes = [("VERSION", trial.call("VERSION")), ("ADD", trial.call("ADD", pod))]
    outcomes.append(("DEL", trial.call("DEL", pod)))
    for what, outcome in outcomes:
        if not outcome.stdout_closed or outcome.timed_out:
            raise Failed(f"{what}: {'it did not end' if outcome.timed_out else 'something keeps them open'}")
