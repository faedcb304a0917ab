# SPDX-License-Identifier: Apache-2.0
"""R4, R5 and R7: what the network configuration must be, and which of its keys a plugin must take."""

from __future__ import annotations

from tests.matrix.row import VERSIONS, Failed, number, row
from tests.matrix.trial import Trial

_VERSION = 1
_FIELD = 2
_DECODING = 6
_CONFIG = 7


@row("R4", "a configuration that is no JSON object: code 6")
def not_json(trial: Trial) -> None:
    pod = trial.pod()
    for stdin in (b"", b"{", b"nonsense", b"[]"):
        for command in ("ADD", "DEL"):
            trial.refuse(f"{command} with {stdin!r}", trial.call(command, pod, stdin=stdin), _DECODING)


@row("R4", "a configuration without a network name: code 7")
def no_name(trial: Trial) -> None:
    pod = trial.pod()
    config = trial.config()
    config.pop("name", None)
    trial.refuse("ADD without a name", trial.call("ADD", pod, config=config), _CONFIG)
    trial.refuse("ADD with an empty name", trial.call("ADD", pod, config={**config, "name": ""}), _CONFIG)


@row("R4", "a network name with letters that it may not have: code 7")
def wrong_name(trial: Trial) -> None:
    pod = trial.pod()
    for name in ("a/b", "-a", "two words", "."):
        trial.refuse(f"ADD to {name!r}", trial.call("ADD", pod, config=trial.config(name=name)), _CONFIG)


@row("R4", "a cniVersion that the plugin does not support: code 1 with details", once=True)
def unknown_version(trial: Trial) -> None:
    pod = trial.pod()
    for command in ("ADD", "DEL", "CHECK"):
        outcome = trial.call(command, pod, config=trial.config(cniVersion="9.9.9", prevResult={}))
        if not trial.refuse(f"{command} with 9.9.9", outcome, _VERSION).get("details"):
            raise Failed(f"{command}: the error has no details: {outcome.words()}")


@row("R4", "no cniVersion means 0.1.0: code 1 unless VERSION lists it", once=True)
def no_version(trial: Trial) -> None:
    pod = trial.pod()
    config = trial.config()
    del config["cniVersion"]
    outcome = trial.call("ADD", pod, config=config)
    if "0.1.0" not in trial.supported:
        trial.refuse("ADD without a cniVersion", outcome, _VERSION)
    elif outcome.exit_code or outcome.tree().get("cniVersion") != "0.1.0":
        raise Failed(f"ADD without a cniVersion: {outcome.words()}")


@row("R5", "CHECK before 0.4.0: code 1", once=True)
def check_of_an_old_version(trial: Trial) -> None:
    config = trial.config(cniVersion="0.3.1", prevResult={"cniVersion": "0.3.1"})
    trial.refuse("CHECK with 0.3.1", trial.call("CHECK", trial.pod(), config=config), _VERSION)


@row("R5", "GC and STATUS before 1.1.0: code 1", since="1.1.0", once=True)
def node_commands_of_an_old_version(trial: Trial) -> None:
    older = [version for version in VERSIONS if version in trial.supported and number(version) < (1, 1, 0)]
    for version in older or ["1.0.0"]:
        config = trial.config(cniVersion=version, **{"cni.dev/valid-attachments": []})
        for command in ("GC", "STATUS"):
            trial.refuse(f"{command} with {version}", trial.call(command, config=config), _VERSION)


@row("R7", "runtimeConfig, args and cni.dev/ keys are taken")
def reserved_keys(trial: Trial) -> None:
    reserved = {"runtimeConfig": {"matrix": {"a": 1}}, "args": {"labels": {"a": "b"}}, "cni.dev/matrix": "x"}
    trial.add(trial.pod(), config=trial.config(**reserved))


@row("R7", "an unknown key is taken, or refused with code 2 that names key and value")
def unknown_key(trial: Trial) -> None:
    outcome = trial.call("ADD", trial.pod(), config=trial.config(matrixUnknown="matrix-value"))
    if outcome.exit_code:
        trial.refuse("ADD with an unknown key", outcome, _FIELD)
        if "matrixUnknown" not in outcome.words() or "matrix-value" not in outcome.words():
            raise Failed(f"the error does not name key and value: {outcome.words()}")
