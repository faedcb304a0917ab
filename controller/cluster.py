# SPDX-License-Identifier: Apache-2.0
"""What a controller has only in Kubernetes, wired: certificates, pods and nodes, conditions, Events, the sweep."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from controller import etcd_users
from controller.clearing import Clearing
from controller.config import ControllerConfig, KubernetesConfig
from controller.core.kubernetes import Kind, parse_node
from controller.core.pods import PodFacts, Pods, parse_pod
from controller.core.policies import unenforced
from controller.core.sweep import parse_set
from controller.enrolment import Certificates, EnrolmentServer
from controller.events import Events
from controller.informer import Informer
from controller.kube import KubernetesApi
from controller.leader import Leader
from controller.reports import NodeConditions, Reports
from controller.rules import KubernetesRules
from controller.server import ServerCertificates
from controller.standing import Standing
from controller.sweep import Patience, Sweep
from ila.channel import PeerChannel
from ila.settings import Peer
from ila.store import StoreError
from proto.ilanet_pb2_grpc import add_EnrolmentServicer_to_server

log = logging.getLogger("controller.cluster")

_BACKOFF = (0.2, 0.5, 1.0, 2.0, 5.0)
_LOOK = 10.0
"""Seconds between two looks whether there are NetworkPolicy objects."""


class ClusterSide:
    """Everything that asks Kubernetes, or tells it something."""

    def __init__(
        self,
        *,
        api: KubernetesApi,
        config: ControllerConfig,
        settings: KubernetesConfig,
        reports: Reports,
        standing: Standing,
        registry: CollectorRegistry,
    ) -> None:
        self._api = api
        self._config = config
        self._settings = settings
        self._reports = reports
        self._standing = standing
        self._registry = registry
        self._pods = Pods()
        self._followed: Informer[PodFacts] = self._informer(
            Kind.POD, parse_pod, put=self._pods.put, removed=self._pods.remove
        )
        self._nodes = self._informer(Kind.NODE, parse_node)
        self._sets = self._informer(Kind.STATEFUL_SET, parse_set)
        self._policies = self._informer(Kind.NETWORK_POLICY, lambda tree: str(tree["metadata"]["name"]))
        self._events = Events(kubernetes=api, reporter=settings.name)
        self._certificates = Certificates(
            kubernetes=api,
            namespace=settings.namespace,
            address=settings.address,
            directory=settings.directory,
            given=settings.authority_given,
            standing=standing,
            backoff=_BACKOFF,
        )
        self._conditions = NodeConditions(kubernetes=api, reports=reports, nodes=self._nodes, events=self._events)
        self._leader: Leader | None = None
        self.rules = KubernetesRules(
            pods=self._pods,
            followed=self._followed,
            nodes=self._nodes,
            by_pod_cidr=settings.locators == "podcidr",
            events=self._events,
        )

    @property
    def leads(self) -> bool:
        """Whether this controller sweeps."""
        return self._leader is not None and self._leader.leads

    async def start(self, tasks: asyncio.TaskGroup, stack: AsyncExitStack) -> None:
        """Return once certificates are given to whoever asks, and etcd, if it is ours, has its users."""
        await self._certificates.start()
        for informer in (self._followed, self._nodes, self._sets, self._policies):
            tasks.create_task(informer.run())
        for work in (self._certificates.run, self._events.run, self._conditions.run, self._warn):
            tasks.create_task(work())
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        stack.push_async_callback(server.stop, None)
        add_EnrolmentServicer_to_server(
            EnrolmentServer(
                kubernetes=self._api,
                certificates=self._certificates,
                namespace=self._settings.namespace,
                nodes=self._nodes,
                pods=self._followed,
                etcd_members=self._settings.etcd_members,
                standing=self._standing,
            ),
            server,
        )
        directory = self._settings.directory
        files = ServerCertificates(certificate=directory / "server.pem", key=directory / "server.key", client_ca=None)
        server.add_secure_port(self._settings.enrolment, files.credentials())
        await server.start()
        log.info("certificates are given on %s", self._settings.enrolment)
        if self._settings.etcd_members:
            await self._set_up_etcd()

    def lead(self, tasks: asyncio.TaskGroup, clearing: Clearing) -> None:
        """Take part in the election of who sweeps."""
        settings = self._settings
        sweep = Sweep(
            clearing=clearing,
            pods=self._pods,
            followed=self._followed,
            nodes=self._nodes,
            sets=self._sets,
            reports=self._reports,
            events=self._events,
            standing=self._standing,
            patience=Patience(
                pod=settings.sweep_grace,
                keep=settings.sweep_keep,
                locator=settings.locator_quarantine,
                share=settings.sweep_share,
                pause=settings.sweep_pause,
            ),
            registry=self._registry,
            us=(settings.namespace, settings.name),
        )
        self._leader = Leader(
            kubernetes=self._api, namespace=settings.namespace, identity=settings.name, work=sweep.run
        )
        tasks.create_task(self._leader.run())

    async def _set_up_etcd(self) -> None:
        """Wait for etcd and make its users, as root."""
        etcd, directory = self._config.etcd, self._settings.directory
        root = Peer(
            endpoints=etcd.endpoints,
            authority=etcd.authority,
            ca=directory / "ca.pem",
            certificate=directory / "root.pem",
            key=directory / "root.key",
        )
        channel = PeerChannel(peer=root)
        try:
            while True:
                try:
                    await etcd_users.set_up(channel)
                except StoreError as error:
                    where = f"etcd at {channel.name} ([etcd] of controller.toml)"
                    self._standing.waiting(f"{where} has no users yet: {error}")
                    await asyncio.sleep(1.0)
                else:
                    return
        finally:
            await channel.close()

    async def give_up(self, reason: str) -> None:
        """Say in an Event, at once, why this controller is about to end."""
        self._events.about_us(self._settings.namespace, self._settings.name, reason="IlanetRefused", message=reason)
        await self._events.flush()

    async def _warn(self) -> None:
        """Say for ever whether there are policies that nobody enforces, and, in an Event, why agents get no answer."""
        us, silent = (self._settings.namespace, self._settings.name), ""
        while True:
            before, silent = silent, self._standing.not_serving()
            if before and silent:  # a start takes a moment
                self._events.about_us(*us, reason="IlanetNotServing", message=silent)
            missing = self._unenforced()
            if missing:
                self._standing.problem("network policies", missing)
            else:
                self._standing.well("network policies")
            await asyncio.sleep(_LOOK)

    def _unenforced(self) -> str:
        if self._settings.policies_enforced or not self._nodes.complete or not self._followed.complete:
            return ""
        ours = [pod for pod in self._pods.all() if pod.namespace == self._settings.namespace]
        past = [node for node, report in self._reports.fresh().items() if report.past_netfilter]
        return unenforced(len(self._policies.objects), (name for _, name in self._nodes.objects), ours, past)

    def _informer(
        self,
        kind: Kind,
        parse: Callable[[Mapping[str, Any]], Any],
        put: Callable[[Any], None] = lambda _: None,
        removed: Callable[[str, str], None] = lambda *_: None,
    ) -> Informer[Any]:
        return Informer(kubernetes=self._api, kind=kind, parse=parse, put=put, removed=removed, backoff=_BACKOFF)
