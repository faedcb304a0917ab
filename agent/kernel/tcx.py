# SPDX-License-Identifier: Apache-2.0
"""Programs on devices by tcx links, where the kernel has them (6.6); for agent/kernel/attach.py.

The record of a link is its pin, INDEX-DIRECTION.
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

    def put(self, place: Place, program: Program) -> None:
        """Attach, or update the link."""
        index, direction = place
        path = record(self._folder, place)
        if path.exists():
            with Link.pinned(path) as link:
                if link.interface_index == index:
                    if link.program_id != program.id:
                        link.replace(program)
                    return
            path.unlink()
        with Link.create(program, index, _TYPES[direction]) as link:
            link.pin(path)

    def program(self, place: Place) -> int | None:
        """Return the id of the program of a recorded place; None if the device is gone."""
        with Link.pinned(record(self._folder, place)) as link:
            return link.program_id if link.interface_index == place[0] else None

    def remove(self, place: Place) -> None:
        """Detach and unpin at a recorded place."""
        path = record(self._folder, place)
        with Link.pinned(path) as link:
            link.detach()
        path.unlink()
