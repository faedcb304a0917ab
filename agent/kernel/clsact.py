# SPDX-License-Identifier: Apache-2.0
"""Programs on devices by clsact filters; for agent/kernel/attach.py.

An empty folder in the bpffs marks each filter, INDEX-DIRECTION, and each qdisc that we made, INDEX-qdisc.  Filters
outlive a bpffs: restore() makes the marks again that this process knows of, and a filter with our handle and a
program of ours by its name is ours without a mark.
"""

from __future__ import annotations

import errno
import struct
from pathlib import Path

from agent.core.datapath import DatapathError
from agent.kernel import netlink
from agent.kernel.descriptor import Program
from agent.kernel.libbpf import BpfError, TcHook, TcOptions, call
from agent.kernel.places import Direction, Place, record, recorded

_REPLACE = 1  # BPF_TC_F_REPLACE
_PRIORITY = 1
_HANDLE = 0x11A
"""Of our filters: first, since a filter before ours could let a packet past it, and with a handle of our own."""

_POINTS = {Direction.INGRESS: 1, Direction.EGRESS: 2}  # BPF_TC_INGRESS, BPF_TC_EGRESS
_WHOLE_QDISC = 3
_NOT_THERE = {errno.ENOENT, errno.EINVAL, errno.ENODEV}  # the filter, the qdisc, the device
_PARENTS = (0xFFFFFFF2, 0xFFFFFFF3)  # of clsact, both directions
_GET_FILTERS = 46  # RTM_GETTFILTER
_TCMSG = struct.Struct("=BxxxiIII")


class ClsactFilters:
    """One filter per place, with a handle and priority of our own."""

    def __init__(self, *, folder: Path) -> None:
        self._folder = folder
        self._marks: set[Path] = set()

    def put(self, place: Place, program: Program) -> None:
        """Add the filter, or replace its program.

        The place is marked before its qdisc: a qdisc's mark alone, left by a process that was killed, nobody finds.
        """
        index, _ = place
        what = f"attach {program.name} to interface {index}"
        path = record(self._folder, place)
        attached = _attached(place)
        if attached is not None and not path.exists() and _name(attached) != program.kernel_name:
            raise DatapathError(f"{what}: somebody's program {attached} has our handle {_HANDLE:#x} there")
        self._mark(path)
        self._make_qdisc(index, what)
        if attached == program.id:
            return
        flags = 0 if attached is None else _REPLACE
        options = TcOptions(prog_fd=program.number, handle=_HANDLE, priority=_PRIORITY, flags=flags)
        call("bpf_tc_attach", _hook(place), options, what=what)

    def program(self, place: Place) -> int | None:
        """Return the id of the program of a recorded place; None if it or the device is gone."""
        self._marks |= {path for path in (record(self._folder, place), self._qdisc_mark(place[0])) if path.exists()}
        return _attached(place)

    def remove(self, place: Place) -> None:
        """Delete the filter of a recorded place, and with the last of ours a qdisc that we made and none else uses."""
        if _attached(place) is not None:
            options = TcOptions(handle=_HANDLE, priority=_PRIORITY)
            call("bpf_tc_detach", _hook(place), options, what=f"detach from interface {place[0]}")
        if not any(other[0] == place[0] for other in recorded(self._folder) if other != place):
            self._remove_qdisc(place[0])
        self._unmark(record(self._folder, place))

    def restore(self) -> None:
        """Make every mark again that this process knows of."""
        for path in sorted(self._marks):  # a qdisc's after its places'
            path.mkdir(exist_ok=True)

    def _mark(self, path: Path) -> None:
        path.mkdir(exist_ok=True)
        self._marks.add(path)

    def _unmark(self, path: Path) -> None:
        self._marks.discard(path)
        path.rmdir()

    def _qdisc_mark(self, index: int) -> Path:
        return self._folder / f"{index}-qdisc"

    def _make_qdisc(self, index: int, what: str) -> None:
        try:
            call("bpf_tc_hook_create", TcHook(ifindex=index, attach_point=_WHOLE_QDISC), what=what)
        except BpfError as error:
            if error.number != errno.EEXIST:
                raise
        else:
            self._mark(self._qdisc_mark(index))

    def _remove_qdisc(self, index: int) -> None:
        mark = self._qdisc_mark(index)
        if not mark.exists():
            return
        hook = TcHook(ifindex=index, attach_point=_WHOLE_QDISC)
        try:
            if not _has_filters(index):
                call("bpf_tc_hook_destroy", hook, what=f"remove the qdisc of interface {index}")
        except BpfError as error:
            if error.number not in _NOT_THERE:
                raise
        self._unmark(mark)


def _hook(place: Place) -> TcHook:
    index, direction = place
    return TcHook(ifindex=index, attach_point=_POINTS[direction])


def _attached(place: Place) -> int | None:
    options = TcOptions(handle=_HANDLE, priority=_PRIORITY)
    try:
        call("bpf_tc_query", _hook(place), options, what=f"ask interface {place[0]}")
    except BpfError as error:
        if error.number in _NOT_THERE:
            return None
        raise
    return int(options.prog_id)


def _name(number: int) -> str:
    """Return the name of a program; empty if it is gone."""
    try:
        with Program.by_id(number) as program:
            return program.kernel_name
    except BpfError:
        return ""


def _has_filters(index: int) -> bool:
    with netlink.Socket.open() as kernel:
        return any(
            kernel.dump(
                netlink.Request(
                    type=_GET_FILTERS,
                    body=_TCMSG.pack(0, index, 0, parent, 0),
                    what=f"filters of interface {index}",
                    flags=netlink.DUMP,
                )
            )
            for parent in _PARENTS
        )
