# SPDX-License-Identifier: Apache-2.0
"""R1-R3 and R6: what the environment must hold, and what a plugin says when it does not."""

from __future__ import annotations

import re

from tests.matrix.row import Failed, row
from tests.matrix.trial import Trial

_ADD = ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH")
_DEL = ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH")
_ENVIRONMENT = 4
_NAMESPACE = 8
_WRONG_IDS = ("../../etc/passwd", "-begins-with-a-dash", ".hidden", "two words", "a/b")
_WRONG_NAMES = ("a/b", "a:b", "two words", ".", "..", "sixteen-letters-")


def _lacks(trial: Trial, command: str, names: tuple[str, ...]) -> None:
    for name in names:
        what = f"{command} without {name}"
        outcome = trial.call(command, trial.pod(), config=trial.config(prevResult={}), lacking=[name])
        error = trial.refuse(what, outcome, _ENVIRONMENT)
        if name not in f"{error.get('msg')} {error.get('details')}":
            raise Failed(f"{what} does not name it: {outcome.words()}")


@row("R1", "ADD without a required variable: code 4, and the variable is named")
def add_lacks_a_variable(trial: Trial) -> None:
    _lacks(trial, "ADD", _ADD)


@row("R1", "CHECK without a required variable: code 4, and the variable is named")
def check_lacks_a_variable(trial: Trial) -> None:
    _lacks(trial, "CHECK", _ADD)


@row("R1", "DEL without a required variable: code 4, and the variable is named")
def del_lacks_a_variable(trial: Trial) -> None:
    _lacks(trial, "DEL", _DEL)


@row("R1", "ADD without any variable: code 4, all of them named, separated by commas")
def add_lacks_all(trial: Trial) -> None:
    outcome = trial.call("ADD", lacking=["CNI_PATH"])
    error = trial.refuse("ADD without variables", outcome, _ENVIRONMENT)
    text = f"{error.get('msg')} {error.get('details')}"
    if not set(_ADD) <= set(re.findall(r"CNI_[A-Z]+", text)) or not re.search(r"CNI_\w+\s*,\s*CNI_\w+", text):
        raise Failed(f"it does not name {', '.join(_ADD)}: {outcome.words()}")


@row("R1", "GC and STATUS without CNI_PATH: code 4", since="1.1.0")
def node_commands_lack_the_path(trial: Trial) -> None:
    for command in ("GC", "STATUS"):
        config = trial.config(**{"cni.dev/valid-attachments": []})
        outcome = trial.call(command, config=config, lacking=["CNI_PATH"])
        trial.refuse(f"{command} without CNI_PATH", outcome, _ENVIRONMENT)


@row("R1", "ADD without CNI_ARGS succeeds")
def add_without_arguments(trial: Trial) -> None:
    pod = trial.pod()
    trial.succeed("ADD without CNI_ARGS", trial.call("ADD", pod, lacking=["CNI_ARGS"]))


@row("R2", "a CNI_CONTAINERID that is no container id: code 4")
def container_id_is_checked(trial: Trial) -> None:
    pod = trial.pod()
    for text in _WRONG_IDS:
        outcome = trial.call("ADD", pod, environment={"CNI_CONTAINERID": text})
        trial.refuse(f"ADD of {text!r}", outcome, _ENVIRONMENT)
    for command in ("DEL", "CHECK"):
        config = trial.config(prevResult={})
        outcome = trial.call(command, pod, config=config, environment={"CNI_CONTAINERID": _WRONG_IDS[0]})
        trial.refuse(f"{command} of {_WRONG_IDS[0]!r}", outcome, _ENVIRONMENT)


@row("R2", "a CNI_IFNAME that is no interface's name: code 4")
def interface_is_checked(trial: Trial) -> None:
    pod = trial.pod()
    for text in _WRONG_NAMES:
        trial.refuse(f"ADD as {text!r}", trial.call("ADD", pod, environment={"CNI_IFNAME": text}), _ENVIRONMENT)


@row("R2", "GC and STATUS take an empty CNI_CONTAINERID and CNI_IFNAME", since="1.1.0")
def node_commands_take_empty_names(trial: Trial) -> None:
    empty = {"CNI_CONTAINERID": "", "CNI_NETNS": "", "CNI_IFNAME": "", "CNI_ARGS": ""}
    trial.succeed("STATUS", trial.call("STATUS", environment=empty))
    trial.succeed("GC", trial.collect(environment=empty))


@row("R3", "an unknown CNI_COMMAND: code 4", once=True)
def unknown_command(trial: Trial) -> None:
    for command in ("DANCE", "add"):
        trial.refuse(command, trial.call(command, trial.pod()), _ENVIRONMENT)


@row("R3", "without CNI_COMMAND: what it is and its versions on stderr, exit 0", once=True, process=True)
def no_command(trial: Trial) -> None:
    outcome = trial.succeed("a call without CNI_COMMAND", trial.call("", stdin=b""))
    if outcome.stdout:
        raise Failed(f"it prints on stdout: {outcome.words()}")
    if trial.supported[-1] not in outcome.stderr.decode(errors="replace"):
        raise Failed(f"it does not tell its versions: {outcome.words()}")


@row("R6", "ADD to the plugin's own namespace: code 8")
def own_namespace(trial: Trial) -> None:
    pod = trial.pod(own=True)
    trial.refuse("ADD to the own namespace", trial.call("ADD", pod), _NAMESPACE)


@row("R6", "with CNI_NETNS_OVERRIDE=1 or TRUE the own namespace is no error in itself")
def own_namespace_overridden(trial: Trial) -> None:
    pod = trial.pod(own=True)
    for text in ("1", "TRUE"):
        for command in ("CHECK", "DEL"):
            outcome = trial.call(
                command, pod, config=trial.config(prevResult={}), environment={"CNI_NETNS_OVERRIDE": text}
            )
            if outcome.exit_code and outcome.error().get("code") == _NAMESPACE:
                raise Failed(f"{command} with CNI_NETNS_OVERRIDE={text} gave {outcome.words()}")
