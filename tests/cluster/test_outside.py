# SPDX-License-Identifier: Apache-2.0
"""Pods and what is no part of the cluster: they reach it with their node's address, of either version of IP."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agent.kernel.namespace import in_namespace
from lab.fabric import OUTSIDE, OUTSIDE_IPV4, host_ipv4
from lab.kubernetes.cluster import KubernetesCluster
from tests.cluster.kubectl import Kubectl, deployment

pytestmark = pytest.mark.timeout(300)

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


def test_pods_reach_the_outside(ours: KubernetesCluster, kube: Kubectl) -> None:
    """From every node, by that node's address; among themselves their own is seen."""
    nodes = {node["metadata"]["name"]: node["status"]["addresses"][0]["address"] for node in kube.get("nodes")["items"]}
    kube.apply(deployment("web", replicas=len(nodes)))
    pods = kube.ready("web", len(nodes))
    with outside(ours, OUTSIDE):
        for pod in pods:
            name = pod["metadata"]["name"]
            assert kube.ask(name, OUTSIDE, "/", PORT) == nodes[pod["spec"]["nodeName"]]
            for other in pods:
                assert pod["status"]["podIP"] in kube.ask(name, other["status"]["podIP"], "/clientip")


def test_pods_reach_what_has_ipv4_alone(ours: KubernetesCluster, kube: Kubectl) -> None:
    """Where the setting says so, by that address of their node; to Kubernetes each has its SIR address and no other."""
    nodes = {host.name: host_ipv4(host) for host in ours.lab.hosts}
    kube.apply(deployment("web", replicas=len(nodes)))
    pods = kube.ready("web", len(nodes))
    with outside(ours, OUTSIDE_IPV4):
        for pod in pods:
            seen = kube.ask(pod["metadata"]["name"], OUTSIDE_IPV4, "/", PORT)
            assert seen == (nodes[pod["spec"]["nodeName"]] if ours.deploy.name == "kind" else "")
            assert [entry["ip"] for entry in pod["status"]["podIPs"]] == [pod["status"]["podIP"]]
            assert ":" in pod["status"]["podIP"]
