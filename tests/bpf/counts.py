# SPDX-License-Identifier: Apache-2.0
"""How many instructions the verifier walks for each program, by kernel: kept in verifier.json, renewed by main().

    python -m tests.bpf.counts           measure here and on the kernel of lab/vm.py, and write the file
    python -m tests.bpf.counts --here    measure here and print

A program's name is that of its host path and its own, since the verifier sees the settings' values.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from collections.abc import Mapping
from ctypes import c_uint32, c_uint64
from pathlib import Path

from agent.core.datapath import DatapathError
from agent.kernel.datapath import BpfDatapath
from agent.kernel.libbpf import ProgramInfo
from lab.kernels import stock_kernel
from lab.vm import run_in
from tests.bpf.world import HOST_ROUTING, OBJECT, SETTINGS, mounted_bpffs

FILE = Path(__file__).parent / "verifier.json"
GROWTH = 1.1
"""More than this times what the file says is growth that somebody must look at."""

RENEW = "if it is meant, renew the file with `make verifier-counts`"


class VerifiedInfo(ProgramInfo):
    """struct bpf_prog_info up to the count, which kernels have since 5.16."""

    _fields_ = (  # type: ignore[assignment]  # the base's own fields come first
        ("ifindex", c_uint32),
        ("flags", c_uint32),
        ("netns_dev", c_uint64),
        ("netns_ino", c_uint64),
        ("nr_jited_ksyms", c_uint32),
        ("nr_jited_func_lens", c_uint32),
        ("jited_ksyms", c_uint64),
        ("jited_func_lens", c_uint64),
        ("btf_id", c_uint32),
        ("func_info_rec_size", c_uint32),
        ("func_info", c_uint64),
        ("nr_func_info", c_uint32),
        ("nr_line_info", c_uint32),
        ("line_info", c_uint64),
        ("jited_line_info", c_uint64),
        ("nr_jited_line_info", c_uint32),
        ("line_info_rec_size", c_uint32),
        ("jited_line_info_rec_size", c_uint32),
        ("nr_prog_tags", c_uint32),
        ("prog_tags", c_uint64),
        ("run_time_ns", c_uint64),
        ("run_cnt", c_uint64),
        ("recursion_misses", c_uint64),
        ("verified_insns", c_uint32),
    )


def kernel() -> str:
    """Return the running kernel as the file names it, such as '6.1'."""
    return ".".join(platform.release().split(".")[:2])


def measured(pins: Path) -> dict[str, int]:
    """Load every program on the running kernel and return what its verifier walked."""
    found = {}
    for settings in (SETTINGS, HOST_ROUTING):
        way = settings.host_path.value
        datapath = BpfDatapath(object_path=OBJECT, pin_directory=pins / f"counts-{way}")
        try:
            datapath.load(settings)
            for name, program in datapath._programs.items():
                found[f"{way}/{name}"] = int(program._info(VerifiedInfo()).verified_insns)
        finally:
            datapath.unload()
    if not all(found.values()):
        raise DatapathError(f"the kernel says that programs were not verified: {found}")
    return dict(sorted(found.items()))


def known() -> dict[str, dict[str, int]]:
    """Return what the file says, by kernel."""
    found: dict[str, dict[str, int]] = json.loads(FILE.read_text())
    return found


def objections(before: Mapping[str, int], now: Mapping[str, int]) -> list[str]:
    """Say what is not as it was: programs that came or went, and those that grew by more than GROWTH."""
    found = [f"{name} is new ({now[name]} instructions)" for name in sorted(now.keys() - before.keys())]
    found += [f"{name} is gone" for name in sorted(before.keys() - now.keys())]
    for name in sorted(now.keys() & before.keys()):
        if now[name] > before[name] * GROWTH:
            found.append(f"{name} grew from {before[name]} to {now[name]} instructions")
    return found


def _in_machine() -> tuple[str, dict[str, int]]:
    with tempfile.TemporaryDirectory(prefix="ilanet-vm-") as share:
        command = [sys.executable, "-m", "tests.bpf.counts", "--here"]
        outcome = run_in(stock_kernel(), command, share=Path(share), deadline=180)
    if outcome.status:
        raise DatapathError(f"exit {outcome.status}: {outcome.output}")
    ((name, counts),) = json.loads(outcome.output).items()
    return name, counts


def main() -> None:
    """Measure, and write or print."""
    with mounted_bpffs() as pins:
        here = {kernel(): measured(pins)}
    if sys.argv[1:] == ["--here"]:
        print(json.dumps(here))
        return
    counts = {**(known() if FILE.exists() else {}), **here}
    name, there = _in_machine()
    counts[name] = there
    FILE.write_text(json.dumps(dict(sorted(counts.items())), indent=1) + "\n")
    for release, programs in counts.items():
        print(f"{release}: {sum(programs.values())} instructions in {len(programs)} programs")


if __name__ == "__main__":
    main()
