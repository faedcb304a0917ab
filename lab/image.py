# SPDX-License-Identifier: Apache-2.0
"""A container image of one static busybox, made without a registry: a tar that `ctr images import` reads."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
"""Debian's busybox-static puts it there."""

IMAGE = "localhost/ilanet/busybox:1"
"""The image's name: of the sandbox and of every container."""

COMMANDS = ("cat", "echo", "hostname", "httpd", "ip", "nc", "nslookup", "ping", "sh", "sleep")
"""What the shell in a container finds on its PATH."""

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def write_image(path: Path, *, name: str = IMAGE, program: Path | None = None) -> None:
    """Write the image to `path`, in the form of `docker save`; with a static program, that is what it starts."""
    files = {"bin/busybox": BUSYBOX.read_bytes()}
    starts = {"Entrypoint": ["/bin/busybox"], "Cmd": ["sleep", "2147483647"]}
    if program is not None:
        files[program.name] = program.read_bytes()
        starts = {"Entrypoint": [f"/{program.name}"]}
    layer = _tar(
        files,
        links={f"bin/{command}": "busybox" for command in COMMANDS},
        folders=("bin", "dev", "etc", "proc", "sys", "tmp", "www"),
    )
    config = json.dumps(
        {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], **starts},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    described = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": described, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    path.write_bytes(_tar({"manifest.json": manifest, described: config, "layer.tar": layer}))


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
