# SPDX-License-Identifier: Apache-2.0
"""A routed fabric that learns where pods are from the nodes: by the configurations of deploy/routing, as shipped."""

from __future__ import annotations

import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from agent.kernel.namespace import in_namespace
from lab.cluster import STATE, Cluster
from lab.fabric import Host, Shape
from lab.namespace import Namespace, cable
from lab.process import SOURCE, Process, stop_all
from tests.netns.conftest import greet

CONFIGURATIONS = SOURCE / "deploy/routing"
CLIENT = "2001:db8::2"
ROUTER_AS, NODE_AS = 64512, 64513


def router_configuration(hosts: list[Host]) -> str:
    """Return bird's configuration for the router: it takes what nodes announce into its kernel."""
    sessions = [
        f"protocol bgp host{host.number} {{ local {host.gateway} as {ROUTER_AS}; neighbor {host.address} as {NODE_AS};"
        " hold time 9; ipv6 { import all; export none; }; }"
        for host in hosts
    ]
    kernel = "protocol kernel { ipv6 { import none; export all; }; }"
    return "\n".join(["router id 192.0.2.254;", "protocol device { scan time 1; }", kernel, *sessions])


def filled(text: str, host: Host, *, entry: bool) -> str:
    """Return a shipped configuration with what is a node's own in it."""
    text = text.replace("fd00:a:0:1::2", host.address).replace("fd00:a:0:1::1", str(host.gateway))
    text = text.replace("192.0.2.1", f"192.0.2.{host.number}")
    if not entry:
        text = text.replace("ENTRY = true", "ENTRY = false")
        text = re.sub(r".*seq 20 permit.*\n", "", text)
    return text


def bird(namespace: Namespace, text: str, directory: Path) -> list[Process]:
    """Start bird."""
    file = directory / f"{namespace.name}-bird.conf"
    file.write_text(text)
    words = ("bird", "-f", "-c", str(file), "-s", str(file.with_suffix(".ctl")), "-P", str(file.with_suffix(".bird")))
    process = Process(name=file.stem, command=(*namespace.prefix, *words), directory=directory)
    process.start()
    return [process]


def bird_on_node(host: Host, directory: Path, *, entry: bool) -> list[Process]:
    """Start bird with the shipped configuration."""
    return bird(host.namespace, filled((CONFIGURATIONS / "bird.conf").read_text(), host, entry=entry), directory)


def frr_on_node(host: Host, directory: Path, *, entry: bool) -> list[Process]:
    """Start zebra and bgpd with the shipped configuration; they run as their own user, who may not see `directory`."""
    own = STATE / host.namespace.name.rpartition("-")[0] / f"{host.name}-frr"
    own.mkdir()
    file = own / "frr.conf"
    file.write_text(filled((CONFIGURATIONS / "frr.conf").read_text(), host, entry=entry))
    shutil.chown(own, "frr", "frr")
    started = []
    for name in ("zebra", "bgpd"):
        words = (f"/usr/lib/frr/{name}", "-f", str(file), "-i", str(own / f"{name}.frr"), "-P", "0")
        sockets = ("-z", str(own / "zserv"), "--vty_socket", str(own))
        command = (*host.namespace.prefix, *words, *sockets)
        process = Process(name=f"{host.namespace.name}-{name}", command=command, directory=directory)
        process.start()
        started.append(process)
        time.sleep(0.5)
    return started


@contextmanager
def fabric(directory: Path, speak: Callable[..., list[Process]], name: str) -> Iterator[Cluster]:
    """Bring a cluster up whose router knows nothing but what nodes tell it; the first two are entry nodes."""
    with ExitStack() as stack:
        cluster = Cluster(name=name, hosts=3, shape=Shape.ROUTED, announced=True)
        stack.callback(cluster.close)
        cluster.start_underlay()
        processes = bird(cluster.fabric.router, router_configuration(cluster.hosts), directory)
        for host in cluster.hosts:
            processes += speak(host, directory, entry=host.number < 3)
        stack.callback(stop_all, processes)
        cluster.start_processes()
        # a client that is no part of the cluster: the demo's guard would stop what comes in to the SIR prefix
        cluster.fabric.router.run("nft", "delete", "table", "ip6", "guard")
        yield cluster


@pytest.mark.timeout(180)
@pytest.mark.parametrize("speak", [bird_on_node, frr_on_node], ids=["bird", "frr"])
def test_a_fabric_learns_where_pods_are(tmp_path: Path, speak: Callable[..., list[Process]]) -> None:
    """Pods talk, and reach the outside as they are; what comes in goes on when the entry node that it came by dies."""
    name = f"rt{speak.__name__[0]}"
    with fabric(tmp_path, speak, name) as cluster, ExitStack() as stack:
        router = cluster.fabric.router
        wanted = {str(host.locator) for host in cluster.hosts} | {str(cluster.domain.sir_prefix)}
        _until(lambda: wanted <= set(re.findall(r"^(fd00:\S+/\d+)", router.ip("route"), re.MULTILINE)), router)
        pods = [cluster.pod(f"p{host.number}", host) for host in cluster.hosts]
        for pod in pods:
            for other in pods:
                pod.namespace.run("ping", "-c1", "-W2", str(other.address))
        client = Namespace.create(f"{name}-client")
        stack.callback(client.close)
        cable((router, "out"), (client, "eth0"))
        router.ip("address", "add", "2001:db8::1/64", "dev", "out", "nodad")
        client.ip("address", "add", f"{CLIENT}/64", "dev", "eth0", "nodad")
        client.ip("route", "add", "default", "via", "2001:db8::1")
        for pod in pods:  # as they are: nothing masquerades here
            assert greet(pod.namespace, client, CLIENT, 9001) == pod.address
        connection = stack.enter_context(_connected(client, pods[2].namespace, str(pods[2].address)))
        assert _echo(connection, b"before")
        way = router.ip("route", "get", str(pods[2].address))
        entry = next(host for host in cluster.hosts if f"via {host.address} " in way)
        assert entry.number < 3
        cluster.fabric.unplug(entry)
        assert _echo(connection, b"after")
        assert f"via {entry.address} " not in router.ip("route", "get", str(pods[2].address))
        assert greet(pods[2].namespace, client, CLIENT, 9001) == pods[2].address


def _until(true: Callable[[], bool], router: Namespace) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, router.ip("route")
        time.sleep(0.2)


@contextmanager
def _connected(client: Namespace, pod: Namespace, address: str) -> Iterator[socket.socket]:
    """Yield a connection from the client to an echo in the pod."""

    def listen() -> socket.socket:
        return socket.create_server(("::", 9000), family=socket.AF_INET6)

    def connect() -> socket.socket:
        return socket.create_connection((address, 9000), timeout=40)

    with pod.path.open() as inside, client.path.open() as outside:
        server = in_namespace(inside.fileno(), listen)

        def echo() -> None:
            served, _ = server.accept()
            with served:
                while said := served.recv(100):
                    served.sendall(said)

        thread = threading.Thread(target=echo)
        thread.start()
        with server, in_namespace(outside.fileno(), connect) as connection:
            yield connection
        thread.join()


def _echo(connection: socket.socket, said: bytes) -> bool:
    connection.sendall(said)
    return connection.recv(100) == said
