# SPDX-License-Identifier: Apache-2.0
"""The short form of `make test-faults`: the same driver, a few quick kinds, and proof that it would see a loss."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench import faults
from lab.cri import CriError
from lab.faults import invariants
from lab.faults.catalogue import KINDS
from lab.faults.drive import Outcome, Run, at_rest, one, run, staged
from lab.faults.kind import Kind
from lab.faults.kinds import unmounted
from lab.faults.removal import remains
from lab.faults.stage import Stage
from lab.process import SOURCE

RATE = 2000
"""Datagrams a second each way: every machine bears that beside other tests."""

QUICK = (
    "agent kill",
    "agent freeze",
    "controller kill",
    "etcd leader kill",
    "etcd member freeze",
    "cut off from controllers",
    "link down",
    "bpffs unmounted",
    "agent's disk full",
)

_LOSSY = """
table ip6 ilanet_loss {
  chain out { type filter hook postrouting priority 0; meta l4proto udp limit rate over 100/second drop; }
}
"""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Yield a cluster with all its traffic; nothing is left of it afterwards."""
    with staged(name=f"t{os.getpid()}-f", rate=RATE, pause=0.3, seed=4) as found:
        yield found
    assert found.cluster.leftovers() == []


@contextmanager
def lossy(stage: Stage) -> Iterator[None]:
    """Drop datagrams on their way out of a host, as a fault of ours would."""
    namespace = stage.hosts[0].namespace
    namespace.run("nft", "-f", "-", stdin=_LOSSY)
    yield
    namespace.run("nft", "delete", "table", "ip6", "ilanet_loss")


@pytest.mark.timeout(300)
def test_a_loss_is_seen(stage: Stage) -> None:
    """Datagrams that somebody drops are counted as lost, and nothing else is complained of."""
    outcome = one(stage, Kind(name="lossy", harm=lossy, hold=(0.3, 0.3)))
    assert outcome.lost > 0
    assert outcome.complaints == [f"{outcome.lost} of {outcome.sent} datagrams were lost"]


@pytest.mark.timeout(300)
def test_a_leak_is_seen(stage: Stage) -> None:
    """A link, a record and an identifier too many are each named."""
    assert stage.cluster.etcd is not None
    host = stage.hosts[1]
    record = next((stage.cluster.state(host) / "endpoints").iterdir())
    stray = record.with_name("ila0123456789ab.json")
    assert invariants.leaks(stage) == []
    stray.write_text(record.read_text().replace('"wired"', '"releasing"'))
    stage.cluster.etcd.ctl("put", "/ilanet/v1/taken/identifiers/2000000000000001", "uid/nobody")
    host.namespace.ip("link", "add", "ilafeedfeedfeed", "type", "veth", "peer", "name", "stray")
    try:
        found = "\n".join(invariants.leaks(stage))
    finally:
        stray.unlink()
        stage.cluster.etcd.ctl("del", "/ilanet/v1/taken/identifiers/2000000000000001")
        host.namespace.ip("link", "del", "ilafeedfeedfeed")
    assert f"{host.name}: record of default/" in found
    assert "identifiers taken in etcd: 1 too many: 2000000000000001" in found
    assert f"{host.name}: links: 1 too many: ilafeedfeedfeed" in found


@contextmanager
def refused(_: Stage) -> Iterator[None]:
    """Harm nothing, and end as a container runtime does that starts no pod any more."""
    yield
    raise CriError("pod cri0: RunPodSandboxRequest: UNKNOWN: no", away=False)


@pytest.mark.timeout(300)
def test_what_does_not_come_back_is_a_failure_of_its_fault(stage: Stage) -> None:
    """A pod that no runtime starts and pins that are gone are said by name, and the next fault can be done."""
    outcome = one(stage, Kind(name="refused", harm=refused, hold=(0.0, 0.0)))
    assert outcome.complaints == ["CriError: pod cri0: RunPodSandboxRequest: UNKNOWN: no"]
    place = str(stage.cluster.bpffs(stage.hosts[2]))
    stage.until(lambda: unmounted(place), f"{place} unmounted")
    try:
        found = at_rest(stage, patience=0)
    finally:
        stage.cluster.mount_bpffs(stage.hosts[2])
    assert len(found) == 1
    assert found[0].startswith("cannot be checked: ")
    assert place in found[0]
    stage.recovered()
    assert at_rest(stage) == []


@pytest.mark.timeout(600)
def test_no_fault_costs_anything(stage: Stage) -> None:
    """Under each quick kind of fault: no datagram lost, no reset, nothing sent again, no drop, no leak."""
    started = time.monotonic()
    found = run(stage, names=QUICK, count=len(QUICK), seconds=500, say=print)
    print(f"{len(found.outcomes)} faults in {time.monotonic() - started:.0f} s")
    assert found.all_complaints == []
    assert {outcome.kind.name for outcome in found.outcomes} == set(QUICK)
    assert all(outcome.sent > 0 and outcome.pods > 0 for outcome in found.outcomes)
    assert found.blocks > 0
    assert found.looks > 0
    assert not any((stage.cluster.bpffs(host) / "ilanet").exists() for host in stage.hosts)


@pytest.mark.timeout(300)
def test_what_an_uninstall_leaves_is_seen(stage: Stage) -> None:
    """After the run of the test before: a file, a route and a sysctl that differ from what was are each named."""
    host = stage.hosts[0]
    assert list(remains(stage, host)) == []
    (stage.cluster.state(host) / "stray").touch()
    host.namespace.ip("route", "add", "unreachable", "fd00:dead::/64")
    host.namespace.sysctl(net__ipv6__conf__eth0__hop_limit=63)
    found = "\n".join(remains(stage, host))
    assert f"files of an uninstalled host: 1 too many: {host.name}/state/stray" in found
    assert "uninstalled host: 2 too many: net.ipv6.conf.eth0.hop_limit = 63, unreachable fd00:dead::/64" in found
    assert "uninstalled host: 1 missing: net.ipv6.conf.eth0.hop_limit = 64" in found


def test_figures_go_between_a_page_s_marks(tmp_path: Path) -> None:
    """Twice the same: the old figures go, the rest of the page stays; a page without marks is refused beforehand."""
    place = tmp_path / "page.md"
    place.write_text("no marks")
    with pytest.raises(argparse.ArgumentTypeError, match="is no page"):
        faults.page(str(place))
    place.write_text(f"before\n{faults.MARKS[0]}old\n{faults.MARKS[1]}\nafter\n")
    outcome = Outcome(
        kind=Kind(name="lossy", harm=lossy),
        seconds=1.0,
        pods=3,
        retries=0,
        sent=2000,
        lost=7,
        rate=1999.0,
        resets=0,
        retransmitted=0,
        drops={},
        backlog=0,
        leaks=[],
        failures=["CommandError: no\nanswer"],
    )
    found = Run(outcomes=[outcome], blocks=1234, bulk=16e6, looks=5, complaints=["host1: left"])
    words = ["--faults", "1", "--page", "page.md", "--kinds", "agent kill"]
    for _ in range(2):
        faults.put(faults.page(str(place)), faults.figures(found, words, 61))
    text = place.read_text()
    assert text.startswith(f"before\n{faults.MARKS[0]}`make test-faults OPTIONS=\"--faults 1 --kinds 'agent kill'\"`")
    assert text.endswith(f"\n{faults.MARKS[1]}\nafter\n")
    assert "old" not in text
    assert text.count("| lossy | 1 | 3 | 2,000 | 7 | 0 | 0 | 0 | 2 |") == 1
    assert "- lossy: CommandError: no answer\n- lossy: 7 of 2000 datagrams were lost\n- host1: left\n" in text


def test_the_docs_name_every_kind() -> None:
    """docs/faults.md says of every kind what is done, has room for figures, and names how many kinds there are."""
    place = faults.page(str(SOURCE / "docs/faults.md"))
    rows = [
        line.split(" | ")[0].removeprefix("| ") for line in place.read_text().splitlines() if line.count(" | ") == 1
    ]
    assert [kind.name for kind in KINDS if not any(kind.name in row for row in rows)] == []
    assert f"each of the {len(KINDS)} kinds" in place.read_text()
