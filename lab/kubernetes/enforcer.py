# SPDX-License-Identifier: Apache-2.0
"""What enforces NetworkPolicy in the test cluster: kube-network-policies from source, under its own image's name.

It needs two things that some small kernels do not have: nft_queue, and labels of connections set by a verdict.  There
its rules use the target NFQUEUE of xtables instead (lab/kubernetes/policies/expr), and labels are set by accepted().
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from lab.fabric import Host
from lab.kubernetes.programs import NETPOL, POLICIES, Module, build_once, place_of
from lab.namespace import CommandError, run

IMAGE = f"registry.k8s.io/networking/kube-network-policies:{POLICIES.version}"
"""The name by which deploy/network-policies asks for it."""

PLACE = f"bin/{NETPOL}"
"""The program's path in the image."""

TABLE = "kube-network-policies"
"""The table, of the family inet, that the program leaves on its host when it ends: then its rules let all pass."""

_LIBRARY = "github.com/google/nftables"
_STANDS_IN = POLICIES.folder / "expr/queue.go"

_TRIAL = "table inet t { chain c { type filter hook output priority 0; queue num 1; }; }"

_ACCEPTED = """
table inet ilanet-lab-accepted {
  chain postrouting { type filter hook postrouting priority srcnat - 4; ct label set 28; }
}
"""
"""What gets past the program's own chain, of priority srcnat - 5, has been accepted; 28 is what nft calls its label."""


def enforcer(say: Callable[[str], None]) -> Path:
    """Build the program if it is missing, tell `say` of it, and return where it is."""
    if has_nft_queue():
        return build_once(say, POLICIES, NETPOL, place_of("policies", POLICIES))
    place = place_of("policies-xt", POLICIES, more=[_STANDS_IN])
    if (place / NETPOL).exists():
        return place / NETPOL
    with _standing_in() as module:
        return build_once(say, module, NETPOL, place)


@cache
def has_nft_queue() -> bool:
    """Tell whether this kernel knows nftables' rules that queue."""
    try:
        run("unshare", "--net", "nft", "-f", "-", stdin=_TRIAL)
    except CommandError:
        return False
    return True


@contextmanager
def accepted(hosts: Iterable[Host]) -> Iterator[None]:
    """Have connections labelled that the program has accepted, where the kernel does not do it by the verdict."""
    chosen = [] if has_nft_queue() else list(hosts)
    for host in chosen:
        host.namespace.run("nft", "-f", "-", stdin=_ACCEPTED)
    try:
        yield
    finally:
        for host in chosen:
            remove_table(host, "ilanet-lab-accepted")


def remove_table(host: Host, name: str) -> None:
    """Remove a table of the family inet from a host; none is no error."""
    host.namespace.run("nft", "-f", "-", stdin=f"table inet {name} {{}}\ndelete table inet {name}")


@contextmanager
def _standing_in() -> Iterator[Module]:
    """Yield the module with a copy of the library in which one file is ours."""
    with tempfile.TemporaryDirectory(prefix="ilanet-policies.") as directory:
        folder = Path(directory)
        for name in ("go.mod", "go.sum", "programs.go"):
            shutil.copy(POLICIES.folder / name, folder)
        shutil.copytree(POLICIES.fetch(_LIBRARY), folder / "nftables", copy_function=shutil.copyfile)
        shutil.copyfile(_STANDS_IN, folder / "nftables/expr/queue.go")
        with (folder / "go.mod").open("a") as text:
            text.write(f"\nreplace {_LIBRARY} => ./nftables\n")
        yield Module(folder=folder, path=POLICIES.path, programs=POLICIES.programs)
