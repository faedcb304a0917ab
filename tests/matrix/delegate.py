# SPDX-License-Identifier: Apache-2.0
"""A delegate that remembers how it was called and fails on demand, put where a configuration names its IPAM plugin."""

from __future__ import annotations

import json
from pathlib import Path

from tests.matrix.result import convert

TYPE = "matrix-ipam"
ADDRESS = "fd00:6d61:7472::2/64"

_SCRIPT = """#!/bin/sh
here=$(dirname "$0")
cat >/dev/null
[ "$CNI_COMMAND" = VERSION ] || echo "$CNI_COMMAND" >>"$here/calls"
if [ -e "$here/fail-$CNI_COMMAND" ]; then
  echo '{"code": 111, "msg": "the delegate was told to fail"}'
  exit 1
fi
case $CNI_COMMAND in
  ADD) cat "$here/result" ;;
  VERSION) cat "$here/versions" ;;
esac
"""


class Delegate:
    """One delegate in a folder of its own."""

    def __init__(self, *, directory: Path, version: str) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        for rest in directory.iterdir():
            rest.unlink()
        result = {
            "ips": [{"address": ADDRESS, "gateway": "fd00:6d61:7472::1"}],
            "routes": [{"dst": "::/0"}],
            "dns": {},
        }
        (directory / "result").write_text(json.dumps(convert(result, version)))
        (directory / "versions").write_text(json.dumps({"cniVersion": version, "supportedVersions": [version]}))
        script = directory / TYPE
        script.write_text(_SCRIPT)
        script.chmod(0o755)

    def fail(self, command: str) -> None:
        """Let it refuse a command from now on."""
        (self.directory / f"fail-{command}").touch()

    def calls(self) -> list[str]:
        """Return the commands that it was called with, in order."""
        file = self.directory / "calls"
        return file.read_text().split() if file.exists() else []
