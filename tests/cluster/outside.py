# SPDX-License-Identifier: Apache-2.0
"""A machine that is no part of the cluster: the lab's router, which answers and asks."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from agent.kernel.namespace import in_namespace
from lab.kubernetes.cluster import KubernetesCluster
from lab.namespace import CommandError

PORT = 8081


@contextmanager
def outside(ours: KubernetesCluster, where: str) -> Iterator[None]:
    """Answer on the fabric's router, which has no route to the SIR prefix, with the address of who asks."""

    def listen() -> socket.socket:
        return socket.create_server((where, PORT), family=socket.AF_INET6 if ":" in where else socket.AF_INET)

    with ours.lab.fabric.router.path.open() as file:
        server = in_namespace(file.fileno(), listen)

    def answer() -> None:
        while True:
            try:
                connection, address = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(1000)
                body = str(address[0])
                connection.sendall(f"HTTP/1.0 200 OK\r\n\r\n{body}".encode())

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def ask_from_outside(ours: KubernetesCluster, host: str, path: str, port: int) -> str:
    """Return what a node's port answers to a machine that is no part of the cluster; '' if nothing does in time."""
    try:
        return ours.lab.fabric.router.run("curl", "-sg", "--max-time", "3", f"http://[{host}]:{port}{path}").strip()
    except CommandError:
        return ""
