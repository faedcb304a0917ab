# SPDX-License-Identifier: Apache-2.0
"""Programs on devices by tcx links, where the kernel has them (6.6); for agent/kernel/attach.py.

The record of a link is its pin, INDEX-DIRECTION.  The agent holds every link open besides: should the bpffs be
unmounted under it, the programs stay where they are, and restore() pins their links again.
"""

from __future__ import annotations

import errno
from pathlib import Path

from agent.core.datapath import DatapathError
from agent.kernel.descriptor import Link, Program
from agent.kernel.libbpf import BpfError
from agent.kernel.places import Direction, Place, record

_NO_DEVICE = 0x7FFFFFFF
_TYPES = {Direction.INGRESS: 46, Direction.EGRESS: 47}  # BPF_TCX_INGRESS, BPF_TCX_EGRESS


def tcx_works(program: Program) -> bool:
    """Tell whether this kernel has tcx links, asking it for one on a device that cannot be."""
    try:
        Link.create(program, _NO_DEVICE, _TYPES[Direction.INGRESS]).close()
    except BpfError as error:
        return error.number == errno.ENODEV
    raise DatapathError(f"the kernel attached to interface {_NO_DEVICE}, which is not there")


class TcxLinks:
    """One pinned link per place."""

    def __init__(self, *, folder: Path) -> None:
        self._folder = folder
        self._held: dict[Place, Link] = {}

    def put(self, place: Place, program: Program) -> None:
        """Attach, or update the link."""
        index, direction = place
        path = record(self._folder, place)
        if path.exists():
            link = self._link(place)
            if link.interface_index == index:
                if link.program_id != program.id:
                    link.replace(program)
                return
            self._forget(place)
            path.unlink()
        link = Link.create(program, index, _TYPES[direction])
        link.pin(path)
        self._held[place] = link

    def program(self, place: Place) -> int | None:
        """Return the id of the program of a recorded place; None if the device is gone."""
        link = self._link(place)
        return link.program_id if link.interface_index == place[0] else None

    def remove(self, place: Place) -> None:
        """Detach and unpin at a recorded place."""
        self._link(place).detach()
        self._forget(place)
        record(self._folder, place).unlink()

    def restore(self) -> None:
        """Pin again whatever this process holds and nobody has pinned."""
        for place, link in self._held.items():
            if not record(self._folder, place).exists():
                link.pin(record(self._folder, place))

    def _link(self, place: Place) -> Link:
        """Return the link of a recorded place, from now on held."""
        if place not in self._held:
            self._held[place] = Link.pinned(record(self._folder, place))
        return self._held[place]

    def _forget(self, place: Place) -> None:
        link = self._held.pop(place, None)
        if link is not None:
            link.close()
