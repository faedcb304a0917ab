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

COMMANDS = ("cat", "echo", "hostname", "httpd", "ip", "nc", "ping", "sh", "sleep")
"""What the shell in a container finds on its PATH."""

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def write_image(path: Path) -> None:
    """Write the image to `path`, in the form of `docker save`."""
    layer = _tar(
        {"bin/busybox": BUSYBOX.read_bytes()},
        links={f"bin/{command}": "busybox" for command in COMMANDS},
        folders=("bin", "dev", "etc", "proc", "sys", "tmp", "www"),
    )
    config = json.dumps(
        {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Entrypoint": ["/bin/busybox"], "Cmd": ["sleep", "2147483647"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]).encode()
    path.write_bytes(_tar({"manifest.json": manifest, name: config, "layer.tar": layer}))


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
