# SPDX-License-Identifier: Apache-2.0
"""A real etcd of one or more members as child processes: for the demo, and for tests that do harm to it."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from ila import mapping
from ila.certificates import AGENT, CONTROLLER
from ila.settings import Peer
from lab.authority import Authority, Certificate
from lab.namespace import CommandError, run
from lab.process import Process

NAME = "etcd.ilanet"
"""In every server's certificate: what clients check, since they know several addresses (grpc.default_authority)."""


_FIRST_PORT = 10_000
"""Below are the ports that programs are known by."""


def endpoint(address: str, port: int) -> str:
    """Return 'address:port', with brackets around an IPv6 address."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def free_port(address: str = "127.0.0.1") -> int:
    """Return a TCP port that is free now, one of those that the kernel gives to no connection meanwhile."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(_FIRST_PORT, first)  # noqa: S311 - whoever else looks for one is to look elsewhere
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as taken:
            taken.bind((address, port))
            return port


@dataclass(frozen=True, slots=True)
class Place:
    """Where one member runs and listens."""

    address: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()
    """Words before its command, such as Namespace.prefix."""

    client_port: int = field(default_factory=free_port)
    peer_port: int = field(default_factory=free_port)

    @property
    def client(self) -> str:
        """The endpoint that clients use."""
        return endpoint(self.address, self.client_port)

    @property
    def peer(self) -> str:
        """The endpoint that other members use."""
        return endpoint(self.address, self.peer_port)


class Etcd:
    """A cluster in a directory; start() begins, stop() ends it, close() also removes its data."""

    def __init__(
        self,
        *,
        directory: Path,
        places: Sequence[Place] | None = None,
        authority: Authority | None = None,
        fast: bool = False,
        options: Sequence[str] = (),
        deadline: float = 30.0,
    ) -> None:
        """Take where members run, and who signs certificates (none: plaintext, which only loopback should have).

        fast: no fsync and quick elections, for tests; options: further words of etcd's command line; deadline:
        seconds to be healthy.
        """
        self._directory = directory
        self._places = tuple(places or (Place(),))
        self._authority = authority
        self._fast = fast
        self._options = tuple(options)
        self._deadline = deadline
        self._processes: dict[int, Process] = {}
        self._root: Certificate | None = None

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where clients reach the members."""
        return tuple(place.client for place in self._places)

    @property
    def directory(self) -> Path:
        """Where data, certificates and logs are."""
        return self._directory

    def data(self, member: int) -> Path:
        """Return where a member keeps its data."""
        return self._directory / f"member{member}"

    def pid(self, member: int = 0) -> int:
        """Return a member's process id; 0 if it does not run."""
        return self._processes[member].pid if member in self._processes else 0

    def peer(self, certificate: Certificate | None = None) -> Peer:
        """Return how to reach it: with this client certificate, or in plaintext."""
        if certificate is None:
            return Peer(endpoints=self.endpoints, insecure=True)
        return Peer(
            endpoints=self.endpoints,
            authority=NAME,
            ca=certificate.ca,
            certificate=certificate.certificate,
            key=certificate.key,
        )

    def client(self, user: str) -> Peer:
        """Return how a user (CONTROLLER, AGENT) reaches it, with a new certificate named after the user."""
        if self._authority is None:
            return self.peer()
        return self.peer(self._authority.client(user, common_name=user))

    def start(self) -> None:
        """Start all members that do not run, and wait until the cluster is healthy."""
        self._directory.mkdir(parents=True, exist_ok=True)
        if self._authority is not None and self._root is None:
            self._root = self._authority.client("etcd-root", common_name="root")
        for member in range(len(self._places)):
            self.start_member(member)
        self.wait()

    def start_member(self, member: int) -> None:
        """Start one member without waiting for it."""
        if not self.pid(member):
            self._processes[member] = Process(
                name=f"etcd{member}",
                command=[*self._places[member].prefix, "etcd", *self._flags(member)],
                directory=self._directory,
            )
            self._processes[member].start()

    def wait(self) -> None:
        """Wait for an answer to a linearizable read; CommandError after the deadline, ProcessError if one ends."""
        end = time.monotonic() + self._deadline
        while True:
            for process in self._processes.values():
                process.check()
            try:
                self.ctl("--command-timeout=2s", "get", "ilanet-health")
            except CommandError as error:
                if time.monotonic() > end:
                    raise CommandError(f"etcd is not healthy after {self._deadline} s: {error}") from error
                time.sleep(0.05)
            else:
                return

    def set_up_users(self) -> None:
        """Make users and roles, and turn authentication on; repeats safely."""
        if self._authority is None:
            raise ValueError("users need TLS: their names are those of client certificates")
        first, after = (key.decode() for key in mapping.READABLE_BY_AGENTS)
        self.ctl("role", "add", "root", repeat="already exists")
        self.ctl("user", "add", "root", "--no-password", repeat="already exists")
        self.ctl("user", "grant-role", "root", "root")
        for user in (CONTROLLER, AGENT):
            self.ctl("role", "add", user, repeat="already exists")
            self.ctl("user", "add", user, "--no-password", repeat="already exists")
            self.ctl("user", "grant-role", user, user)
        self.ctl("role", "grant-permission", CONTROLLER, "readwrite", "--prefix", "/ilanet/")
        self.ctl("role", "grant-permission", AGENT, "read", first, after)
        self.ctl("auth", "enable", repeat="auth: authentication is enabled")

    def ctl(
        self, *words: str, repeat: str | None = None, endpoints: Sequence[str] | None = None, stdin: str | None = None
    ) -> str:
        """Run etcdctl as root; an error that contains `repeat` means that it was done before."""
        try:
            return run(*self._places[0].prefix, *self._ctl(endpoints or self.endpoints), *words, stdin=stdin)
        except CommandError as error:
            if repeat is not None and repeat in str(error):
                return ""
            raise

    def revision(self) -> int:
        """Return etcd's present revision."""
        return int(json.loads(self.ctl("get", "ilanet-health", "-w", "json"))["header"]["revision"])

    def leader(self) -> int:
        """Return which member leads; CommandError if none does."""
        for member, place in enumerate(self.endpoints):
            if not self.pid(member):
                continue
            with contextlib.suppress(CommandError):
                words = ("--command-timeout=2s", "endpoint", "status", "-w", "json")
                status = json.loads(self.ctl(*words, endpoints=[place]))[0]["Status"]
                if status["leader"] == status["header"]["member_id"]:
                    return member
        raise CommandError("no member of etcd leads")

    def compact(self) -> int:
        """Forget everything before the present revision, and return it."""
        revision = self.revision()
        self.ctl("compact", "--physical", str(revision))
        return revision

    def freeze(self, member: int | None = None) -> None:
        """Stop members with SIGSTOP: connections stay, nothing answers."""
        for process in self._chosen(member):
            process.signal(signal.SIGSTOP)

    def thaw(self, member: int | None = None) -> None:
        """Let frozen members go on."""
        for process in self._chosen(member):
            process.signal(signal.SIGCONT)

    def kill(self, member: int | None = None) -> None:
        """End members with SIGKILL, as a crash does."""
        for process in self._chosen(member):
            process.kill()

    def stop(self, member: int | None = None) -> None:
        """End members in good order; one that does not end in time is killed."""
        for process in self._chosen(member):
            process.stop()

    def wipe(self) -> None:
        """Remove all data of a stopped cluster: users and authentication go with it."""
        for member in range(len(self._places)):
            shutil.rmtree(self.data(member), ignore_errors=True)

    def save_snapshot(self, path: Path) -> None:
        """Write a snapshot of the first member."""
        self.ctl("snapshot", "save", str(path), endpoints=self.endpoints[:1])

    def restore(self, path: Path) -> None:
        """Replace the data of a stopped cluster by a snapshot."""
        self.wipe()
        for member in range(len(self._places)):
            run(
                *("etcdctl", "snapshot", "restore", str(path), "--data-dir", str(self.data(member))),
                *("--name", f"member{member}", "--initial-cluster", self._cluster()),
                *("--initial-advertise-peer-urls", self._url(self._places[member].peer)),
            )

    def close(self) -> None:
        """End everything and remove the data; never fails because something is gone."""
        self.stop()
        self.wipe()

    def __enter__(self) -> Self:
        """Start."""
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _chosen(self, member: int | None) -> list[Process]:
        return list(self._processes.values()) if member is None else [self._processes[member]]

    def _cluster(self) -> str:
        return ",".join(f"member{number}={self._url(place.peer)}" for number, place in enumerate(self._places))

    def _url(self, place: str) -> str:
        return f"{'https' if self._authority else 'http'}://{place}"

    def _flags(self, member: int) -> list[str]:
        place = self._places[member]
        flags = [
            *("--name", f"member{member}", "--data-dir", str(self.data(member))),
            *("--listen-client-urls", self._url(place.client), "--advertise-client-urls", self._url(place.client)),
            *("--listen-peer-urls", self._url(place.peer), "--initial-advertise-peer-urls", self._url(place.peer)),
            *("--initial-cluster", self._cluster(), "--initial-cluster-state", "new"),
            *("--logger", "zap", "--log-level", "warn", "--log-outputs", "stderr"),
            *self._options,
        ]
        if self._fast:
            flags += ["--unsafe-no-fsync", "--heartbeat-interval", "20", "--election-timeout", "200"]
        if self._authority is not None:
            addresses = [each.address for each in self._places]
            server = self._authority.server(f"etcd{member}", names=[NAME, *dict.fromkeys(addresses), "localhost"])
            for kind in ("", "peer-"):
                flags += [f"--{kind}cert-file", str(server.certificate), f"--{kind}key-file", str(server.key)]
                flags += [f"--{kind}trusted-ca-file", str(server.ca), f"--{kind}client-cert-auth"]
        return flags

    def _ctl(self, endpoints: Sequence[str]) -> list[str]:
        words = ["etcdctl", "--endpoints", ",".join(self._url(place) for place in endpoints)]
        if self._root is not None:
            words += ["--cacert", str(self._root.ca), "--cert", str(self._root.certificate)]
            words += ["--key", str(self._root.key)]
        return words
