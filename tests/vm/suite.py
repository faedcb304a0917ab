# SPDX-License-Identifier: Apache-2.0
"""tests/bpf on the kernel of the guest: which of its tests run there, and what came of each.

python -m tests.vm.suite FILE     run them, in the guest, and write outcomes by node id
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

LEFT_OUT = {
    r"\[tcx\]": "tcx came with 6.6",
    r"::test_finds_out_about_tcx": "tcx came with 6.6",
    r"::test_ways_are_mixed": "tcx came with 6.6",
    r"checksum-complete": "BPF_F_TEST_SKB_CHECKSUM_COMPLETE came with 6.18",
    r"::test_checksum_damage_shows": "BPF_F_TEST_SKB_CHECKSUM_COMPLETE came with 6.18",
    r"::test_agrees_on_what_is_no_address|::test_quotes_of_any_locator": "arithmetic of hundreds of packets, slow here",
    r"::test_million_mappings": "hash maps of 6.1 are those of later kernels, and filling one takes long here",
    r"test_traffic\.py::test_(?!ping_everywhere\[bpf-)": "tests/vm sends its own traffic through the stack",
    r"::test_killed_(while|before)": "the agent's own code has no other way here; each step starts a process, slowly",
}
"""Patterns of node ids that do not run in the guest, each with the reason."""


def runs_there(node: str) -> bool:
    """Tell whether a test runs in the guest."""
    return not any(re.search(pattern, node) for pattern in LEFT_OUT)


@dataclass
class Recorder:
    """A pytest plugin that keeps the tests that run there, and what became of them."""

    outcomes: dict[str, str]

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep those that run."""
        items[:] = [item for item in items if runs_there(item.nodeid)]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the worst of set-up, call and tear-down; nothing if all were well."""
        wrong = report.outcome != "passed"
        if wrong or report.when == "call":
            text = f"{report.when} {report.outcome}: {report.longreprtext}" if wrong else ""
            self.outcomes[report.nodeid] = self.outcomes.get(report.nodeid) or text


def collected() -> set[str]:
    """Return the node ids that must have run, as this machine collects them."""

    class Collector:
        found: set[str] = set()  # noqa: RUF012 - of one use

        def pytest_collection_finish(self, session: pytest.Session) -> None:
            self.found |= {item.nodeid for item in session.items}

    collector = Collector()
    pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", "tests/bpf"], plugins=[collector])
    return {node for node in collector.found if runs_there(node)}


def main() -> None:
    """Run."""
    recorder = Recorder({})
    try:
        pytest.main(
            ["tests/bpf", "-q", "-p", "no:cacheprovider", "--timeout=600", "--durations=15"], plugins=[recorder]
        )
    finally:
        Path(sys.argv[1]).write_text(json.dumps(recorder.outcomes))


if __name__ == "__main__":
    main()
