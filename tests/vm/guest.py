# SPDX-License-Identifier: Apache-2.0
"""What runs inside the guest: python -m tests.vm.guest FOLDER writes rows, packets and outcomes there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from ila.address import ChecksumMode
from lab.namespace import run
from tests.vm import agent_life, interoperation, translation
from tests.vm.rows import Rows

ROWS, PACKETS, OUTCOMES = "rows.json", "packets.json", "outcomes.json"


def main() -> None:
    """Run tests/bpf on one CPU's worth of time and everything else on the other."""
    folder = Path(sys.argv[1])
    rows = Rows(folder / ROWS)
    suite = subprocess.Popen([sys.executable, "-m", "tests.vm.suite", str(folder / OUTCOMES)])
    try:
        run("modprobe", "ila")
        (folder / PACKETS).write_text(json.dumps(translation.recorded()))
        rows.say("translations recorded")
        for mode in ChecksumMode:
            with interoperation.pair(mode, rows) as two:
                interoperation.check(two, rows)
                if mode is ChecksumMode.NEUTRAL_MAP:
                    agent_life.check(two, rows)
        rows.say("waiting for tests/bpf")
        suite.wait()
        rows.say("done")
    finally:
        suite.kill()
        suite.wait()


if __name__ == "__main__":
    main()
