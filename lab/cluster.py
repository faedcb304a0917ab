# SPDX-License-Identifier: Apache-2.0
"""A whole ilanet on one machine: underlay, hosts, etcd, controllers and agents as real processes, and pods."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.kernel.namespace import in_namespace
from ila.certificates import AGENT, CONTROLLER, NODE
from ila.domain import Domain
from ila.settings import Peer
from lab import controller as lab_controller
from lab.authority import Authority
from lab.controller import ControllerProcess, ControllerSetting, lines, peer_lines
from lab.etcd import Etcd, Place
from lab.fabric import Fabric, Host, Shape
from lab.machine import Machine, cgroups, remove_cgroups
from lab.namespace import CommandError, Namespace, run
from lab.process import SOURCE, Process, stop_all, stop_noted
from lab.runtime import Pod

STATE = Path("/run/ilanet-lab")
DOMAIN = Domain.parse(sir_prefix="fd00:10:244::/64", locator_space=["fd00:c0de::/48"], checksum_mode="neutral-map")
CONTROLLER_PORT = 7443
CONTROLLER_HTTP_PORT = 9476
ETCD_PORTS = (2379, 2380)
METRICS_PORT = 9475
CLOSED_PORTS = (*ETCD_PORTS, CONTROLLER_PORT, 7444)
"""Closed to pods on every node address."""


class Cluster:
    """The lab's cluster called `name`; start() brings it up, close() removes every trace of it."""

    def __init__(
        self,
        *,
        name: str = "ilanet",
        hosts: int = 3,
        shape: Shape = Shape.ROUTED,
        controllers: int = 2,
        etcd_members: int = 1,
        domain: Domain = DOMAIN,
        mtu: int = 1500,
        announced: bool = False,
        agent_settings: Mapping[str, object] | None = None,
        durable: Path | None = None,
        etcd_options: Sequence[str] = (),
        patience: float = 30,
        own: Sequence[str] = (),
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Take the shape of it; `agent_settings` go into every agent's settings, `say` hears of each step.

        announced: the underlay's router has no routes to locators and the SIR prefix but those that hosts announce.
        etcd_members: one on each of so many hosts.
        durable: a folder, removed by close(), where etcd and agents keep what must survive; given one, etcd writes
        through to the disk (fsync), as it does outside of tests.  etcd_options: words of etcd's command line.
        own: folders of which every machine has a copy of its own (lab.machine).
        patience: seconds that etcd, and then all agents, may take to be ready.
        """
        self.name = name
        self.directory = STATE / name
        self.domain = domain
        self.fabric = Fabric(prefix=name, shape=shape, domain=domain, mtu=mtu, announced=announced)
        self.agents: dict[str, Process] = {}
        self.controllers: list[Process] = []
        self.pods: dict[str, Pod] = {}
        self.machines: dict[str, Machine] = {}
        self.etcd: Etcd | None = None
        self._count = hosts
        self._controller_count = controllers
        self._etcd_members = etcd_members
        self._agent_settings = dict(agent_settings or {})
        self._durable = durable
        self._etcd_options = tuple(etcd_options)
        self._patience = patience
        self._own = tuple(own)
        self._say = say
        self._authority = Authority(self.directory / "authority")

    @property
    def hosts(self) -> list[Host]:
        """The hosts, in order."""
        return self.fabric.hosts

    def recall(self) -> list[Host]:
        """Return the hosts, also those that an earlier run has made, if it has."""
        if not self.fabric.hosts:
            self.fabric.hosts = [self.fabric.host(number) for number in range(1, self._count + 1)]
        return self.fabric.hosts

    def noted(self) -> list[Process]:
        """Return etcd, controllers and agents as they should run; what an earlier run started shows by its pid."""
        etcds = [f"etcd{number}" for number in range(self._etcd_members)]
        others = [f"controller{number}" for number in range(1, self._controller_count + 1)]
        others += [f"agent-host{number}" for number in range(1, self._count + 1)]
        places = {self._kept / "etcd": etcds, self.directory: others}
        return [Process(name=name, command=(), directory=place) for place, names in places.items() for name in names]

    # --- up and down ---

    def start(self) -> None:
        """Bring everything up and wait until every agent can serve; what an earlier run left is removed first."""
        self.start_underlay()
        self.start_processes()

    def start_underlay(self) -> None:
        """Make the underlay and the hosts, with nothing of ilanet on them."""
        self.close()
        self.directory.mkdir(parents=True)
        if self._durable is not None:
            self._durable.mkdir(parents=True)
        self._say(f"underlay and {self._count} hosts, as network namespaces")
        self.fabric.build(self._count)

    def start_processes(self) -> None:
        """Start etcd, controllers and agents on hosts that are there."""
        self._authority.create()
        self._say(f"etcd with mutual TLS, users and roles, on {self._etcd_members} hosts, from host1")
        self.etcd = self._start_etcd()
        self._say(f"{self._controller_count} controllers")
        for number in range(1, self._controller_count + 1):
            self.start_controller(number)
        self._say(f"{self._count} agents")
        for host in self.hosts:
            self.start_agent(host)
        self.wait_ready()

    def close(self) -> None:
        """End every process, remove every namespace, pin, mount and file of this cluster; repeats safely."""
        for machine in self.machines.values():
            machine.close()
        stop_all((*self.agents.values(), *self.controllers))
        if self.etcd is not None:
            self.etcd.stop()
        for place in (self.directory, self._kept / "etcd"):
            stop_noted(place)
        remove_cgroups(self._cgroup)
        self.fabric.close()
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in mounts:
            if mount.startswith(f"{self.directory}/"):
                run("umount", mount)
        for folder in {self.directory, self._kept}:
            if folder.exists():
                shutil.rmtree(folder)
        with contextlib.suppress(OSError):
            STATE.rmdir()

    def leftovers(self) -> list[str]:
        """Return whatever still exists of this cluster: namespaces, mounts, processes, files; empty after close()."""
        found = [f"namespace {line.split()[0]}" for line in run("ip", "netns", "list").splitlines()
                 if line.startswith(f"{self.name}-")]  # fmt: skip
        found += [
            f"mount {line}" for line in Path("/proc/mounts").read_text().splitlines() if f" {self.directory}/" in line
        ]
        for command in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if f"{self.directory}/".encode() in command.read_bytes():
                    found.append(f"process {command.parent.name}")
        found += [f"cgroup {path}" for path in cgroups(self._cgroup)]
        found += [f"directory {folder}" for folder in {self.directory, self._kept} if folder.exists()]
        return found

    @property
    def _kept(self) -> Path:
        """Where etcd and agents keep what must survive."""
        return self._durable or self.directory

    @property
    def _cgroup(self) -> str:
        """The parent of the cgroups of all containers."""
        return f"/ilanet-lab-{self.name}"

    # --- etcd, controllers, agents ---

    def _start_etcd(self) -> Etcd:
        client, peer = ETCD_PORTS
        places = [
            Place(address=host.address, prefix=host.namespace.prefix, client_port=client, peer_port=peer)
            for host in self.hosts[: self._etcd_members]
        ]
        made = InHost(
            directory=self._kept / "etcd",
            places=places,
            authority=self._authority,
            fast=self._durable is None,
            options=self._etcd_options,
            deadline=self._patience,
        )
        made.start()
        made.set_up_users()
        return made

    def start_controller(self, number: int) -> Process:
        """Start controller `number` (from 1) on the host of that number; agents wait until it answers."""
        if self.etcd is None:
            raise ValueError("etcd must be started first")
        host = self.hosts[(number - 1) % len(self.hosts)]
        name = f"controller{number}"
        setting = ControllerSetting(
            etcd=self.etcd.peer(self._authority.client(f"{name}-etcd", common_name=CONTROLLER)),
            certificate=self._authority.server(name, names=[lab_controller.NAME, host.address]),
            sir_prefix=str(self.domain.sir_prefix),
            locator_space=tuple(map(str, self.domain.locator_space)),
            checksum_mode=self.domain.checksum_mode.value,
            locator_pool=str(self.domain.locator_space[0]),
            closed_ports=CLOSED_PORTS,
            address=host.address,
            port=CONTROLLER_PORT,
            http_port=CONTROLLER_HTTP_PORT,
        )
        process = ControllerProcess(name=name, directory=self.directory, setting=setting, prefix=host.namespace.prefix)
        process.write_setting()
        process.start()
        self.controllers.append(process)
        return process

    def start_agent(self, host: Host, **settings: object) -> Process:
        """Start the agent of a host; a second call starts it again with what is on disk and pinned.

        A setting that is None is left out.
        """
        process = self.agents.get(host.name)
        if process is None or settings:
            file = self.directory / f"agent-{host.name}.toml"
            file.write_text(self._agent(host, settings))
            process = Process(
                name=file.stem,
                command=[*host.namespace.prefix, sys.executable, "-m", "agent", "--config", str(file)],
                directory=self.directory,
            )
            self.agents[host.name] = process
        process.start()
        return process

    def uninstall(self, host: Host) -> None:
        """Remove from a host all that its agent made there, by the agent's own command."""
        host.namespace.run(sys.executable, "-m", "agent", *self.agents[host.name].command[-2:], "--uninstall")

    def _agent(self, host: Host, settings: Mapping[str, object]) -> str:
        """Return the text of an agent's settings file; the bpffs that it names is mounted."""
        if self.etcd is None:
            raise ValueError("etcd must be started first")
        place = self.directory / host.name
        bpf = self.bpffs(host)
        if not bpf.is_mount():
            self.mount_bpffs(host)
        node = self._authority.client(f"{host.name}-node", common_name=f"{NODE}{host.name}")
        reader = self._authority.client(f"{host.name}-etcd", common_name=AGENT)
        places = [self.hosts[number % len(self.hosts)].address for number in range(self._controller_count)]
        controller = Peer(
            endpoints=tuple(f"[{address}]:{CONTROLLER_PORT}" for address in places),
            authority=lab_controller.NAME,
            ca=node.ca,
            certificate=node.certificate,
            key=node.key,
        )
        top = {
            "node": host.name,
            "address": host.address,
            "underlay": [host.device],
            "locator": str(host.locator),
            "state_directory": str(self.state(host)),
            "runtime_directory": str(place / "run"),
            "bpf_directory": str(bpf / "ilanet"),
            "bpf_object": str(SOURCE / "build/ilanet.bpf.o"),
            "cni_config": str(self.conflist(host)),
            "cni_plugins": str(self.directory / "plugins"),
            "cni_chain": [],
            "probe_seconds": 0,  # ledgers of tests count a host's endpoints and owners: whoever tests probes says so
            "http": f"[::]:{METRICS_PORT}",
            **self._agent_settings,
            **settings,
        }
        top = {name: value for name, value in top.items() if value is not None}
        return f"{lines(top)}[controller]\n{peer_lines(controller)}[etcd]\n{peer_lines(self.etcd.peer(reader))}"

    def wait_ready(self) -> None:
        """Wait until every agent answers that it can serve and has all mappings; CommandError says who cannot."""
        deadline = time.monotonic() + self._patience
        for host in self.hosts:
            while True:
                for process in (*self.controllers, *self.agents.values()):
                    process.check()
                with contextlib.suppress(OSError, CommandError):
                    status = self.status(host)
                    if status["serving"] and status["mappings_complete"] and len(status["nodes"]) == len(self.hosts):
                        break
                if time.monotonic() > deadline:
                    log = self.agents[host.name].tail()
                    raise CommandError(f"the agent of {host.name} is not ready after {self._patience} s:\n{log}")
                time.sleep(0.02)

    def status(self, host: Host) -> dict[str, Any]:
        """Return what a host's agent says of itself (/status)."""
        found: dict[str, Any] = json.loads(self.ask(host.namespace, "/status"))
        return found

    @staticmethod
    def ask(namespace: Namespace, path: str) -> str:
        """Return what the agent in a host's namespace answers over HTTP; OSError if it does not."""

        def get() -> str:
            with urllib.request.urlopen(f"http://[::1]:{METRICS_PORT}{path}", timeout=5) as answer:
                return str(answer.read().decode())

        with namespace.path.open("rb") as file:
            return in_namespace(file.fileno(), get)

    def verdicts(self, host: Host) -> dict[tuple[str, str], int]:
        """Return a host's packet counts by hook and verdict."""
        counts = {}
        for line in self.ask(host.namespace, "/metrics").splitlines():
            if line.startswith("ilanet_verdict_packets_total{"):
                labels, _, value = line.removeprefix("ilanet_verdict_packets_total").rpartition(" ")
                pairs = dict(pair.split("=") for pair in labels.strip("{}").split(","))
                counts[pairs["hook"].strip('"'), pairs["verdict"].strip('"')] = int(float(value))
        return counts

    # --- pods, and the insides of hosts that run them by a container runtime ---

    def machine(self, host: Host) -> Machine:
        """Return the inside of a host, not started the first time; it is closed with the cluster."""
        if host.name not in self.machines:
            self.machines[host.name] = Machine(
                name=f"{host.name}-machine",
                namespace=host.namespace,
                directory=self.directory,
                disk=self._kept / host.name / "machine",
                cgroup=f"{self._cgroup}/{host.name}",
                hostname=host.name,
                own=self._own,
            )
        return self.machines[host.name]

    def pod(self, name: str, host: Host, *, container: str = "", keep_address: bool = False, wait: bool = True) -> Pod:
        """Make a pod's namespace on a host and attach it through the CNI executable.

        wait: until every agent has heard of it, as happens long before a container has started.
        """
        container = container or f"{self.name}-{name}"
        pod = Pod(
            namespace=Namespace.create(f"{self.name}-{container.removeprefix(f'{self.name}-')}"),
            name=name,
            uid=f"uid-{name}",
            container_id=container,
            socket=self.socket(host),
            queue=self.queue(host),
            keep_address=keep_address,
        )
        self.pods[name] = pod
        pod.add()
        if wait:
            self.wait_published(pod, host)
        return pod

    def wait_published(self, pod: Pod, host: Host, patience: float = 20) -> None:
        """Wait until every agent that answers has heard of a pod; CommandError says which has not."""
        link = pod.result["interfaces"][0]["name"]
        with contextlib.suppress(OSError):
            endpoint = self._until(host, patience, lambda status: status["endpoints"][link]["state"] == "wired")
            wanted = _generation(endpoint["endpoints"][link]["generation"])
            for other in self.hosts:
                with contextlib.suppress(OSError):
                    self._until(other, patience, lambda status: _generation(status["generation"]) >= wanted)

    def _until(self, host: Host, patience: float, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the status of a host's agent once something is true of it; OSError if it does not answer."""
        deadline = time.monotonic() + patience
        while not true(status := self.status(host)):
            if time.monotonic() > deadline:
                raise CommandError(f"{host.name} is not there after {patience} s: {status}")
            time.sleep(0.005)
        return status

    def socket(self, host: Host) -> Path:
        """Return where a host's agent serves CNI."""
        return self.directory / host.name / "run/cni.sock"

    def queue(self, host: Host) -> Path:
        """Return where DELs wait for a host's agent."""
        return self.state(host) / "deletes"

    def conflist(self, host: Host) -> Path:
        """Return where a host's agent writes its network configuration."""
        return self.directory / host.name / "cni/10-ilanet.conflist"

    def state(self, host: Host) -> Path:
        """Return where a host's agent keeps what must survive."""
        return self._kept / host.name / "state"

    def bpffs(self, host: Host) -> Path:
        """Return where a host's bpffs is mounted; the pins are in its folder `ilanet`."""
        return self.directory / host.name / "bpf"

    def mount_bpffs(self, host: Host) -> None:
        """Mount a host's bpffs, empty."""
        self.bpffs(host).mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "bpf", "bpf", str(self.bpffs(host)))


def _generation(text: str | None) -> tuple[int, int]:
    epoch, _, revision = (text or "0/0").partition("/")
    return int(epoch), int(revision)


class InHost(Etcd):
    """An etcd on one of the lab's hosts: etcdctl runs there too, since nobody else reaches it."""

    def _ctl(self, endpoints: Any) -> list[str]:  # noqa: ANN401
        return [*self._places[0].prefix, *super()._ctl(endpoints)]
