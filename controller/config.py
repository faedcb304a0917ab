# SPDX-License-Identifier: Apache-2.0
"""The controller's settings, validated once and whole; for the composition root."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from ila import log, settings
from ila.address import ChecksumMode
from ila.channel import target
from ila.domain import Domain
from ila.settings import Peer, setting

_MOST_CLOSED_PORTS = 16


def _domain(value: object) -> Domain:
    """Parse the table of sir_prefix, locator_space and checksum_mode, as text."""
    texts = settings.table(DomainTexts)(value)
    return Domain.parse(
        sir_prefix=texts.sir_prefix, locator_space=texts.locator_space, checksum_mode=texts.checksum_mode
    )


def _pool(value: object) -> ipaddress.IPv6Network:
    pool = ipaddress.IPv6Network(settings.text(value))
    if pool.prefixlen > 64:
        raise ValueError("must be a prefix of at most 64 bits")
    return pool


def _ports(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > _MOST_CLOSED_PORTS:
        raise ValueError(f"must be a list of at most {_MOST_CLOSED_PORTS} ports")
    return tuple(settings.integer(1, 65535)(port) for port in value)


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainTexts:
    """The domain as it stands in the file."""

    sir_prefix: str = setting(settings.text)
    """The /64 that applications see."""

    locator_space: tuple[str, ...] = setting(settings.texts)
    """Prefixes of at most 64 bits that all locators lie in."""

    checksum_mode: str = setting(settings.text, ChecksumMode.NEUTRAL_MAP.value)
    """The same on all nodes for ever: it cannot be changed while pods run."""


def _locators(value: object) -> str:
    if value not in ("pool", "podcidr"):
        raise ValueError("must be 'pool' or 'podcidr'")
    return str(value)


def _share(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError("must be a number from 0 to 1")
    return float(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesConfig:
    """A controller that runs as a pod, and asks Kubernetes who may have what."""

    namespace: str = setting(settings.text)
    """Of ilanet's own pods, accounts and Secret."""

    name: str = setting(settings.text)
    """Of this controller's pod: its identity in the election, and where its Events are."""

    address: ipaddress.IPv6Address = setting(settings.address)
    """The node address of this controller's node, in its certificate."""

    enrolment: str = setting(settings.endpoint, "[::]:7442")
    """'[address]:port' where agents and etcd members get their certificates."""

    directory: Path = setting(settings.file_path, Path("/run/ilanet-controller"))
    """Where this controller's own certificates are written: server.pem, etcd.pem, root.pem, their keys, ca.pem."""

    kubeconfig: Path | None = setting(settings.file_path, None)
    """How to reach the API server; none: as a pod does."""

    locators: str = setting(_locators, "pool")
    """'pool': from locator_pool; 'podcidr': each node's podCIDR, a /64 of the controller manager."""

    authority_given: bool = setting(settings.flag, default=False)
    """The Secret ilanet-ca is filled by somebody else (cert-manager): wait for it, and never make one."""

    etcd_members: int = setting(settings.integer(0, 9), 0)
    """Pods of ilanet's own etcd; 0: the operator's own, with certificates and users of his."""

    policies_enforced: bool = setting(settings.flag, default=False)
    """Something enforces NetworkPolicy objects that controllers do not see by its pods' label ilanet.io/enforces."""

    sweep_pause: float = setting(settings.seconds, 60.0)
    """Seconds between two sweeps of what Kubernetes does not have any more."""

    sweep_grace: float = setting(settings.seconds, 300.0)
    """Seconds for which an identifier outlives its pod, and a node's record its node."""

    sweep_keep: float = setting(settings.seconds, 3600.0)
    """Seconds for which a kept identifier outlives the last pod and StatefulSet that could want it."""

    sweep_share: float = setting(_share, 0.1)
    """Most of all identifiers to be freed at once (and 20 always): more looks like an API server that lost records."""

    locator_quarantine: float = setting(settings.seconds, 3600.0)
    """Seconds after which another node may have the locator of one that is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerConfig:
    """Everything a controller is told.  All replicas of a domain must be told the same domain."""

    listen: str = setting(settings.endpoint)
    """'[address]:port' where agents call."""

    http: str = setting(settings.endpoint, "[::]:9476")
    """'[address]:port' of /metrics, /healthz, /readyz and /status."""

    etcd: Peer = setting(settings.table(Peer))
    """The etcd that holds the records."""

    domain: Domain = setting(_domain)
    """What all nodes agree on; compared with what etcd was filled for."""

    certificate: Path | None = setting(settings.file_path, None)
    """PEM file of our certificate; read again when it changes."""

    key: Path | None = setting(settings.file_path, None)
    """PEM file of the certificate's private key."""

    client_ca: Path | None = setting(settings.file_path, None)
    """PEM file of the authority that signed the nodes' certificates (common name 'ilanet:node:<name>')."""

    insecure: bool = setting(settings.flag, default=False)
    """Plaintext, and every caller may act for every node; refused unless `listen` is a loopback address."""

    kubernetes: KubernetesConfig | None = setting(settings.table(KubernetesConfig), None)
    """Run as a part of a Kubernetes; none: every node is believed."""

    locator_pool: ipaddress.IPv6Network | None = setting(_pool, None)
    """Prefix inside the locator space from which nodes that declare no locator get one; none: all must declare."""

    closed_ports: tuple[int, ...] = setting(_ports, (2379, 2380, 2381, 7442, 7443, 7444))
    """TCP and UDP ports of ilanet and its etcd on node addresses, closed to pods; at most 16 (a BPF constant).

    Metrics (9475, 9476) are not among them: a Prometheus in a pod reads them.
    """

    log: str = setting(log.form, "text")
    """Form of log lines: 'text' or 'json'."""

    grace: float = setting(settings.seconds, 5.0)
    """Seconds that calls in flight have to end after SIGTERM."""

    def __post_init__(self) -> None:
        """Refuse, with ValueError, settings that contradict each other."""
        target(self.etcd.endpoints)
        files = (self.certificate, self.key, self.client_ca)
        if self.insecure and any(files):
            raise ValueError("insecure = true contradicts certificate, key and client_ca")
        if self.insecure and not settings.is_loopback(self.listen):
            raise ValueError(f"insecure = true is for loopback only; listen = {self.listen!r} is not")
        if not self.insecure and not all(files):
            raise ValueError("needs certificate, key and client_ca (or insecure = true on loopback)")
        pool = self.locator_pool
        if pool is not None and not any(pool.subnet_of(space) for space in self.domain.locator_space):
            raise ValueError(f"locator_pool {pool} does not lie in the locator space")
