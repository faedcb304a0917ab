# SPDX-License-Identifier: Apache-2.0
"""The images that Kubernetes' own tests ask for by name, made without a registry and kept below the user's cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from lab.image import write_image
from lab.kubernetes.programs import AGNHOST, CACHE, COREDNS, KUBERNETES, folder
from lab.namespace import run

_PACKAGES = ("bash", "conntrack", "curl", "dnsutils", "iperf", "iproute2", "iputils-ping", "netcat-openbsd", "wget")
"""What the tests call inside of their pods."""

_SUITE = "bookworm"
_MERGED = "/usr/share/mmdebstrap/hooks/merged-usr"
"""Makes /bin and its like links from the start, so that `usr-is-merged` can stand for `usrmerge`, which wants perl."""

_REGISTRY = "registry.k8s.io"
"""Part of the names; nothing is asked there."""

_PATIENCE = 900.0


def made(say: Callable[[str], None]) -> dict[str, Path]:
    """Make what is missing, tell `say` of each, and return the archives by the images' names."""
    root = debian(say, _PACKAGES)
    programs = folder()
    porter = KUBERNETES.source() / "test/images/agnhost/porter"
    more = [programs / COREDNS, porter / "localhost.crt", porter / "localhost.key"]
    everything: dict[str, tuple[Path | None, Path | None, Sequence[Path]]] = {
        "e2e-test-images/agnhost:2.56": (root, programs / AGNHOST, more),
        "e2e-test-images/jessie-dnsutils:1.7": (root, None, more[:1]),
        "build-image/distroless-iptables:v0.7.14": (root, None, ()),
        "e2e-test-images/busybox:1.37.0-1": (None, None, ()),
        "pause:3.10.1": (None, None, ()),
    }
    return {f"{_REGISTRY}/{name}": _image(say, f"{_REGISTRY}/{name}", *parts) for name, parts in everything.items()}


def debian(say: Callable[[str], None], packages: Sequence[str]) -> Path:
    """Return a tar of a small Debian with these packages."""
    recipe = hashlib.sha256(" ".join((_SUITE, *packages)).encode()).hexdigest()[:12]
    path = CACHE / f"images/debian-{recipe}.tar"
    if not path.exists():
        say(f"making a Debian root with {', '.join(packages)}, once")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{os.getpid()}.{path.name}")
        leave_out = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
        words = ["--variant=minbase", f"--include={','.join(packages)}", *leave_out, f"--hook-dir={_MERGED}"]
        try:
            run("mmdebstrap", *words, _SUITE, str(temporary), timeout=_PATIENCE)
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def _image(
    say: Callable[[str], None], name: str, root: Path | None, program: Path | None, more: Sequence[Path]
) -> Path:
    """Return the archive of one image, kept by the programs and the root that it is made of."""
    recipe = hashlib.sha256(Path(__file__).read_bytes() + f"{folder().name} {root.name if root else ''}".encode())
    path = CACHE / f"images/{name.rpartition('/')[2].replace(':', '-')}-{recipe.hexdigest()[:12]}.tar"
    if not path.exists():
        say(f"making the image {name}, once")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{os.getpid()}.{path.name}")
        write_image(temporary, name=name, root=root, more=more, program=program, words=["pause"])
        temporary.rename(path)
    return path
