# SPDX-License-Identifier: Apache-2.0
"""Looks again and again until all is well or time is up (`ilanet status --wait`); for cli."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from cli.cluster import AccessError, ClusterError
from cli.report import PROBLEM, Report, some


async def until_well(
    look: Callable[[], Awaitable[Report]], *, timeout: float, pause: float, say: Callable[[str], None]
) -> Report:
    """Return the first report that is well, or the last one; ClusterError if the last look could not be had.

    `say` hears what is waited for, once for as long as that stays the same.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    said = ""
    while True:
        last = loop.time() + pause >= end
        try:
            report = await look()
        except AccessError:
            raise
        except ClusterError as error:
            if last:
                raise
            waits = str(error)
        else:
            if report.well or last:
                return report
            waits = _first(report)
        if waits != said:
            say(waits)
            said = waits
        await asyncio.sleep(pause)


def _first(report: Report) -> str:
    problems = [found for found in report.findings if found.severity == PROBLEM]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{some(problems[0].about)}: {problems[0].what}{more}"
