# SPDX-License-Identifier: Apache-2.0
"""Whether Services hide pods' addresses: on sockets of this machine, whose loopback stands for a Service."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest

from agent import service_check
from agent.core.network import NetworkError
from agent.core.status import Status
from agent.service_check import AGAIN, EVERY, PROBLEM, ServiceCheck, targets
from tests.fakes import REGISTRATION, Failing

LOOPBACK = ipaddress.IPv6Address("::1")


class FakePlace(Failing):
    """A place whose sockets are this machine's own."""

    descriptor = 0

    def admit(self, sources: object) -> None:
        raise NotImplementedError

    def datagrams(self, port: int) -> socket.socket:
        raise NotImplementedError

    def listener(self, port: int) -> socket.socket:
        raise NotImplementedError

    def stream(self) -> socket.socket:
        self.called("stream")
        made = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        made.setblocking(False)  # noqa: FBT003 - its own signature
        return made


@dataclass
class World:
    """A check of a Service behind which somebody listens, or nobody."""

    place: FakePlace
    status: Status
    listening: socket.socket
    check: ServiceCheck


@pytest.fixture
def world() -> Iterator[World]:
    """Yield it with a listener."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listening, ThreadPoolExecutor(2) as pool:
        port = listening.getsockname()[1]
        place, status = FakePlace(), Status()
        status.registered(replace(REGISTRATION, closed_ports=(port,)))
        check = ServiceCheck(services=[(LOOPBACK, port)], place=place, status=status, pool=pool)
        yield World(place, status, listening, check)


async def test_what_comes_about_twice_is_a_problem_until_it_does_not(world: World) -> None:
    """Once may be a node whose rules come a moment later; the sentence says what to set."""
    assert await world.check.step() == AGAIN
    assert world.status.problems == {}
    assert await world.check.step() == AGAIN
    assert "detectLocalMode: InterfaceNamePrefix" in world.status.problems[PROBLEM]
    assert f"Service [::1]:{world.listening.getsockname()[1]}" in world.status.problems[PROBLEM]
    world.listening.close()
    assert await world.check.step() == EVERY
    assert world.status.problems == {}
    assert await world.check.step() == EVERY


async def test_a_port_that_is_open_to_pods_says_nothing(world: World) -> None:
    """Nor does a node that is not registered."""
    world.status.registered(replace(REGISTRATION, closed_ports=(1,)))
    assert await world.check.step() == EVERY
    assert world.place.calls == []


async def test_silence_says_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is how it must be: the packet was dropped.  An end that is not attached yet looks again soon."""
    monkeypatch.setattr(service_check, "PATIENCE", 0.01)

    async def never(*_: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", never)
    assert await world.check.step() == EVERY
    world.place.fail_next["stream"] = NetworkError("no socket for probes")
    assert await world.check.step() == AGAIN

    async def no_way(*_: object) -> None:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", no_way)
    assert await world.check.step() == AGAIN
    assert world.status.problems == {}


def test_targets() -> None:
    """Names and addresses of IPv4 cannot be tried from an end that has an address of IPv6."""
    assert targets(["[fd00::1]:7443", "name:7443", "10.0.0.1:7443"]) == [(ipaddress.IPv6Address("fd00::1"), 7443)]
