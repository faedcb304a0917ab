# SPDX-License-Identifier: Apache-2.0
"""Every row of the CNI matrix, through the executable against a live agent; and that broken plugins fail it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.cluster import Cluster
from lab.namespace import Namespace
from lab.namespace import run as command
from lab.process import SOURCE
from lab.runtime import EXECUTABLE
from tests.matrix.executable import Executable
from tests.matrix.plugin import Subject
from tests.matrix.row import VERSIONS, Row
from tests.matrix.rows import ROWS
from tests.matrix.suite import Answer, Mark, ask, run, supported
from tests.netns.columns import DEBIAN, PTP, ilanet, one_host

CASES = [(row, version) for row in ROWS for version in row.versions(VERSIONS)]

NOT_OURS = {
    "R16-failing-delegate-is-undone",
    "R16-delegate-is-undone",
    "R21-delegate-is-checked",
    "R23-delegate-collects",
    "R24-delegate-s-status",
}
"""Rows about delegates: ilanet has none."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Yield a cluster of one host."""
    made = one_host()
    try:
        made.start()
        yield made
    finally:
        made.close()
        assert made.leftovers() == []


@pytest.fixture(scope="module")
def subject(cluster: Cluster) -> Iterator[Subject]:
    """Yield ilanet; grace and patience are for a machine that does more than this."""
    with ExitStack() as undo:
        yield ilanet(undo, cluster, grace=10, patience=60)


@pytest.fixture(scope="module")
def listed(subject: Subject) -> tuple[str, ...]:
    return supported(subject)


def test_every_version_is_listed(listed: tuple[str, ...]) -> None:
    """VERSION lists exactly the versions that the rows below are asked in."""
    assert listed == VERSIONS


@pytest.mark.parametrize(("row", "version"), CASES, ids=[f"{row.name}-{version}" for row, version in CASES])
def test_row(subject: Subject, listed: tuple[str, ...], row: Row, version: str) -> None:
    """The row passes; a row that is not about ilanet says so."""
    answer = ask(subject, row, version, listed)
    if row.name in NOT_OURS:
        assert answer == Answer(Mark.NOT_ASKED, "the configuration names no delegate (ipam)")
    else:
        assert answer.mark is (Mark.PASS if row.judged else Mark.REPORTED), answer.note


BROKEN = r"""#!/bin/sh
if [ "$CNI_COMMAND" = DEL ] && [ -z "$CNI_NETNS" ]; then
  echo '{"cniVersion": "1.0.0", "code": 4, "msg": "required env variables [CNI_NETNS] missing"}' >&2
  exit 1
fi
case $CNI_COMMAND in
  VERSION) answer='{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0"]}' ;;
  ADD) answer=$(sed 's/"prevResult"/"ignored"/' | "$UNBROKEN") ;;
  *) answer=$("$UNBROKEN") ;;
esac
status=$?
if [ $status != 0 ]; then
  printf %s "$answer" >&2
elif [ "$CNI_COMMAND" = ADD ]; then
  printf %s "$answer" | sed 's/"cniVersion": "[0-9.]*"/"cniVersion": "0.3.1"/'
else
  printf %s "$answer"
fi
exit $status
"""
"""ilanet with one version left: errors on stderr, a fixed cniVersion, DEL needs CNI_NETNS, prevResult dropped."""

BROKEN_ROWS = {
    "R8-version-of-the-result",
    "R9-errors-on-stdout",
    "R14-previous-is-passed-on",
    "R14-previous-routes-are-passed-on",
    "R14-unknown-keys-are-passed-on",
    "R19-without-namespace",
    "R19-empty-namespace",
}


def script(file: Path, text: str) -> Path:
    file.write_text(text)
    file.chmod(0o755)
    return file


def test_a_broken_executable_fails_its_rows(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way in which it is broken fails the rows about it, and no others."""
    monkeypatch.setenv("UNBROKEN", str(EXECUTABLE))
    with ExitStack() as undo:
        column = run(ilanet(undo, cluster, plugin=script(tmp_path / "broken", BROKEN), grace=10, patience=60))
    assert column.supported == ("1.0.0",)
    failed = {finding.row.name: finding.notes() for finding in column.findings if finding.mark is Mark.FAIL}
    assert set(failed) == BROKEN_ROWS, failed


@pytest.fixture
def host() -> Iterator[Namespace]:
    """Yield an empty namespace."""
    namespace = Namespace.create(f"matrix-{os.getpid()}-e")
    yield namespace
    namespace.close()


def ended(host: Namespace) -> bool:
    """Wait until nothing runs in a namespace: what was killed ends a little later."""
    deadline = time.monotonic() + 30
    while host.pids() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not host.pids()


def test_an_executable_that_leaves_stdout_open(host: Namespace, tmp_path: Path) -> None:
    """R12: what it printed is kept, and the child that holds standard output is ended."""
    file = script(tmp_path / "holds", "#!/bin/sh\necho '{}'\nsleep 1000 &\n")
    outcome = Executable(path=file, host=host, environment=os.environ, closing=0.5).call("ADD", {}, b"{}")
    assert (outcome.exit_code, outcome.stdout, outcome.stdout_closed) == (0, b"{}\n", False)
    assert ended(host)


def test_an_executable_that_hangs(host: Namespace, tmp_path: Path) -> None:
    """It is ended with its children, also one that never reads its input."""
    file = script(tmp_path / "hangs", "#!/bin/sh\necho begun\nsleep 1000\n")
    executable = Executable(path=file, host=host, environment=os.environ, patience=0.5)
    outcome = executable.call("ADD", {}, b"x" * 1_000_000)
    assert (outcome.timed_out, outcome.stdout_closed, outcome.stdout) == (True, True, b"begun\n")
    assert outcome.exit_code != 0
    assert ended(host)


def test_an_executable_gets_environment_and_input_as_from_libcni(
    host: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runtime's environment without its CNI variables, those of the call, and the whole input."""
    monkeypatch.setenv("CNI_ARGS", "of the caller")
    file = script(tmp_path / "tells", '#!/bin/sh\necho "$CNI_COMMAND $CNI_IFNAME $CNI_ARGS $HOME"; wc -c >&2; exit 3\n')
    outcome = Executable(path=file, host=host, environment=os.environ).call(
        "DEL", {"CNI_IFNAME": "eth0"}, b"x" * 300_000
    )
    assert outcome.exit_code == 3
    assert outcome.stdout.decode() == f"DEL eth0  {os.environ['HOME']}\n"
    assert outcome.stderr == b"300000\n"


def command_line(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    config = tmp_path / "ptp.conf"
    config.write_text(json.dumps({"cniVersion": "1.0.0", **PTP}))
    words = ("--plugin", str(DEBIAN / "ptp"), "--config", str(config), *words)
    return subprocess.run(
        [sys.executable, "-m", "tests.matrix", *words],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        cwd=SOURCE,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_the_command_line_on_debian_s_ptp(tmp_path: Path) -> None:
    """A stranger's one command: rows, files, exit status; the machine is as before."""
    found = tmp_path / "found.json"
    page = tmp_path / "found.md"
    setup = f"sh -c 'ip -br link >{tmp_path}/links'"
    done = command_line(
        tmp_path, "--row", "R8", "--row", "R19", "--setup", setup, "--json", str(found), "--markdown", str(page)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "links").read_text().split()[0] == "lo"
    assert len((tmp_path / "links").read_text().splitlines()) == 1
    rows = json.loads(found.read_text())["plugins"][0]["rows"]
    assert {row["rule"] for row in rows} == {"R8", "R19"}
    assert {row["mark"] for row in rows} == {"pass", "n/a"}
    assert "| R19 | DEL without CNI_NETNS succeeds | pass |" in page.read_text()
    assert not list(tmp_path.glob("cni-matrix-*"))
    assert not [line for line in namespaces() if re.match(r"matrix\d+-(host|p)", line)]


def test_the_command_line_works_a_daemon(tmp_path: Path) -> None:
    """--daemon is told to stop and to start; a row that fails gives exit status 1."""
    daemon = script(tmp_path / "daemon", f'#!/bin/sh\necho "$@" >>{tmp_path}/words\n')
    done = command_line(tmp_path, "--row", "R10", "--daemon", f"{daemon} of ptp")
    assert done.returncode == 1, done.stdout + done.stderr
    assert (tmp_path / "words").read_text() == "of ptp stop\nof ptp start\n"
    assert "R10  FAIL  ADD while its daemon is away: code 11, try again later" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--plugin", "/nowhere"], "/nowhere is no executable"),
        (["--config", "/dev/null"], "/dev/null cannot be read"),
        (["--setup", "false"], "false failed"),
        (["--host", "matrix-is-not-there"], "matrix-is-not-there"),
    ],
)
def test_the_command_line_says_what_is_wrong(tmp_path: Path, words: list[str], message: str) -> None:
    """What it was given cannot be used: exit status 2, one line, and nothing left."""
    done = command_line(tmp_path, *words)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert message in done.stderr
    assert not list(tmp_path.glob("cni-matrix-*"))


def namespaces() -> list[str]:
    return [line.split()[0] for line in command("ip", "netns", "list").splitlines()]
