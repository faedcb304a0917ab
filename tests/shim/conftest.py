# SPDX-License-Identifier: Apache-2.0
"""The executable in two builds, and what it talks to."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.namespace import Namespace
from tests.shim.program import DEADLINE, LARGEST_QUEUE, FakeNetwork, Shim, build


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build the executable as it is shipped but for its deadline, and one that watches its own memory."""
    folder = tmp_path_factory.mktemp("shim")
    deadline = (f"-DDEADLINE={DEADLINE}", f"-DLARGEST_QUEUE={LARGEST_QUEUE}")
    watched = ("gcc", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", *deadline)
    return {
        "plain": build(folder / "plain", "musl-gcc", "-static", "-Os", *deadline),
        "watched": build(folder / "watched", *watched),
    }


@pytest.fixture(params=["plain", "watched"])
def shim(request: pytest.FixtureRequest, builds: dict[str, Path], tmp_path: Path) -> Shim:
    return Shim(builds[request.param], tmp_path / "cni.sock")


@pytest.fixture
def network() -> FakeNetwork:
    return FakeNetwork()


@pytest.fixture
def pod() -> Iterator[Namespace]:
    namespace = Namespace.create(f"ilc-{os.getpid()}-shim")
    yield namespace
    namespace.close()
