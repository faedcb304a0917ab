# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the BPF tests: namespaces and bpffs mounts of their own, gone after each module."""

from __future__ import annotations

import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bpf.world import OBJECT, World, make_devices, mounted_bpffs, own_namespace


@pytest.fixture(scope="module", autouse=True)
def _namespace() -> Iterator[None]:
    if not OBJECT.is_file():
        pytest.fail(f"{OBJECT} is not there: run 'make build'")
    with own_namespace():
        make_devices()
        yield


@pytest.fixture(scope="module")
def bpffs() -> Iterator[Path]:
    """Return a bpffs of this module."""
    with mounted_bpffs() as folder:
        yield folder


@pytest.fixture(scope="module")
def world(bpffs: Path) -> World:
    """Return hosts by their settings."""
    return World(bpffs)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return what compiles an object of tests/bpf/objects by its name."""

    def compile_object(name: str) -> Path:
        source = Path(__file__).parent / "objects" / f"{name}.bpf.c"
        target = tmp_path_factory.mktemp("objects") / f"{name}.bpf.o"
        headers = Path("/usr/include") / sysconfig.get_config_var("MULTIARCH")
        command = ["clang", "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror", "-isystem", str(headers)]
        subprocess.run([*command, "-c", str(source), "-o", str(target)], check=True)
        return target

    return compile_object
