# SPDX-License-Identifier: Apache-2.0
"""A real etcd for each test, ended and removed whatever the test did."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from lab.authority import Authority
from lab.etcd import Etcd
from tests.etcd.tools import Connections


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    """One member in plaintext, on loopback."""
    with Etcd(directory=tmp_path / "etcd", fast=True) as running:
        yield running


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Make a certificate authority."""
    made = Authority(tmp_path_factory.mktemp("authority"))
    made.create()
    return made


@pytest.fixture
def guarded_etcd(tmp_path: Path, authority: Authority) -> Iterator[Etcd]:
    """One member with TLS, users and roles."""
    with Etcd(directory=tmp_path / "etcd", authority=authority, fast=True) as running:
        running.set_up_users()
        yield running


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    """Make channels, stores, streams and services, and close them."""
    made = Connections()
    try:
        yield made
    finally:
        await made.close()
