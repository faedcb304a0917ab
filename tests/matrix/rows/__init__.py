# SPDX-License-Identifier: Apache-2.0
"""All rows, in the order of their rules, and what is left out of them; for the suite and its reports."""

from __future__ import annotations

from collections.abc import Mapping

from tests.matrix.row import Row
from tests.matrix.rows import adding, checking, configuration, deleting, environment, node, output

_MODULES = (environment, configuration, output, adding, deleting, checking, node)

ROWS: tuple[Row, ...] = tuple(
    sorted(
        (value for module in _MODULES for value in vars(module).values() if isinstance(value, Row)),
        key=lambda found: int(found.rule[1:]),
    )
)

LEFT_OUT: Mapping[str, str] = {
    "R17, a second ADD of one container": "an error of the runtime: plugins may do what they like",
    "R18, two calls for one container at once": "runtimes never do it",
    "R20, the reverse order": "libcni's part; rows R14 and R20 show what a plugin gets to see of it",
    "R21, time to converge": "CHECK right after ADD is asked; how long one may fail first is not said anywhere",
    "R23, after a failure on with the rest": "no failure of a single attachment can be brought about from outside",
    "R23, never beside ADD or DEL": "runtimes see to it",
    "R23, the DELs that libcni sends first": "libcni's part; to a plugin they are the DELs of R19",
    "R23, GC though STATUS fails": "what makes STATUS fail from outside, a daemon that is away, keeps GC away too",
    "R26": "about the configuration list that a product installs, not about the executable",
    "R27": "about how the executable is installed",
}
"""Parts of the rules that a plugin cannot show, or not to a caller."""
