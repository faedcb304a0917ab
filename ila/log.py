# SPDX-License-Identifier: Apache-2.0
"""Log lines on standard error, as text or as JSON; for the composition roots only.

A line about a pod says so by `extra={"pod": ...}`, and a controller's about a node by `extra={"node": ...}`: fields of
their own in JSON.
"""

from __future__ import annotations

import json
import logging


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, logger, node, pod, message, and the traceback if there is one."""

    def __init__(self, *, node: str = "") -> None:
        """Take the node that every line is about; '': those that say one."""
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "node": getattr(record, "node", self._node),
            "pod": getattr(record, "pod", ""),
            "message": record.getMessage(),
        }
        fields = {name: value for name, value in fields.items() if value}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def form(value: object) -> str:
    """Parse the setting: 'text' or 'json'."""
    if value not in ("text", "json"):
        raise ValueError("must be 'text' or 'json'")
    return str(value)


def set_up(chosen: str, *, node: str = "", level: int = logging.INFO) -> None:
    """Send all log lines to standard error in the chosen form; `node` is what they are about, if they are."""
    to_stderr = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s %(message)s")
    to_stderr.setFormatter(JsonLines(node=node) if chosen == "json" else text)
    logging.basicConfig(level=level, handlers=[to_stderr], force=True)
