# SPDX-License-Identifier: Apache-2.0
"""Linux's own ILA as judge, on Debian's kernel 6.1: our host against Linux's, our translation both ways."""

from __future__ import annotations

import ipaddress
import re
import struct

import pytest

from tests.vm.conftest import Findings
from tests.vm.restoration import arrivals
from tests.vm.rows import AGENT, INTEROPERATION
from tests.vm.suite import collected
from tests.vm.traffic import ones_sum
from tests.vm.translation import EACH, GROUPS, LOW_WORDS, cases

_TROUBLE = re.compile(r"WARNING:|BUG:|\bOops\b|Call Trace|general protection|Out of memory")


def check(findings: Findings, row: str) -> None:
    """Fail with all that the guest has said of a row, unless it said that all was well."""
    if said := findings.row(row):
        pytest.fail(said, pytrace=False)


@pytest.mark.parametrize("row", INTEROPERATION)
def test_hosts_understand_each_other(findings: Findings, row: str) -> None:
    """What our agent's host sends, Linux's ILA receives, and the other way round."""
    check(findings, row)


@pytest.mark.parametrize("group", GROUPS)
def test_translation_is_linuxs(findings: Findings, group: str) -> None:
    """On random addresses, Linux, to_wire and ila.address make the same packet, and its checksum is right."""
    recorded = findings.translated[group]
    expected = cases(group)
    assert len(recorded) == len(expected) == EACH
    for one, case in zip(recorded, expected, strict=True):
        assert (one["sir"], one["locator"]) == (case.sir, str(case.locator))
        by_linux, by_bpf = bytes.fromhex(one["linux"]), bytes.fromhex(one["bpf"])
        assert by_bpf == by_linux, case
        assert by_linux[24:40] == case.domain.ila_address(case.identifier, case.locator).packed, case
        assert case.domain.identifier(ipaddress.IPv6Address(by_linux[24:40])) == case.identifier
        assert checksum_is_right(by_linux)


@pytest.mark.parametrize("group", GROUPS)
def test_restoration_is_linuxs(findings: Findings, group: str) -> None:
    """Of random ILA addresses, Linux, from_wire and ila.address make the same packet; nothing else in it changes."""
    recorded = findings.restored[group]
    expected = arrivals(group)
    assert len(recorded) == len(expected) == EACH
    for one, arrival in zip(recorded, expected, strict=True):
        assert one["ila"] == str(arrival.ila)
        by_linux, by_bpf = bytes.fromhex(one["linux"]), bytes.fromhex(one["bpf"])
        assert by_bpf == by_linux, arrival
        sent = arrival.packet(int.from_bytes(by_linux[48:52], "big"))
        sir = arrival.domain.sir_prefix.address(arrival.identifier).packed
        assert by_linux == sent[:7] + bytes((sent[7] - 1,)) + sent[8:24] + sir + sent[40:], arrival
        assert checksum_is_right(by_linux), arrival


def checksum_is_right(raw: bytes) -> bool:
    """Tell whether the checksum of a datagram without extension headers is right for its addresses."""
    return ones_sum(raw[8:40] + struct.pack("!I4B", len(raw) - 40, 0, 0, 0, 17) + raw[40:]) == 0xFFFF


def test_enough_addresses_were_compared() -> None:
    """At least 200 each way, each low word that is likely to go wrong among them in every group."""
    assert len(GROUPS) * EACH >= 200
    for group in GROUPS:
        assert {int(case.identifier) & 0xFFFF for case in cases(group)} >= set(LOW_WORDS)
        assert {int(arrival.ila) & 0xFFFF for arrival in arrivals(group)} >= set(LOW_WORDS)
        assert {int(arrival.identifier) & 0xFFFF for arrival in arrivals(group)} >= set(LOW_WORDS)


@pytest.mark.parametrize("row", AGENT)
def test_agent_lives_without_tcx(findings: Findings, row: str) -> None:
    """The same agent attaches by clsact, wires pods, survives a clock that jumps and its own end, and uninstalls."""
    check(findings, row)


def test_programs_work_there(findings: Findings) -> None:
    """Every test of tests/bpf that the guest's kernel can run passes there, and none was forgotten."""
    wrong = {node: text for node, text in findings.outcomes.items() if text}
    assert wrong == {}
    assert findings.outcomes.keys() == collected()
    assert len(findings.outcomes) > 150


def test_kernel_did_not_complain(findings: Findings) -> None:
    """It was Debian's kernel, and nothing of all this made it warn; what virtme-ng's init says is not the kernel's."""
    console = findings.outcome.console
    assert f"Linux version {findings.kernel.version} " in console
    kernel = [line for line in console.splitlines() if "] virtme-ng-init: " not in line]
    assert [line for line in kernel if _TROUBLE.search(line)] == []
    assert findings.outcome.status == 0, findings.outcome.output[-4000:]
