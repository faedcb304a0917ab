# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.matrix import report
from tests.matrix.plugin import Link, Outcome, Subject
from tests.matrix.rows import LEFT_OUT, ROWS
from tests.matrix.suite import Column, Mark, run
from tests.matrix_model import Held, Key, Model, Refusal


class Edited(Model):
    """A model whose every outcome goes through edit() first."""

    def call(self, command: str, environment: Mapping[str, str], stdin: bytes) -> Outcome:
        self.command = command
        return self.edit(super().call(command, environment, stdin))

    def edit(self, outcome: Outcome) -> Outcome:
        raise NotImplementedError


class ErrorsOnStderr(Edited):
    """Most commonly missed 1."""

    def edit(self, outcome: Outcome) -> Outcome:
        return replace(outcome, stdout=b"", stderr=outcome.stdout) if outcome.exit_code else outcome


class ErrorsWithoutVersion(Edited):
    """What the Go library prints."""

    def edit(self, outcome: Outcome) -> Outcome:
        if not outcome.exit_code:
            return outcome
        tree = json.loads(outcome.stdout)
        del tree["cniVersion"]
        return replace(outcome, stdout=json.dumps(tree).encode())


class ErrorsInWords(Edited):
    """No error object at all."""

    def edit(self, outcome: Outcome) -> Outcome:
        return replace(outcome, stdout=b"it failed") if outcome.exit_code else outcome


class OwnCodes(Edited):
    """A code that the specification keeps for itself."""

    def edit(self, outcome: Outcome) -> Outcome:
        return replace(outcome, stdout=outcome.stdout.replace(b'"code": 3', b'"code": 33'))


class HardCodedVersion(Edited):
    """Most commonly missed 2."""

    def edit(self, outcome: Outcome) -> Outcome:
        if self.command != "ADD" or outcome.exit_code:
            return outcome
        return replace(outcome, stdout=json.dumps({**json.loads(outcome.stdout), "cniVersion": "0.3.1"}).encode())


class TalksOnStdout(Edited):
    """A log line before the result."""

    def edit(self, outcome: Outcome) -> Outcome:
        return replace(outcome, stdout=b"removed\n") if self.command == "DEL" and not outcome.exit_code else outcome


class HoldsStdout(Edited):
    """Most commonly missed 15."""

    def edit(self, outcome: Outcome) -> Outcome:
        return replace(outcome, stdout_closed=self.command != "ADD")


class SlowStatus(Edited):
    """Most commonly missed 10."""

    def edit(self, outcome: Outcome) -> Outcome:
        return replace(outcome, seconds=5.0) if self.command == "STATUS" else outcome


class SandboxIsContainer(Model):
    """Most commonly missed 3."""

    def add(self, key: Key, netns: str, config: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
        made = super().add(key, netns, config, environment)
        made["interfaces"][-1]["sandbox"] = key[0]
        return made


class DelNeedsNamespace(Model):
    """Most commonly missed 4."""

    def delete(self, key: Key, environment: Mapping[str, str]) -> None:
        if not environment.get("CNI_NETNS"):
            raise Refusal(4, "missing: CNI_NETNS")
        super().delete(key, environment)


class DelNeedsDaemon(Model):
    """Most commonly missed 5."""

    def delete(self, key: Key, environment: Mapping[str, str]) -> None:
        self.needs_daemon(11)
        super().delete(key, environment)


class DelByPodName(Model):
    """Most commonly missed 6."""

    def delete(self, key: Key, environment: Mapping[str, str]) -> None:
        for other, held in list(self.held.items()):
            if other == key or held.pod == environment.get("CNI_ARGS"):
                super().delete(other, environment)


class DelDoesNothing(Model):
    """Success without effect."""

    def delete(self, key: Key, environment: Mapping[str, str]) -> None:
        """Do nothing."""


class DropsPrevious(Model):
    """Most commonly missed 7."""

    def add(self, key: Key, netns: str, config: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
        return super().add(key, netns, {**config, "prevResult": {}}, environment)


class IndexByName(Model):
    """The first interface of the pod's name is taken for the pod's."""

    def add(self, key: Key, netns: str, config: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
        made = super().add(key, netns, config, environment)
        made["ips"][-1]["interface"] = [link["name"] for link in made["interfaces"]].index(key[1])
        return made


class CheckIsDummy(Model):
    """Most commonly missed 8."""

    def check(self, key: Key, netns: str, config: Mapping[str, Any]) -> None:
        """Do nothing."""


class GcIsSilent(Model):
    """Most commonly missed 9: what the Go library answers for a plugin that has no GC."""

    def collect(self, config: Mapping[str, Any]) -> dict[str, Any]:
        del config  # it looks at nothing
        return {}


class GcFreesOtherNetworks(Model):
    """Most commonly missed 16."""

    def collect(self, config: Mapping[str, Any]) -> dict[str, Any]:
        self.held = {key: replace(held, network=config["name"]) for key, held in self.held.items()}
        return super().collect(config)


class GcLooksAtContainersOnly(Model):
    """The interface of a listed attachment does not matter to it."""

    def collect(self, config: Mapping[str, Any]) -> dict[str, Any]:
        listed = config.get("cni.dev/valid-attachments")
        if isinstance(listed, list) and all(isinstance(item, dict) for item in listed):
            listed = [{**item, "ifname": "eth0"} for item in listed]
        return super().collect({**config, "cni.dev/valid-attachments": listed})


class TakesOver(Model):
    """An interface that exists is replaced."""

    def add(self, key: Key, netns: str, config: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
        self.inside.get(netns, {}).pop(key[1], None)
        return super().add(key, netns, config, environment)


class LeavesHalf(Model):
    """A failed ADD keeps what it had begun."""

    def add(self, key: Key, netns: str, config: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
        try:
            return super().add(key, netns, config, environment)
        except Refusal:
            self.held[key] = Held(netns, config["name"], "", "")
            raise


class OneAddress(Model):
    """Everybody gets the same address."""

    def address(self) -> str:
        return "fd00:6d6f::1/128"


class Lies(Model):
    """The result tells of another MAC address."""

    def add(self, key: Key, netns: str, config: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
        made = super().add(key, netns, config, environment)
        self.inside[netns][key[1]] = Link("02:ff:00:00:00:00", 1500, self.inside[netns][key[1]].addresses)
        return made


_ERRORS = {"R9-errors-on-stdout", "R9-errors-have-a-version", "R10-codes"}
_PREVIOUS = {
    "R14-previous-is-passed-on",
    "R14-previous-routes-are-passed-on",
    "R14-unknown-keys-are-passed-on",
}
_FREES = {"R23-unlisted-is-freed", "R23-unlisted-without-namespace", "R23-empty-list", "R23-other-interface"}

BROKEN: list[tuple[type[Model], set[str]]] = [
    (Model, set()),
    (ErrorsOnStderr, {"R9-errors-on-stdout"}),
    (ErrorsWithoutVersion, {"R9-errors-have-a-version"}),
    (OwnCodes, {"R10-codes"}),
    (HardCodedVersion, {"R8-version-of-the-result"}),
    (TalksOnStdout, {"R9-nothing-else-on-stdout"}),
    (HoldsStdout, {"R12-stdout-is-closed"}),
    (SlowStatus, {f"R24-status{when}" for when in ("", "-while-the-daemon-is-away", "-while-the-daemon-hangs")}),
    (
        SandboxIsContainer,
        {"R8-sandboxes", "R8-addresses", "R8-result-is-true"}
        | {f"R14-{what}" for what in ("previous-is-passed-on", "previous-is-empty", "same-name-on-the-host")},
    ),
    (DelNeedsNamespace, {"R19-without-namespace", "R19-empty-namespace"}),
    (DelNeedsDaemon, {"R19-daemon-is-away", "R25-status-is-no-precondition"}),
    (DelByPodName, {"R17-new-sandbox"}),
    (DropsPrevious, _PREVIOUS),
    (IndexByName, {"R14-same-name-on-the-host"}),
    (GcIsSilent, {*_FREES, "R23-other-network", "R23-list-is-none"}),
    (GcFreesOtherNetworks, {"R23-other-network"}),
    (GcLooksAtContainersOnly, {"R23-other-interface"}),
    (TakesOver, {"R13-interface-exists", "R15-occupied-leaves-nothing", "R19-after-a-failed-add"}),
    (
        LeavesHalf,
        {"R15-namespace-is-missing", "R15-namespace-is-a-file", "R15-occupied-leaves-nothing"},
    ),
    (OneAddress, {"R18-at-once"}),
    (Lies, {"R8-result-is-true"}),
]


def column(model: Model, directory: Path) -> Column:
    subject = Subject(
        name=type(model).__name__,
        plugin=model,
        place=model,
        config={"name": "model", "type": "model"},
        directory=directory,
        daemon=model,
        grace=0.5,
        patience=0,
    )
    return run(subject)


def failed(found: Column) -> dict[str, list[str]]:
    return {finding.row.name: finding.notes() for finding in found.findings if finding.mark is Mark.FAIL}


@pytest.mark.parametrize(("broken", "rows"), BROKEN, ids=[broken.__name__ for broken, _ in BROKEN])
def test_what_is_broken_fails_its_rows(tmp_path: Path, broken: type[Model], rows: set[str]) -> None:
    """A plugin that keeps every rule fails no row; one that breaks a rule fails exactly the rows about it."""
    found = failed(column(broken(), tmp_path))
    assert set(found) == rows, found


def test_dummies_fail_many_rows(tmp_path: Path) -> None:
    """A CHECK that looks at nothing, a DEL that does nothing and errors in words: seen wherever they matter."""
    assert {name for name in failed(column(CheckIsDummy(), tmp_path)) if name.startswith("R21")} == {
        "R21-without-interface",
        "R21-without-address",
        "R21-without-routes",
        "R21-another-address",
        "R21-without-previous-result",
        "R21-after-del",
    }
    idle = {name for name in failed(column(DelDoesNothing(), tmp_path)) if not name.startswith(("R23", "R21"))}
    assert idle == {
        "R14-life-in-a-chain",
        "R14-between-plugins",
        "R18-at-once",
        "R19-plain",
        "R19-without-namespace",
        "R19-namespace-is-gone",
        "R19-without-previous",
        "R19-interface-is-gone",
        "R19-daemon-is-away",
        "R20-final-result",
        "R28-name-is-the-tie",
        "R29-delete-in-an-old-version",
        "R29-delete-in-a-new-version",
    }
    assert set(failed(column(ErrorsInWords(), tmp_path))) >= _ERRORS


def test_a_plugin_of_old_versions_is_not_asked_the_new_rules(tmp_path: Path) -> None:
    """GC and STATUS of a plugin without 1.1.0 are neither passed nor failed, and the report says why."""

    class Old(Edited):
        def edit(self, outcome: Outcome) -> Outcome:
            return replace(outcome, stdout=outcome.stdout.replace(b', "1.1.0"', b""))

    found = {finding.row.name: finding for finding in column(Old(), tmp_path).findings}
    for row in ROWS:
        if row.since == "1.1.0":
            assert found[row.name].mark is Mark.NOT_ASKED
            assert found[row.name].notes() == ["VERSION lists nothing from 1.1.0 on"]
    assert set(found["R8-addresses"].answers) == {"0.4.0", "1.0.0"}


def test_reports(tmp_path: Path) -> None:
    """Terminal, JSON and Markdown tell of every row; the page has the failures' words and what is left out."""
    good, bad = column(Model(), tmp_path), column(DelNeedsNamespace(), tmp_path)
    page = report.markdown([good, bad], head="# Matrix").splitlines()
    table = [line for line in page if line.startswith("| R")]
    assert [line.split(" | ")[0].removeprefix("| ") for line in table] == [row.rule for row in ROWS]
    assert "| R19 | DEL without CNI_NETNS succeeds | pass | **FAIL** |" in table
    assert any("missing: CNI_NETNS" in line for line in page)
    assert sum(line.startswith("- ") and line[2:].partition(":")[0] in LEFT_OUT for line in page) == len(LEFT_OUT)
    tree = json.loads(json.dumps(report.tree([good, bad])))
    assert [len(plugin["rows"]) for plugin in tree["plugins"]] == [len(ROWS), len(ROWS)]
    assert tree["plugins"][1]["counts"]["FAIL"] == 2
    lines = [report.line(finding) for finding in bad.findings]
    assert any(line.startswith("R19  FAIL  DEL without CNI_NETNS succeeds\n") for line in lines)
    assert "2 failed" in report.summary(bad)
