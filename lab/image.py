# SPDX-License-Identifier: Apache-2.0
"""A container image of one static busybox, made without a registry: a tar that `ctr images import` reads."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Sequence
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
"""Debian's busybox-static puts it there."""

IMAGE = "localhost/ilanet/busybox:1"
"""The image's name: of the sandbox and of every container."""

COMMANDS = (
    *("cat", "date", "echo", "grep", "head", "hostname", "httpd", "ip", "ls", "mkdir", "nc", "nslookup", "ping"),
    *("printf", "seq", "sh", "sleep", "tail", "test", "timeout", "touch", "true", "wc", "wget"),
)
"""What the shell in a container finds on its PATH."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def write_image(
    path: Path,
    *,
    name: str = IMAGE,
    program: Path | None = None,
    words: Sequence[str] = (),
    root: Path | None = None,
    more: Sequence[Path] = (),
    place: str = "",
) -> None:
    """Write the image to `path`, in the form of `docker save`.

    program: a static one that containers start, instead of a sleep, with `words` unless they say others.
    place: the program's path in the image; '': at the top.
    root: a tar of the files below it, instead of busybox; more: files that lie at the top.
    """
    files = {file.name: file.read_bytes() for file in more}
    starts = {"Entrypoint": ["/bin/busybox"], "Cmd": ["sleep", "2147483647"]}
    if program is not None:
        place = place or program.name
        files[place] = program.read_bytes()
        starts = {"Entrypoint": [f"/{place}"], "Cmd": list(words)}
    layers = [_busybox() if root is None else root.read_bytes(), *([_tar(files)] if files else [])]
    config = json.dumps(
        {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Env": [f"PATH={_PATH}"], **starts},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "lab/image.py"} for _ in layers],
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers],
            },
        }
    ).encode()
    described = f"{hashlib.sha256(config).hexdigest()}.json"
    named = {f"layer{number}.tar": layer for number, layer in enumerate(layers)}
    manifest = json.dumps([{"Config": described, "RepoTags": [name], "Layers": list(named)}]).encode()
    path.write_bytes(_tar({"manifest.json": manifest, described: config, **named}))


def _busybox() -> bytes:
    return _tar(
        {"bin/busybox": BUSYBOX.read_bytes()},
        links={f"bin/{command}": "busybox" for command in COMMANDS},
        folders=("bin", "dev", "etc", "proc", "sys", "tmp", "www"),
    )


def _tar(files: dict[str, bytes], *, links: dict[str, str] | None = None, folders: tuple[str, ...] = ()) -> bytes:
    """Return a tar, the same bytes each time: entries have no dates and belong to root."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for folder in folders:
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return raw.getvalue()
