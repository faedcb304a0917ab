# SPDX-License-Identifier: Apache-2.0
"""What runs inside the guest: python -m tests.vm.guest FOLDER writes rows, packets and outcomes there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from ila.address import ChecksumMode
from lab.namespace import run
from tests.vm import agent_life, interoperation, restoration, translation
from tests.vm.rows import Rows

ROWS, OUTCOMES = "rows.json", "outcomes.json"
TRANSLATED, RESTORED = "translated.json", "restored.json"


def main() -> None:
    """Run tests/bpf on one CPU's worth of time and everything else on the other."""
    folder = Path(sys.argv[1])
    rows = Rows(folder / ROWS)
    suite = subprocess.Popen([sys.executable, "-m", "tests.vm.suite", str(folder / OUTCOMES)])
    try:
        run("modprobe", "ila")
        (folder / TRANSLATED).write_text(json.dumps(translation.recorded()))
        rows.say("translations recorded")
        (folder / RESTORED).write_text(json.dumps(restoration.recorded()))
        rows.say("restorations recorded")
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
