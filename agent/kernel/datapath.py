# SPDX-License-Identifier: Apache-2.0
"""The Datapath port on libbpf: programs and maps pinned in the host's bpffs; only the agent's __main__ makes one.

Under the pin directory:  maps/NAME, programs/FINGERPRINT/NAME (the fingerprint is of object file and
constants together) and links/INDEX-DIRECTION.  At whatever moment an agent was killed, the next load()
finds its way from these.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

from agent.core.datapath import DatapathError, DatapathSettings
from agent.kernel import schema
from agent.kernel.attach import Attachments
from agent.kernel.bpf_map import Map
from agent.kernel.bpf_object import ObjectFile
from agent.kernel.bpffs import check_bpffs
from agent.kernel.constants import constants
from agent.kernel.descriptor import Program
from agent.kernel.places import Direction, Place
from agent.kernel.tables import STRUCT_SIZES, Tables
from agent.kernel.tcx import tcx_works
from agent.kernel.verdicts import VerdictNames

_ROLES = {
    "pod": {Direction.INGRESS: "from_pod"},
    "inside": {Direction.INGRESS: "from_wire", Direction.EGRESS: "to_wire"},
    "edge": {Direction.INGRESS: "from_edge", Direction.EGRESS: "to_edge"},
}


class BpfDatapath(Tables):
    """See agent.core.datapath.Datapath.  Nothing happens before load()."""

    def __init__(
        self,
        *,
        object_path: Path,
        pin_directory: Path,
        tcx: bool | None = None,
    ) -> None:
        """Take the compiled object, a folder in the host's bpffs, and where to use tcx links (None: if they work)."""
        super().__init__()
        self._object_path = object_path
        self._pins = pin_directory
        self._map_pins = pin_directory / "maps"
        self._program_pins = pin_directory / "programs"
        self._link_pins = pin_directory / "links"
        self._tcx = tcx
        self._lock = threading.Lock()
        """Pods are attached by a thread: nobody else replaces programs, or tidies up after devices, meanwhile."""

        self._links = Attachments(folder=self._link_pins)
        self._programs: dict[str, Program] = {}
        self._opened: Path | None = None
        self._asked: object = None
        """What the last load() that succeeded was asked for: the same again is looked at no further."""

    def load(self, settings: DatapathSettings) -> None:
        """Adopt what is pinned if it was made of the same object and constants, else replace it."""
        with self._lock:
            self._load(settings)

    def _load(self, settings: DatapathSettings) -> None:
        check_bpffs(self._pins)
        found = self._object_path.stat()
        asked = (settings, found.st_mtime_ns, found.st_ino, found.st_size)
        if asked == self._asked and self._all_pinned():
            return
        self._asked = None
        with ObjectFile(self._object_path) as opened:
            opened.set_constants(constants(settings))
            for name, size in STRUCT_SIZES.items():
                if opened.btf.struct_size(name) != size:
                    raise DatapathError(f"{self._object_path}: struct {name} is not of {size} bytes: rebuild it")
            self._names = VerdictNames.read(opened.btf)
            for folder in (self._pins, self._map_pins, self._program_pins, self._link_pins):
                folder.mkdir(exist_ok=True)
            made_of = hashlib.sha256(self._object_path.read_bytes() + opened.constants)
            pins = self._program_pins / made_of.hexdigest()[:32]
            self._restore()
            if not self._usable(pins, opened.map_names()):
                self._replace(opened, pins)
            elif pins == self._opened:
                self._asked = asked
                return
        self._open(pins)
        self._renew_attached()
        schema.forget(self._map_pins)
        self._opened = pins
        self._asked = asked
        for old in self._program_pins.iterdir():
            if old != pins:
                shutil.rmtree(old)

    def check(self) -> None:
        """Return if a pod could be attached now: the programs are loaded, and where pins go is a bpffs."""
        check_bpffs(self._pins)
        if not self._programs:
            raise DatapathError("no program is loaded yet")

    def attach_underlay(self, index: int, *, edge: bool) -> None:
        """Attach from_wire and to_wire, or their edge variants."""
        with self._lock:
            self._attach(index, "edge" if edge else "inside")

    @property
    def limits(self) -> bool:
        """Whether tcx links leave the qdiscs of a pod's device to the `bandwidth` plugin."""
        return bool(self._tcx)

    def attach_pod(self, index: int, *, limited: bool) -> None:
        """Attach from_pod; where the bandwidth is limited without a qdisc, which would be in the plugin's way."""
        with self._lock:
            self._attach(index, "pod", tcx=limited)

    def attached(self) -> dict[int, str]:
        """Return role by interface index; a device with half of its programs is not attached.

        Looks at one place after the other: a pod that is attached meanwhile waits for one of them only.
        """
        there: dict[int, dict[Direction, str]] = {}
        names: dict[int, str] = {}
        for place in self._links.places():
            with self._lock:
                number = self._links.program(place)
            if number is not None:
                index, direction = place
                there.setdefault(index, {})[direction] = names.get(number) or names.setdefault(number, _name(number))
        return {index: role for index, names in there.items() for role, whole in _ROLES.items() if names == whole}

    def detach(self, index: int) -> None:
        """Detach both directions."""
        with self._lock:
            for direction in Direction:
                self._links.remove((index, direction))

    def unload(self) -> None:
        """Detach everything ours, remove every pin and folder; needs no load() before."""
        self._links.remove_all()
        self._close()
        for folder in (self._link_pins, self._program_pins, self._map_pins):
            if folder.exists():
                shutil.rmtree(folder)
        with contextlib.suppress(OSError):  # never made, or a mount of its own
            self._pins.rmdir()

    def _attach(self, index: int, role: str, *, tcx: bool = True) -> None:
        for direction in Direction:
            name = _ROLES[role].get(direction)
            if name:
                self._put((index, direction), name, tcx=tcx)
            else:
                self._links.remove((index, direction))

    def _put(self, place: Place, name: str, *, tcx: bool) -> None:
        if name not in self._programs:
            raise DatapathError(f"no program {name!r} is loaded for interface {place[0]}")
        self._links.put(place, self._programs[name], tcx=tcx and bool(self._tcx))

    def _all_pinned(self) -> bool:
        """Tell whether the pins of what is loaded are still there."""
        if self._opened is None:
            return False
        return _names(self._map_pins) == self._maps.keys() and _names(self._opened) == self._programs.keys()

    def _usable(self, pins: Path, maps: set[str]) -> bool:
        """Tell whether pinned programs are whole and use the pinned maps."""
        if not pins.exists() or not all((self._map_pins / name).exists() for name in maps):
            return False
        used: set[int] = set()
        for path in pins.iterdir():
            with Program.pinned(path) as program:
                used |= program.map_ids()
        for name in maps:
            with Map.pinned(self._map_pins / name) as one:
                if one.info.id not in used:
                    return False
        return True

    def _replace(self, opened: ObjectFile, pins: Path) -> None:
        """Load and pin; maps of another form are filled from the old ones."""
        schema.set_aside(opened, self._map_pins)
        opened.pin_maps(self._map_pins)
        opened.load()
        schema.carry_over(self._map_pins)
        with contextlib.ExitStack() as stack:
            programs = [
                stack.enter_context(Program(os.dup(number), name)) for name, number in opened.programs().items()
            ]
            self._pin_programs(programs, pins)

    def _pin_programs(self, programs: Iterable[Program], pins: Path) -> None:
        """Pin in one step: a folder of that name is always whole."""
        unfinished = self._program_pins / "unfinished"
        for folder in (unfinished, pins):
            if folder.exists():
                shutil.rmtree(folder)
        unfinished.mkdir()
        for program in programs:
            program.pin(unfinished / program.name)
        unfinished.rename(pins)

    def _restore(self) -> None:
        """Pin again what this process has open, if the bpffs was unmounted under it: the maps keep what is in them."""
        if self._opened is None:
            return
        for name, one in self._maps.items():
            if not (self._map_pins / name).exists():
                one.pin(self._map_pins / name)
        self._links.restore()
        if not self._opened.exists():
            self._pin_programs(self._programs.values(), self._opened)

    def _open(self, pins: Path) -> None:
        self._close()
        self._maps = {path.name: Map.pinned(path) for path in schema.current(self._map_pins)}
        self._programs = {path.name: Program.pinned(path) for path in pins.iterdir()}
        if self._tcx is None:
            self._tcx = tcx_works(self._programs["from_pod"])

    def _close(self) -> None:
        for descriptor in (*self._maps.values(), *self._programs.values()):
            descriptor.close()
        self._maps, self._programs, self._opened = {}, {}, None

    def _renew_attached(self) -> None:
        """Give every attachment the program of its name that is loaded now."""
        for place, number in self._links.programs().items():
            self._put(place, _name(number), tcx=True)


def _name(number: int) -> str:
    """Return the name of a program in the kernel."""
    with Program.by_id(number) as program:
        return program.kernel_name


def _names(folder: Path) -> set[str]:
    """Return what lies in a folder; nothing if it is gone."""
    try:
        return {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return set()
