# SPDX-License-Identifier: Apache-2.0
"""The agent's life on a kernel without tcx: attached, under a clock that jumps, restarted, gone; inside the guest."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

from lab.namespace import run
from tests.vm.clock import HOUR, GuestClock
from tests.vm.interoperation import EDGE, Pair
from tests.vm.rows import AGENT, Rows
from tests.vm.traffic import PATIENCE, End, ping, until

_FILTER = re.compile(r"handle 0x11a .*direct-action.* id (\d+) name (\S+)")


def check(two: Pair, rows: Rows) -> None:
    """Fill the rows of the agent; it is uninstalled at the end."""
    clock = GuestClock()
    works: tuple[Callable[[Pair], None], ...] = (
        clsact,
        edge,
        lambda two: clock_ahead(two, clock),
        lambda two: clock_right_again(two, clock),
        restart,
        deleted_pod,
        uninstall,
    )
    for name, work in zip(AGENT, works, strict=True):
        rows.check(name, lambda work=work: work(two))  # type: ignore[misc]


def attached(two: Pair, device: str, direction: str) -> list[tuple[str, str]]:
    """Return id and name of our programs among a device's filters."""
    return _FILTER.findall(two.ours.namespace.run("tc", "filter", "show", "dev", device, direction))


def _host_end(two: Pair) -> str:
    return str(two.cluster.pods["ours"].result["interfaces"][0]["name"])


def _names(two: Pair, *places: tuple[str, str]) -> list[list[str]]:
    return [[name for _, name in attached(two, *place)] for place in places]


def _pins(two: Pair) -> list[bool]:
    """Tell for every recorded attachment whether it is a filter's: a tcx link's record is its pin, a file."""
    folder = two.cluster.directory / two.ours.name / "bpf/ilanet/links"
    return [path.is_dir() for path in folder.iterdir()]


def clsact(two: Pair) -> None:
    """Find the programs of underlay and pod as filters, and nothing attached otherwise."""
    places = (("eth0", "ingress"), ("eth0", "egress"), (_host_end(two), "ingress"))
    assert _names(two, *places) == [["from_wire"], ["to_wire"], ["from_pod"]]
    assert set(_pins(two)) == {True}


def edge(two: Pair) -> None:
    """Find the edge's programs on a device at the domain's edge."""
    assert _names(two, (EDGE, "ingress"), (EDGE, "egress")) == [["from_edge"], ["to_edge"]]


class Stream:
    """Numbered datagrams, each sent when the one before it has come back; stop() tells how many there were."""

    def __init__(self, source: End, target: End) -> None:
        self._source = source
        self._target = target
        self._stopped = threading.Event()
        self._failure: list[BaseException] = []
        self.count = 0
        self._thread = threading.Thread(target=self._guarded)
        self._thread.start()

    def _guarded(self) -> None:
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001 - stop() raises it
            self._failure.append(error)

    def _run(self) -> None:
        with self._source.udp() as client, self._target.udp() as server:
            client.connect((self._target.address, server.getsockname()[1]))
            while not self._stopped.is_set():
                number = str(self.count).encode()
                client.send(number)
                received, peer = server.recvfrom(100)
                server.sendto(received, peer)
                assert client.recv(100) == number
                self.count += 1

    def stop(self) -> int:
        """End it; a datagram that was lost raises what the socket said, and what both ends have counted."""
        self._stopped.set()
        self._thread.join(4 * PATIENCE)
        if self._failure:
            counted = [
                {name: count for name, count in end.counters().items() if count and not name.startswith("Icmp6")}
                for end in (self._source, self._target)
            ]
            raise AssertionError(f"after {self.count} datagrams: {self._failure[0]!r}; {counted}") from self._failure[0]
        return self.count


def clock_ahead(two: Pair, clock: GuestClock) -> None:
    """Let an hour pass at once; an agent that starts then finds etcd and controller, too."""
    _jump(two, lambda: clock.set_ahead(HOUR), "ahead")
    restart(two)


def clock_right_again(two: Pair, clock: GuestClock) -> None:
    """Set it back by that hour."""
    _jump(two, lambda: clock.set_ahead(0), "back")


def _jump(two: Pair, set_clock: Callable[[], None], name: str) -> None:
    """Set the clock under traffic: not one datagram is lost, a pod comes, is reached and goes, no process ends."""
    stream = Stream(two.linux.pod, two.pod)
    try:
        until(lambda: stream.count > 10, "no traffic before the jump")
        before = _running(two)
        set_clock()
        sent = stream.count
        _come_and_go(two, name)
        until(lambda: stream.count > sent + 10, "no traffic after the jump")
    finally:
        stream.stop()
    assert _running(two) == before
    assert two.cluster.status(two.ours)["problems"] == {}


def _come_and_go(two: Pair, name: str) -> None:
    """Add a pod, reach it and delete it; the controller publishes both, and the agent hears so from etcd."""
    mappings = two.cluster.status(two.ours)["mappings"]
    pod = two.cluster.pod(name, two.ours)
    assert two.cluster.status(two.ours)["mappings"] == mappings + 1
    two.linux.learn(pod.address, two.ours.locator)
    end = End(pod.namespace, pod.address, b"")
    ping(two.linux.pod, end, 56)
    ping(end, two.linux.pod, 56)
    pod.delete()
    until(lambda: two.cluster.status(two.ours)["mappings"] == mappings, "the agent does not hear of the pod's end")


def _running(two: Pair) -> list[int]:
    """Return the process ids of etcd, controller and agent."""
    if two.cluster.etcd is None:
        raise ValueError("the cluster has no etcd")
    processes = (*two.cluster.controllers, *two.cluster.agents.values())
    return [two.cluster.etcd.pid(), *(process.pid for process in processes)]


def restart(two: Pair) -> None:
    """Kill the agent and start it again: every program stays, and not one datagram is lost meanwhile."""
    places = [("eth0", "ingress"), ("eth0", "egress"), (_host_end(two), "ingress"), (EDGE, "ingress"), (EDGE, "egress")]
    before = [attached(two, *place) for place in places]
    agent = two.cluster.agents[two.ours.name]
    stream = Stream(two.linux.pod, two.pod)
    try:
        until(lambda: stream.count > 10, "no traffic before the restart")
        agent.kill()
        sent = stream.count
        two.cluster.start_agent(two.ours)
        two.cluster.wait_ready()
        until(lambda: stream.count > sent + 10, "no traffic after the restart")
    finally:
        stream.stop()
    assert [attached(two, *place) for place in places] == before


def deleted_pod(two: Pair) -> None:
    """See a pod come and go: no link and no endpoint is left."""
    pod = two.cluster.pod("second", two.ours)
    name = pod.result["interfaces"][0]["name"]
    assert _names(two, (name, "ingress")) == [["from_pod"]]
    pod.delete()
    assert name not in two.ours.namespace.run("ip", "link", "show")
    assert list(two.cluster.status(two.ours)["endpoints"]) == [_host_end(two)]


def uninstall(two: Pair) -> None:
    """Uninstall: no filter, qdisc, pin, link, route or rule of the agent is left on the host."""
    two.cluster.agents[two.ours.name].stop()
    two.cluster.uninstall(two.ours)
    run_there = two.ours.namespace.run
    assert _names(two, ("eth0", "ingress"), ("eth0", "egress"), (EDGE, "ingress")) == [[], [], []]
    assert "clsact" not in run_there("tc", "qdisc", "show")
    assert not (two.cluster.directory / two.ours.name / "bpf/ilanet").exists()
    assert "ila" not in run("ip", "-n", two.ours.namespace.name, "-br", "link", "show")
    assert str(two.cluster.domain.sir_prefix) not in two.ours.namespace.ip("route", "show")
    assert run_there("nft", "list", "tables") == ""
