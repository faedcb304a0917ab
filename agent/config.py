# SPDX-License-Identifier: Apache-2.0
"""The agent's settings, validated once and whole; for the composition root."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from agent.core.conflist import CHAINABLE
from agent.core.datapath import HostPath
from ila import log, settings
from ila.address import Locator
from ila.settings import Enrolment, Peer, setting

_SYSCTL = re.compile(r"net(\.[A-Za-z0-9_-]+)+")


def _next_hop(value: object) -> str:
    if value not in ("auto", "gateway", "neighbour"):
        raise ValueError("must be 'auto', 'gateway' or 'neighbour'")
    return str(value)


def _chain(value: object) -> tuple[str, ...]:
    names = settings.texts(value)
    for name in names:
        if name not in CHAINABLE or names.count(name) > 1:
            raise ValueError(f"must name each of {', '.join(CHAINABLE)} at most once")
    return names


def _sysctls(value: object) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for item in settings.texts(value):
        name, _, text = (part.strip() for part in item.partition("="))
        if not _SYSCTL.fullmatch(name) or not text.isprintable() or not text:
            raise ValueError(f"{item!r} is not 'net.NAME=VALUE': pods have sysctls of the network only")
        if name in found:
            raise ValueError(f"{name!r} is there twice")
        found[name] = text
    return tuple(found.items())


def _host_path(value: object) -> HostPath:
    try:
        return HostPath(value)
    except ValueError:
        raise ValueError("must be 'stack' or 'bpf'") from None


def _probe_seconds(value: object) -> float:
    return 0.0 if value == 0 and not isinstance(value, bool) else settings.seconds(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """Everything an agent is told."""

    node: str = setting(settings.node_name)
    """This node's name, as its certificate has it."""

    address: ipaddress.IPv6Address = setting(settings.address)
    """The node address: source of the host's own packets to pods, and where redirects arrive."""

    controller: Peer = setting(settings.table(Peer))
    etcd: Peer = setting(settings.table(Peer))

    underlay: tuple[str, ...] = setting(settings.device_names, ())
    """Names of the devices towards the other nodes, the first carries the SIR route; none: that of the node address."""

    enrolment: Enrolment | None = setting(settings.table(Enrolment), None)
    """Where this node gets its certificates from, into the files of `controller` and `etcd`; none: they are there."""

    locator: Locator | None = setting(settings.locator, None)
    """The /64 that this node declares as its own; none: the controller chooses."""

    edge: tuple[str, ...] = setting(settings.device_names, ())
    """Names of devices towards the outside of the domain: no ILA address may cross them."""

    control_port: int = setting(settings.integer(1, 65535), 7444)
    """UDP port of the control address."""

    log: str = setting(log.form, "text")
    """Form of log lines: 'text' or 'json'."""

    host_path: HostPath = setting(_host_path, HostPath.STACK)
    """The way of a packet through this host."""

    next_hop: str = setting(_next_hop, "auto")
    """'gateway' (routed underlay), 'neighbour' (shared layer 2) or 'auto' (found out)."""

    masquerade: bool = setting(settings.flag, default=False)
    """What pods send to the outside gets this node's address: where the underlay does not route the SIR prefix back."""

    ipv4_network: ipaddress.IPv4Network | None = setting(settings.ipv4_network, None)
    """Where pods get a second address from, known to their node alone, for destinations that have IPv4 alone.

    The same on every node, such as 169.254.172.0/22, and used by nothing else; none: pods have IPv6 only.
    """

    reject_mark: int = setting(settings.integer(1, 0xFFFF_FFFF), 0x0100_0000)
    """Packet mark, bits that nothing else on the host uses, of packets to identifiers that nothing maps."""

    state_directory: Path = setting(settings.file_path, Path("/var/lib/ilanet"))
    """Records that must survive a reboot."""

    runtime_directory: Path = setting(settings.file_path, Path("/run/ilanet"))
    """Where the CNI socket is."""

    bpf_directory: Path = setting(settings.file_path, Path("/sys/fs/bpf/ilanet"))
    """Pins of maps, programs and links; on a bpffs of the host, never of the agent's own container."""

    bpf_object: Path = setting(settings.file_path, Path("/usr/lib/ilanet/ilanet.bpf.o"))
    """The compiled BPF programs."""

    cni_config: Path = setting(settings.file_path, Path("/etc/cni/net.d/10-ilanet.conflist"))
    """The network configuration that runtimes read: there once this agent can serve, until it is uninstalled."""

    replace_network: bool = setting(settings.flag, default=False)
    """On a node whose runtimes have another plugin's configuration, write ours beside it all the same.

    Pods that run keep the other network, and do not reach new ones.  Ours stays once it is there, whatever this says.
    """

    cni_plugins: Path = setting(settings.file_path, Path("/opt/cni/bin"))
    """Where the runtime finds plugins."""

    cni_executable: Path | None = setting(settings.file_path, None)
    """The executable to put among `cni_plugins` as `ilanet`; none: it is there."""

    sysctl_directory: Path = setting(settings.file_path, Path("/proc/sys"))
    """Where sysctls can be written: in a container the host's /proc/sys/net is mounted elsewhere."""

    cni_chain: tuple[str, ...] = setting(_chain, ("portmap", "bandwidth"))
    """Plugins of the CNI project that follow ours, in this order: 'portmap', 'bandwidth', 'tuning'.

    One that is not among `cni_plugins`, or cannot work on this kernel, is left out, and the status says why.
    """

    cni_sysctls: tuple[tuple[str, str], ...] = setting(_sysctls, ())
    """What 'tuning' sets in every pod that starts: 'net.core.somaxconn=4096'; IFNAME is the pod's interface.

    A name that the kernel does not know, or a value that it does not take, fails the start of every pod.
    """

    http: str = setting(settings.endpoint, "[::]:9475")
    """Where metrics, /healthz and /readyz are served."""

    reserve: int = setting(settings.integer(0, 512), 64)
    """Identifiers to hold in advance: so many pods can start while no controller answers.  0: none."""

    resync: float = setting(settings.seconds, 30.0)
    """Seconds between two comparisons of the host with what is desired, where no event asks for one sooner."""

    probe_seconds: float = setting(_probe_seconds, 60.0)
    """Seconds between two probes of the underlay towards another node, where the last one was well.  0: none."""

    epoch_grace: float = setting(settings.seconds, 60.0)
    """Seconds that mappings of an older epoch outlive a newer one: time for all nodes to fill etcd in again."""

    def __post_init__(self) -> None:
        """Refuse sysctls that nobody would set."""
        if self.cni_sysctls and "tuning" not in self.cni_chain:
            raise ValueError("cni_sysctls needs 'tuning' in cni_chain")
