# SPDX-License-Identifier: Apache-2.0
"""The images as they are built: what deploy/Dockerfile promises of them."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pytest

from lab.kubernetes.build_image import images, size

pytestmark = pytest.mark.timeout(1800)

COMPILERS = {"as", "c++", "cc", "clang", "gcc", "ld", "make", "musl-gcc"}
"""Programs of who builds; pip is a folder of Python's."""

WANTED: dict[str, tuple[dict[str, object], float]] = {
    "ilanet": ({"Entrypoint": ["python", "-m"]}, 290e6),
    "etcd": ({"Entrypoint": ["/usr/bin/etcd"], "User": "65532:65532"}, 130e6),
}
"""By image: how it starts, and the bytes that its layers may become: a fifth more than they are."""


def member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    """Open a file of an archive."""
    found = archive.extractfile(name)
    assert found is not None, name
    return found


def looked_at(path: Path) -> tuple[dict[str, Any], list[PurePosixPath]]:
    """Return how containers of an image start, and every file of its layers."""
    with tarfile.open(path) as archive:
        [manifest] = json.load(member(archive, "manifest.json"))
        config = json.load(member(archive, manifest["Config"]))["config"]
        files: list[PurePosixPath] = []
        for name in manifest["Layers"]:
            with tarfile.open(fileobj=member(archive, name)) as layer:
                files += [PurePosixPath(entry.name) for entry in layer if not entry.isdir()]
    return config, files


@pytest.mark.parametrize("target", WANTED)
def test_an_image_is_what_it_is_said_to_be(target: str) -> None:
    """Nothing in it compiles or installs, it starts as its Dockerfile says, and it stays small."""
    [archive] = [path for name, path in images(print).items() if f"/{target}:" in name]
    config, files = looked_at(archive)
    starts, most = WANTED[target]
    assert {key: config[key] for key in ("Entrypoint", "User", "Cmd") if config.get(key)} == starts
    assert len(files) > 1000
    assert [str(file) for file in files if file.name in COMPILERS or "pip" in file.parts] == []
    assert [str(file) for file in files if file.suffix == ".c"] == []
    print(f"{target}: {size(archive) / 1e6:.0f} MB of layers")
    assert size(archive) <= most
