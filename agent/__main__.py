# SPDX-License-Identifier: Apache-2.0
"""The agent's composition root: builds every part, runs the services until one ends or a signal comes.

python -m agent --config FILE                 run
python -m agent --config FILE --uninstall     remove all that the agent made on this host, and nothing else
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import random
import shutil
import signal
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry

from agent.assembly import Assembly
from agent.cni_server import CniServer
from agent.config import AgentConfig
from agent.conflist import Conflist
from agent.conflist import remove as remove_conflist
from agent.controller import GrpcController
from agent.core.datapath import DatapathError, HostPath
from agent.core.ipv4 import Ipv4Pool
from agent.core.mappings import MappingTable
from agent.core.network import NetworkError
from agent.core.probe_rounds import Rounds
from agent.core.probes import ProbeError
from agent.core.status import Status
from agent.deletes import DeleteQueue
from agent.endpoint_table import EndpointTable
from agent.endpoints import Endpoints
from agent.kernel.datapath import BpfDatapath
from agent.kernel.events import KernelChanges
from agent.kernel.host import KernelHost
from agent.kernel.nftables import RejectTable
from agent.kernel.probe_place import ProbeNamespace
from agent.kernel.wiring import KernelWiring
from agent.loop import Loop
from agent.mappings import MappingFeed
from agent.metrics import AgentCollector, StepTimings
from agent.node import Node
from agent.probe_end import ProbeEnd
from agent.probe_exchange import ProbeExchange
from agent.probes import Probes
from agent.publications import Publications
from agent.records import RecordDirectory
from agent.releases import Releases
from agent.reports import Reports
from agent.reserve import Reserve
from agent.service_check import ServiceCheck, targets
from agent.upkeep import Upkeep
from ila import VERSION
from ila.channel import PeerChannel
from ila.enrolment import Enroller, Wanted
from ila.etcd import EtcdStore
from ila.http import HttpServer
from ila.log import set_up
from ila.mapping import Generation
from ila.settings import SettingsError, read
from ila.stream import EtcdMappingStream
from proto import ilanet_pb2 as pb

log = logging.getLogger("ilanet.agent")

CALL_DEADLINE = 5.0
"""Seconds that one call to a controller may take."""

CALL_BACKOFF = (0.05, 0.2, 0.5)
"""Pauses, in seconds, between the tries of one call: other replicas take over from a dead one."""

REGISTER_BACKOFF = (0.2, 0.5, 1.0, 2.0, 5.0)
STREAM_BACKOFF = (0.1, 0.5, 1.0, 2.0, 5.0)
ENROL_BACKOFF = (0.2, 0.5, 1.0, 2.0, 5.0)
BACKLOG_PAUSE = 2.0
RETRY = 1.0
AUDIT = 600.0
"""Seconds between two comparisons of the kernel's mappings with the table: a million take a second of a thread."""

POOL_SIZE = 4
"""Threads for netlink and disk; one more wires pods."""


class Agent:
    """Every part of one agent, wired; run() works until cancelled."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._pool = ThreadPoolExecutor(POOL_SIZE, thread_name_prefix="kernel")
        self._wire_pool = ThreadPoolExecutor(1, thread_name_prefix="wire")
        self._table: MappingTable | None = None
        self._feed: MappingFeed | None = None
        self._status = Status()
        self._registry = CollectorRegistry()
        self._datapath = BpfDatapath(object_path=config.bpf_object, pin_directory=config.bpf_directory)
        self._controller_channel = PeerChannel(peer=config.controller)
        self._etcd_channel = PeerChannel(peer=config.etcd)
        self._controller = GrpcController(
            channel=self._controller_channel,
            node=config.node,
            address=config.address,
            control_port=config.control_port,
            locator=config.locator,
            deadline=CALL_DEADLINE,
            backoff=CALL_BACKOFF,
        )
        self._wiring = KernelWiring(sysctls=config.sysctl_directory)
        self._endpoints = EndpointTable(
            records=RecordDirectory(path=config.state_directory / "endpoints"), pool=self._pool
        )
        self._reserve = Reserve(
            controller=self._controller,
            records=RecordDirectory(path=config.state_directory / "reserve"),
            table=self._endpoints,
            status=self._status,
            size=config.reserve,
            pool=self._pool,
        )
        self._publications = Publications(controller=self._controller, table=self._endpoints, status=self._status)
        self._releases = Releases(
            controller=self._controller,
            table=self._endpoints,
            status=self._status,
            settled=self._publications.settled,
            forget=self._reserve.forget,
        )
        self._reports = Reports(
            controller=self._controller,
            status=self._status,
            table=self._endpoints,
            past_netfilter=config.host_path is HostPath.BPF,
        )
        self._enroller = _enroller(config)
        self._upkeep = Upkeep(
            address=config.address,
            datapath=self._datapath,
            wiring=self._wiring,
            table=self._endpoints,
            locate=self._locate,
            status=self._status,
            pool=self._pool,
        )
        self._deletes = DeleteQueue(path=config.state_directory / "deletes", pool=self._pool)
        self._assembly = self._make_assembly(config)
        self._network = self._make_network(config)
        self._node = self._make_node(config)
        self._loop = self._make_loop(config)
        services = targets(config.controller.endpoints)
        self._place = ProbeNamespace(answering={address for address, _ in services})
        self._services = ServiceCheck(services=services, place=self._place, status=self._status, pool=self._pool)
        self._exchange = ProbeExchange(
            address=config.address, port=config.control_port, place=self._place, pool=self._pool
        )
        self._rounds = Rounds(period=config.probe_seconds, sample=random.sample, uniform=random.uniform)
        self._end = self._make_end(config)
        self._probes = self._make_probes(config)
        self._cni = CniServer(network=self._network, path=_socket(config))
        self._registry.register(
            AgentCollector(
                datapath=self._datapath,
                status=self._status,
                table=lambda: self._table,
                endpoints=lambda: sum(endpoint.is_pod for endpoint in self._endpoints.wired()),
                unpublished=lambda: sum(endpoint.is_pod for endpoint in self._endpoints.unpublished()),
                reserve=lambda: len(self._reserve),
                nodes=lambda: len(self._feed.nodes) if self._feed else 0,
                probes=self._rounds.counts,
            )
        )
        self._http = HttpServer(
            listen=config.http,
            registry=self._registry,
            not_ready=self._status.not_serving,
            describe=self._describe,
            unhealthy=lambda: self._node.renumbered(time.monotonic()),
        )

    def _make_assembly(self, config: AgentConfig) -> Assembly:
        """Wire what makes endpoints."""
        return Assembly(
            address=config.address,
            controller=self._controller,
            datapath=self._datapath,
            wiring=self._wiring,
            table=self._endpoints,
            releases=self._releases,
            reserve=self._reserve,
            ipv4=None if config.ipv4_network is None else Ipv4Pool(config.ipv4_network),
            timings=StepTimings(registry=self._registry),
            pool=self._pool,
            wire_pool=self._wire_pool,
        )

    def _make_end(self, config: AgentConfig) -> ProbeEnd:
        """Wire this node's own end of probes."""
        return ProbeEnd(
            node=config.node,
            address=config.address,
            place=self._place,
            assembly=self._assembly,
            wiring=self._wiring,
            table=self._endpoints,
            publications=self._publications,
            locate=self._locate,
            status=self._status,
            pool=self._pool,
        )

    def _make_probes(self, config: AgentConfig) -> Probes:
        """Wire what probes the underlay."""
        return Probes(
            node=config.node,
            end=self._end,
            exchange=self._exchange,
            rounds=self._rounds,
            nodes=lambda: self._feed.nodes if self._feed else {},
            locate=self._locate,
            status=self._status,
        )

    def _make_network(self, config: AgentConfig) -> Endpoints:
        """Wire what stands behind the CNI commands."""
        return Endpoints(
            address=config.address,
            assembly=self._assembly,
            datapath=self._datapath,
            wiring=self._wiring,
            table=self._endpoints,
            publications=self._publications,
            releases=self._releases,
            status=self._status,
            pool=self._pool,
            forget_queued=self._deletes.forget,
        )

    def _make_node(self, config: AgentConfig) -> Node:
        """Wire what keeps the host right."""
        return Node(
            address=config.address,
            underlay=config.underlay,
            edge=config.edge,
            host_path=config.host_path,
            next_hop=config.next_hop,
            reject_mark=config.reject_mark,
            ipv4=config.ipv4_network is not None,
            controller=self._controller,
            datapath=self._datapath,
            networking=_kernel_host(config),
            reject=RejectTable(mark=config.reject_mark, masquerade=config.masquerade, ipv4=config.ipv4_network),
            records=RecordDirectory(path=config.state_directory / "node"),
            status=self._status,
            nodes=lambda: self._feed.nodes if self._feed else {},
            highest=lambda: self._table.highest if self._table else Generation(0, 0),
            held=self._endpoints.wired,
            pods=self._upkeep.routes,
            pool=self._pool,
        )

    def _make_loop(self, config: AgentConfig) -> Loop:
        """Wire the steps that bring everything to what it must be."""
        conflist = Conflist(
            path=config.cni_config,
            replace=config.replace_network,
            chain=config.cni_chain,
            sysctls=dict(config.cni_sysctls),
            plugins=config.cni_plugins,
            executable=config.cni_executable,
            datapath=self._datapath,
            status=self._status,
            pool=self._pool,
        )
        return Loop(
            steps=[
                ("host", self._node.step),
                ("conflist", conflist.step),
                ("deletes", partial(self._deletes.replay, self._network)),
                ("endpoints", self._upkeep.step),
                ("mappings", self._flush),
            ],
            status=self._status,
            resync=config.resync,
            retry=RETRY,
        )

    async def run(self) -> None:
        """Restore what an earlier run left, then serve and reconcile for ever."""
        self._node.load()
        self._endpoints.load()
        self._reserve.load()
        async with contextlib.AsyncExitStack() as cleanup:
            cleanup.push_async_callback(self._etcd_channel.close)
            cleanup.push_async_callback(self._controller_channel.close)
            changes = KernelChanges.open()
            cleanup.callback(changes.close)
            cleanup.callback(self._place.close)
            cleanup.callback(self._exchange.close)
            await self._http.start()
            cleanup.push_async_callback(self._http.close)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._loop.run())
                tasks.create_task(self._loop.listen(changes))
                for backlog in (self._publications, self._releases, self._reserve):
                    tasks.create_task(backlog.run(BACKLOG_PAUSE))
                tasks.create_task(self._reports.run())
                tasks.create_task(self._probe())
                if self._enroller is not None:
                    tasks.create_task(self._enroller.run(self._enrolled, ENROL_BACKOFF))
                tasks.create_task(self._follow())
                tasks.create_task(self._serve())

    def _enrolled(self, reason: str) -> None:
        """Note why a certificate cannot be had; '' if all are there."""
        if reason:
            self._status.problem("certificates", reason)
        else:
            self._status.well("certificates")

    async def _follow(self) -> None:
        """Register and follow etcd's mappings; a node that was registered before adopts the kernel's first.

        So a restart needs no controller, and Register carries the highest generation that the kernel holds.
        """
        remembered = self._status.registration is not None
        if not remembered:
            await self._register()
        registration = await self._status.until_registered()
        await self._status.until_serving()
        table = self._table = MappingTable(domain=registration.domain)
        table.adopt(self._datapath.read_mappings())
        self._feed = MappingFeed(
            stream=EtcdMappingStream(
                channel=self._etcd_channel,
                store=EtcdStore(channel=self._etcd_channel),
                backoff=STREAM_BACKOFF,
            ),
            datapath=self._datapath,
            table=table,
            status=self._status,
            register_again=self._register,
            on_change=self._loop.ask,
            local=self._endpoints.identifiers,
            backoff=STREAM_BACKOFF,
            epoch_grace=self._config.epoch_grace,
            audit=AUDIT,
            pool=self._pool,
        )
        async with asyncio.TaskGroup() as tasks:
            if remembered:
                tasks.create_task(self._register())
            tasks.create_task(self._feed.run())

    async def _register(self) -> None:
        await self._node.register(REGISTER_BACKOFF)
        for backlog in (self._publications, self._releases, self._reserve):
            backlog.later()
        self._loop.ask()

    async def _probe(self) -> None:
        """Probe the underlay; where that is switched off, take away what it needed before."""
        if self._config.probe_seconds:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._probes.run(self._config.probe_seconds))
                tasks.create_task(self._services.run())
        await self._status.until_serving()
        try:
            await self._end.remove()
        except ProbeError as error:
            self._status.problem("probes", str(error))

    def _locate(self, identifier: int) -> tuple[int, Generation] | None:
        return self._table.locate(identifier) if self._table else None

    async def _serve(self) -> None:
        """Serve CNI from the start: until the node is ready every ADD is told to come again."""
        log.info("node %s serves CNI on %s", self._config.node, _socket(self._config))
        await self._cni.serve()

    async def _flush(self) -> None:
        if self._feed is not None:
            await self._feed.step()

    def _describe(self) -> Mapping[str, object]:
        registration = self._status.registration
        return {
            "node": self._config.node,
            "version": VERSION,
            "address": str(self._config.address),
            "locator": str(registration.locator) if registration else None,
            "serving": self._status.serving,
            "reserve": len(self._reserve),
            "mappings": len(self._table) if self._table else 0,
            "mappings_complete": self._status.mappings_complete,
            "generation": str(self._table.highest) if self._table else None,
            "nodes": sorted(self._feed.nodes) if self._feed else [],
            "endpoints": {
                endpoint.host_name: {
                    "pod": str(endpoint.pod),
                    "container": endpoint.container_id,
                    "state": endpoint.state.value,
                    "generation": str(endpoint.generation),
                    "identifier": str(endpoint.identifier),
                    "address": str(registration.domain.sir_prefix.address(endpoint.identifier))
                    if registration
                    else None,
                    "ipv4": str(endpoint.ipv4.ip) if endpoint.ipv4 else None,
                }
                for endpoint in self._endpoints.wired()
                if endpoint.is_pod
            },
            "probes": self._probes.describe() if self._config.probe_seconds else None,
            "problems": dict(self._status.problems),
        }


async def _run(config: AgentConfig) -> None:
    task = asyncio.ensure_future(Agent(config).run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _enroller(config: AgentConfig) -> Enroller | None:
    """Return what gets this node's certificates into the files of its peers; None if they are there.

    An etcd with another authority is the operator's own, and so are its certificates.
    """
    controller, etcd = config.controller, config.etcd
    if config.enrolment is None or controller.ca is None:
        return None
    peers = [(pb.Purpose.PURPOSE_NODE, controller), (pb.Purpose.PURPOSE_ETCD_READER, etcd)]
    wanted = [
        Wanted(purpose=purpose, certificate=peer.certificate, key=peer.key)
        for purpose, peer in peers
        if peer.certificate is not None and peer.key is not None and peer.ca == controller.ca
    ]
    return Enroller(settings=config.enrolment, ca=controller.ca, wanted=wanted)


def _kernel_host(config: AgentConfig) -> KernelHost:
    return KernelHost(records=RecordDirectory(path=config.state_directory / "sysctl"), sysctls=config.sysctl_directory)


def _socket(config: AgentConfig) -> Path:
    return config.runtime_directory / "cni.sock"


def _uninstall(config: AgentConfig) -> None:
    """Remove what runtimes read, links, routes, rules, programs, pins and records; then restore the sysctls."""
    remove_conflist(config.cni_config, config.cni_plugins, config.cni_executable)
    _kernel_host(config).uninstall()
    RejectTable(mark=config.reject_mark).remove()
    BpfDatapath(object_path=config.bpf_object, pin_directory=config.bpf_directory).unload()
    for name in ("endpoints", "node", "reserve", "sysctl"):
        directory = RecordDirectory(path=config.state_directory / name)
        for key in directory.load():
            directory.remove(key)
        (config.state_directory / name).rmdir()
    shutil.rmtree(config.state_directory / "deletes", ignore_errors=True)
    _socket(config).unlink(missing_ok=True)


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="agent", description="The ilanet agent of one node.")
    parser.add_argument("--config", type=Path, required=True, help="settings (TOML)")
    parser.add_argument("--uninstall", action="store_true", help="remove all that the agent made on this host")
    arguments = parser.parse_args()
    set_up("text")
    try:
        config = read(AgentConfig, arguments.config)
        set_up(config.log, node=config.node)
        if arguments.uninstall:
            _uninstall(config)
        else:
            asyncio.run(_run(config))
    except (SettingsError, NetworkError, DatapathError, OSError, ValueError) as error:
        log.error("%s", error)  # noqa: TRY400 - the message is complete; a trace would bury it
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
