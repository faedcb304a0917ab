# SPDX-License-Identifier: Apache-2.0
"""What is deployed, and the questions that its pods can be told to ask; for the scenarios and who runs them."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from cli.cluster import Cluster, ClusterError, Tree, path_of
from cli.facts import Node

PAUSE = 0.5
"""Seconds between two attempts."""

_CALL = 5
"""Seconds that a connection may take, and an answer after it."""

_EXEC = 20.0
"""Seconds of a command in a pod, the API server's and the kubelet's share included."""

_AT_ONCE = 8
"""Commands that run at the same time."""

_ASK = r"""printf 'GET %s HTTP/1.0\r\n\r\n' "$1" | nc -w "$4" "$2" "$3" """
"""agnhost has no HTTP client that every build of it holds; nc is in all of them."""

T = TypeVar("T")


class Failed(Exception):  # noqa: N818 - an outcome's name
    """The network does not do what it should; the message says what was seen."""


class Skipped(Exception):  # noqa: N818 - an outcome's name
    """The scenario was not asked for, or makes no sense here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestPod:
    """A pod that is Ready."""

    name: str
    uid: str
    node: str
    address: str
    node_address: str

    def __str__(self) -> str:
        """Return how a reason names it."""
        return f"{self.name} ({self.node})"


def parse_pod(tree: Tree) -> TestPod | None:
    """Return the pod of a tree; None if it is not Ready, or on its way out."""
    status, metadata = tree.get("status", {}), tree["metadata"]
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", []))
    if not ready or "deletionTimestamp" in metadata:
        return None
    return TestPod(
        name=metadata["name"],
        uid=metadata["uid"],
        node=tree["spec"]["nodeName"],
        address=status["podIP"],
        node_address=status["hostIP"],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One run of the test, as a scenario sees it."""

    cluster: Cluster
    namespace: str
    nodes: tuple[Node, ...]
    pods: Mapping[str, TestPod]
    """Those that are Ready, by name."""

    outside: str | None
    host_port: int
    until: float = 0.0
    """When a scenario stops trying again, by the loop's clock."""

    def pod(self, name: str) -> TestPod:
        """Return a pod that a scenario cannot do without."""
        if name not in self.pods:
            raise Skipped(f"pod {name} is not Ready")
        return self.pods[name]

    def some(self, prefix: str) -> list[TestPod]:
        """Return the pods whose names begin so, by name; at least one."""
        found = [pod for name, pod in sorted(self.pods.items()) if name.startswith(prefix)]
        if not found:
            raise Skipped(f"no pod {prefix}* is Ready")
        return found

    # --- questions ---

    async def ask(self, pod: TestPod, host: str, path: str, port: int) -> str:
        """Return what netexec at an address answers to a pod; Failed if it does not."""
        words = ("sh", "-c", _ASK, "ask", path, host, str(port), str(_CALL))
        ran = await self.cluster.run(self.namespace, pod.name, words, deadline=_EXEC)
        head, _, body = ran.out.replace("\r\n", "\n").partition("\n\n")
        first = head.partition("\n")[0]
        if " 200 " not in f"{first} ":
            raise Failed(f"{pod} asks [{host}]:{port} and hears {first or ran.err.strip() or 'nothing'}")
        return body.strip()

    async def seen_as(self, pod: TestPod, host: str, port: int) -> str:
        """Return the address that a pod's question comes from, as who answers it sees it."""
        answer = await self.ask(pod, host, "/clientip", port)
        return client_address(answer)

    async def connect(self, pod: TestPod, endpoint: str) -> None:
        """Open a TCP connection from a pod; Failed if it is not answered."""
        words = ("/agnhost", "connect", endpoint, f"--timeout={_CALL}s", "--protocol=tcp")
        ran = await self.cluster.run(self.namespace, pod.name, words, deadline=_EXEC)
        if ran.status:
            raise Failed(f"{pod} does not reach {endpoint}: {(ran.err or ran.out).strip() or 'no reason given'}")

    async def resolve(self, pod: TestPod, service: str) -> set[str]:
        """Return the IPv6 addresses that a Service's name has for a pod."""
        domain = cluster_domain(await self._run(pod, ("cat", "/etc/resolv.conf")))
        name = f"{service}.{self.namespace}.svc.{domain}"
        ran = await self.cluster.run(self.namespace, pod.name, ("nslookup", "-type=aaaa", name), deadline=_EXEC)
        found = resolved(ran.out)
        if not found:
            said = " ".join((ran.out + ran.err).split())[-200:]
            raise Failed(f"{pod} finds no address of {name}: {said or 'no answer'}")
        return found

    async def service(self, name: str) -> Tree:
        """Return the spec of a Service of ours."""
        tree: Tree = (await self.cluster.read(path_of(self.namespace, "services", name)))["spec"]
        return tree

    async def _run(self, pod: TestPod, words: tuple[str, ...]) -> str:
        ran = await self.cluster.run(self.namespace, pod.name, words, deadline=_EXEC)
        if ran.status and not ran.out:
            raise Failed(f"{pod}: {words[0]} ended with {ran.status}: {ran.err.strip()}")
        return ran.out

    # --- patience ---

    async def eventually(self, work: Callable[[], Awaitable[T]]) -> T:
        """Return what work returns once it does not fail; the last reason once time is up."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                return await work()
            except (Failed, ClusterError) as error:
                if loop.time() >= self.until:
                    raise Failed(str(error)) from error
            await asyncio.sleep(PAUSE)

    async def each(self, items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> int:
        """Do work for each of some, several at once and each until it passes; return how many; Failed names some."""
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(item: T) -> str:
            async with room:
                try:
                    await self.eventually(lambda: work(item))
                except Failed as error:
                    return str(error)
                return ""

        reasons = await asyncio.gather(*(one(item) for item in items))
        if failed := [reason for reason in reasons if reason]:
            raise Failed(f"{len(failed)} of {len(reasons)} failed: {'; '.join(failed[:3])}")
        return len(reasons)


# --- what programs print ---


def client_address(text: str) -> str:
    """Return the address of netexec's '[address]:port'."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit():
        raise Failed(f"the answer {text!r} is no '[address]:port'")
    return normal(host.strip("[]"))


def normal(address: str) -> str:
    """Return an address as text that can be compared; Failed quotes what is none."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        raise Failed(f"{address!r} is no address") from None


def cluster_domain(resolv_conf: str) -> str:
    """Return the cluster's DNS domain: what follows 'svc.' in the search list that the kubelet writes."""
    for line in resolv_conf.splitlines():
        for word in line.split()[1:] if line.startswith("search") else []:
            if word.startswith("svc."):
                return word.removeprefix("svc.")
    raise Failed("the pod's /etc/resolv.conf has no svc.<domain> in its search list: does its DNS policy hold?")


def resolved(nslookup: str) -> set[str]:
    """Return the addresses that nslookup (busybox's or BIND's) prints after those of the server it asked."""
    _, _, answer = nslookup.partition("\n\n")
    found = set()
    for line in answer.splitlines():
        if line.startswith("Address") or "has AAAA address" in line:
            found.add(normal(line.split()[-1]))
    return found
