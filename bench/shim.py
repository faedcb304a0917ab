# SPDX-License-Identifier: Apache-2.0
"""A socket that answers the CNI executable at once: what is left of an ADD's time is the executable's own."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
from pathlib import Path
from typing import Self

_HEADER = struct.Struct("!4sII")
_ANSWER = struct.Struct("!4sBI")
_LARGEST = 1 << 16

ANSWER = json.dumps(
    {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "ila0123456789ab", "mac": "02:00:00:00:00:01"}],
        "ips": [{"address": "fd00:10:244:0:2000:0:0:1/128", "gateway": "fe80::1", "interface": 1}],
        "routes": [{"dst": "::/0", "gw": "fe80::1"}],
    }
).encode()
"""About as long as the agent's."""


class AtOnce:
    """Listens at `path` and gives every request the same answer, from a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._thread = threading.Thread(target=self._serve, name="answers at once", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                _take(connection)
                connection.sendall(_ANSWER.pack(b"ILA1", 0, len(ANSWER)) + ANSWER)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _take(connection: socket.socket) -> None:
    """Read one whole request, and close the descriptor that comes along."""
    raw, expected = b"", _HEADER.size
    while len(raw) < expected:
        part, descriptors, _, _ = socket.recv_fds(connection, _LARGEST, 1)
        for descriptor in descriptors:
            os.close(descriptor)
        if not part:
            return
        raw += part
        if expected == _HEADER.size and len(raw) >= expected:
            expected += sum(_HEADER.unpack_from(raw)[1:])
