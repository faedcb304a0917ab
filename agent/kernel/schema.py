# SPDX-License-Identifier: Apache-2.0
"""Maps whose form an upgrade has changed: filled from the old ones before any program uses them; for datapath.py.

A value may grow at its end, where the programs take zeros for "as before"; what was there keeps its place.  The old
map stays pinned as NAME-old until the new programs are attached: until then the old ones use it, and an agent that
is killed meanwhile begins again from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agent.kernel.bpf_map import Map
from agent.kernel.bpf_object import ObjectFile

_OLD = "-old"


def set_aside(opened: ObjectFile, pins: Path) -> None:
    """Make way for maps of another form than the pinned ones of their name.

    Another kind of map, or other keys, is no upgrade but somebody else's: left for libbpf to refuse.
    """
    for name, form in opened.map_forms().items():
        pin, old = pins / name, pins / (name + _OLD)
        if not pin.exists():
            continue
        with Map.pinned(pin) as pinned:
            info = pinned.info
        present = (info.type, info.key_size, info.value_size, info.max_entries, info.map_flags)
        if form == present or form[:2] != present[:2]:
            continue
        if old.exists():  # what an upgrade that was killed had begun to fill
            pin.unlink()
        else:
            pin.rename(old)


def carry_over(pins: Path) -> None:
    """Fill the new maps from those that were set aside; repeats safely."""
    for old in _set_aside(pins):
        with Map.pinned(old) as source, Map.pinned(pins / old.name.removesuffix(_OLD)) as target:
            _copy(source, target)


def forget(pins: Path) -> None:
    """Let go of the old maps."""
    for old in _set_aside(pins):
        old.unlink()


def current(pins: Path) -> list[Path]:
    """Return the pins that are not set aside."""
    return [path for path in pins.iterdir() if not path.name.endswith(_OLD)]


def _set_aside(pins: Path) -> Iterator[Path]:
    return (path for path in sorted(pins.iterdir()) if path.name.endswith(_OLD))


def _copy(source: Map, target: Map) -> None:
    """Copy all entries, but counters of another size."""
    before, after = source.value_size, target.value_size
    if source.per_cpu and before != after:
        return
    for keys, values in source.batches():
        whole = b"".join(values[at : at + before][:after].ljust(after, b"\0") for at in range(0, len(values), before))
        if keys:
            target.put_all(keys, whole)
