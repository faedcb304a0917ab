# SPDX-License-Identifier: Apache-2.0
"""A plot of how durations are distributed, as SVG: for each case the share of calls that took at most so long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import log

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 60, 200, 40, 50
COLOURS = ("#0b6e4f", "#5bba6f", "#b23a48", "#f08a4b", "#33658a", "#86bbd8")
STEPS = (1, 2, 5)


def distribution(title: str, cases: Mapping[str, Sequence[float]]) -> str:
    """Return the SVG; durations are in milliseconds, on a logarithmic axis."""
    every = sorted(value for values in cases.values() for value in values)
    ticks = _ticks(every[0], every[-1])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, TOP - 16, title, size=15),
        *(_vertical(_x(tick, ticks), f"{tick:g} ms") for tick in ticks),
        *(_horizontal(_y(share), f"{share:.0%}") for share in (0, 0.25, 0.5, 0.75, 0.99)),
    ]
    for number, (name, values) in enumerate(cases.items()):
        colour = COLOURS[number % len(COLOURS)]
        parts.append(_curve(sorted(values), ticks, colour))
        parts.append(_text(WIDTH - RIGHT + 16, TOP + 20 + 22 * number, name, colour=colour))
    return "\n".join([*parts, "</svg>\n"])


def _ticks(least: float, most: float) -> list[float]:
    """Return 1, 2, 5, 10 ... around the values."""
    ticks = [step * 10.0**power for power in range(-3, 6) for step in STEPS]
    low = max((tick for tick in ticks if tick <= least), default=ticks[0])
    high = min((tick for tick in ticks if tick >= most), default=ticks[-1])
    return [tick for tick in ticks if low <= tick <= high]


def _x(value: float, ticks: Sequence[float]) -> float:
    low, high = log(ticks[0]), log(ticks[-1])
    return LEFT + (log(value) - low) / (high - low) * (WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _curve(values: Sequence[float], ticks: Sequence[float], colour: str) -> str:
    points = " ".join(
        f"{_x(value, ticks):.1f},{_y((place + 1) / len(values)):.1f}" for place, value in enumerate(values)
    )
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _vertical(x: float, label: str) -> str:
    line = f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}" stroke="#dddddd"/>'
    return line + _text(x, HEIGHT - BOTTOM + 18, label, anchor="middle")


def _horizontal(y: float, label: str) -> str:
    line = f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#dddddd"/>'
    return line + _text(LEFT - 8, y + 4, label, anchor="end")


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start", colour: str = "#222222") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'
    )
