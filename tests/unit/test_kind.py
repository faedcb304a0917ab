# SPDX-License-Identifier: Apache-2.0
"""`make test-kind` without Docker, and with commands in the place of kind and kubectl that note their words."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.kubernetes import kind
from lab.namespace import CommandError

NOTE = '#!/bin/sh\necho "${0##*/} $*" >>"${0%/*}/calls"\n'


def put(folder: Path, fail: str = "nothing") -> None:
    """Put commands there that note what they are called with; one of these words fails."""
    for name in ("docker", "kind", "kubectl"):
        (folder / name).write_text(f'{NOTE}case "$*" in *{fail}*) echo no >&2; exit 1;; esac\n')
        (folder / name).chmod(0o755)


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the one folder on the PATH, empty."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["kind"])
    return tmp_path


@pytest.mark.usefixtures("commands")
def test_without_docker_nothing_is_run_and_that_is_no_pass(capsys: pytest.CaptureFixture[str]) -> None:
    """The status is an error's, and what is printed says what to install."""
    assert kind.main() == 2
    assert "needs a running Docker" in (said := capsys.readouterr().out)
    assert "there is no command 'docker'; nothing was run" in said


def test_without_kind_or_with_a_docker_that_does_not_run(commands: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is named; a cluster is never asked for."""
    put(commands, fail="info")
    assert kind.main() == 2
    assert "docker info: exit 1: no; nothing was run" in capsys.readouterr().out
    put(commands)
    (commands / "kind").unlink()
    assert kind.main() == 2
    assert "there is no command 'kind'; nothing was run" in capsys.readouterr().out
    assert calls(commands) == ["docker info", "docker info"]


def test_a_cluster_that_cannot_be_created_is_not_deleted(commands: Path) -> None:
    """Nor any other: its name is this run's, not that of a cluster which somebody made by hand."""
    put(commands, fail="create")
    with pytest.raises(CommandError, match="create cluster"):
        kind.run_tests(commands, {}, commands, [])
    (created,) = calls(commands)
    assert created.startswith(f"kind create cluster --name {kind.NAME} ")
    assert kind.NAME not in {"kind", "ilanet"}


@pytest.mark.parametrize("fail", ["load", "apply", "wait"])
def test_a_cluster_that_cannot_be_used_is_deleted(commands: Path, fail: str) -> None:
    """An image that cannot be loaded or manifests that are refused are an error."""
    put(commands, fail=fail)
    with pytest.raises(CommandError, match=fail):
        kind.run_tests(commands, {"image": commands / "image.tar"}, commands, [])
    assert calls(commands)[-1].startswith(f"kind delete cluster --name {kind.NAME} ")


def test_the_status_is_the_tests(commands: Path) -> None:
    """The cluster is deleted however they end: here pytest refuses its words, which is status 4."""
    put(commands)
    assert kind.run_tests(commands, {"image": commands / "image.tar"}, commands, ["--no-such-word"]) == 4
    assert [" ".join(call.split()[:3]) for call in calls(commands)] == [
        "kind create cluster",
        "kind load image-archive",
        "kubectl --kubeconfig=" + str(commands / "kubeconfig") + " apply",
        "kubectl --kubeconfig=" + str(commands / "kubeconfig") + " wait",
        "kind delete cluster",
    ]
