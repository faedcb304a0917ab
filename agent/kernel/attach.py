# SPDX-License-Identifier: Apache-2.0
"""Programs on devices, each place in the way that suits it; for agent/kernel/datapath.py only.

Underlay devices get tcx links where the kernel has them (6.6): pinned, and ahead of all filters.  Pods'
devices get clsact filters all the same: the kernel attaches a tcx link under its network lock and waits for
an RCU grace period meanwhile (net/core: tcx_entry_sync), 16 ms for every pod one after the other, where
adding a filter takes 0.1 ms.
"""

from __future__ import annotations

from pathlib import Path

from agent.kernel.clsact import ClsactFilters
from agent.kernel.descriptor import Program
from agent.kernel.places import Place, record, recorded
from agent.kernel.tcx import TcxLinks


class Attachments:
    """What is attached in either way; a place keeps its way for as long as something is attached there."""

    def __init__(self, *, folder: Path) -> None:
        self._folder = folder
        self._tcx = TcxLinks(folder=folder)
        self._clsact = ClsactFilters(folder=folder)

    def put(self, place: Place, program: Program, *, tcx: bool) -> None:
        """Attach a program, or put it in the place of ours that is there, without a gap."""
        path = record(self._folder, place)
        way = self._way(place) if path.exists() else self._tcx if tcx else self._clsact
        way.put(place, program)

    def places(self) -> list[Place]:
        """Return the recorded places."""
        return list(recorded(self._folder))

    def program(self, place: Place) -> int | None:
        """Return the id of our program that is really attached there; forget the place if its device is gone."""
        if not record(self._folder, place).exists():
            return None
        number = self._way(place).program(place)
        if number is None:
            self.remove(place)
        return number

    def programs(self) -> dict[Place, int]:
        """Return the ids of our programs by place."""
        numbers = {place: self.program(place) for place in self.places()}
        return {place: number for place, number in numbers.items() if number is not None}

    def remove(self, place: Place) -> None:
        """Detach; nothing there is no error."""
        if record(self._folder, place).exists():
            self._way(place).remove(place)

    def remove_all(self) -> None:
        """Detach all that is recorded."""
        for place in recorded(self._folder):
            self.remove(place)

    def restore(self) -> None:
        """Record again what this process has attached or found attached, in a bpffs that is new."""
        self._tcx.restore()
        self._clsact.restore()

    def _way(self, place: Place) -> TcxLinks | ClsactFilters:
        return self._clsact if record(self._folder, place).is_dir() else self._tcx
