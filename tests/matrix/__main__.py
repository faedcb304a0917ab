# SPDX-License-Identifier: Apache-2.0
"""The command line: `python -m tests.matrix --plugin FILE --config FILE` asks every row of a CNI plugin."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from lab.namespace import CommandError
from tests.matrix import report
from tests.matrix.rig import CommandDaemon, RigError, read_config, throw_away
from tests.matrix.rows import ROWS
from tests.matrix.suite import Finding, Mark, run

_EXAMPLE = """\
example, as root, with Debian's containernetworking-plugins:

  cat >ptp.conf <<'END'
  {"cniVersion": "1.0.0", "name": "try", "type": "ptp",
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "fd00:7074::/64"}]], "routes": [{"dst": "::/0"}]}}
  END
  python -m tests.matrix --plugin /usr/lib/cni/ptp --config ptp.conf --json ptp.json

The plugin runs in a network namespace made for it, and pods are namespaces of their own: the machine's own network is
not touched.  host-local gets a folder of the run's own; other plugins' files are theirs.  Other environment variables
than CNI_* are passed on, as runtimes do.  The exit status is 0 if no row failed, 1 if one did, 2 if the suite could
not run.
"""


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.matrix",
        description="Ask a CNI plugin every rule of the specification and of what runtimes rely on.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--plugin", type=Path, required=True, help="the plugin's executable")
    parser.add_argument("--config", type=Path, required=True, help="its network configuration, or a list with it first")
    parser.add_argument("--path", default="", help="CNI_PATH, where delegates are; default: the plugin's folder")
    parser.add_argument("--setup", default="", metavar="COMMAND", help="run inside the host's namespace before")
    parser.add_argument("--host", default="", metavar="NAMESPACE", help="use this of /run/netns as the host instead")
    parser.add_argument(
        "--watch",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="files in it that name a container are traces of it; may be repeated",
    )
    parser.add_argument(
        "--daemon",
        default="",
        metavar="COMMAND",
        help="called with one more word, it must stop, start, freeze or thaw the plugin's daemon",
    )
    parser.add_argument("--grace", type=float, default=0.5, help="seconds added to each bound of time (default 0.5)")
    parser.add_argument("--row", action="append", default=[], help="ask only this row, such as R19; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all findings there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a table there")
    return parser.parse_args(words)


def _say(finding: Finding) -> None:
    print(report.line(finding), flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = _arguments(words)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rows = [row for row in ROWS if not arguments.row or row.rule in arguments.row]
    try:
        if os.geteuid():
            raise RigError("network namespaces need root")
        with throw_away(
            plugin=arguments.plugin,
            config=read_config(arguments.config),
            host=arguments.host,
            search_path=arguments.path,
            setup=arguments.setup,
            watched=arguments.watch,
            daemon=CommandDaemon(arguments.daemon) if arguments.daemon else None,
            grace=arguments.grace,
        ) as subject:
            column = run(subject, rows=rows, say=_say)
    except KeyboardInterrupt:
        print("matrix: interrupted", file=sys.stderr)
        return 130
    except (RigError, CommandError, OSError) as error:
        print(f"matrix: {error}", file=sys.stderr)
        return 2
    print(report.summary(column))
    if arguments.json:
        arguments.json.write_text(json.dumps(report.tree([column]), indent=1) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text(report.markdown([column], head=f"# CNI matrix: {column.name}"))
    return 1 if column.counts[Mark.FAIL] else 0


if __name__ == "__main__":
    raise SystemExit(main())
