# SPDX-License-Identifier: Apache-2.0
"""A host whose translation is Linux's own (ila.ko, driven by iproute2), with one pod; used inside the guest."""

from __future__ import annotations

from ila.address import ChecksumMode, Identifier, Locator
from ila.domain import Domain
from lab.fabric import Host
from lab.namespace import Namespace, cable
from tests.vm.traffic import End


def groups(prefix: int) -> str:
    """Return a 64-bit prefix as iproute2 takes locators: four groups, none left out."""
    return ":".join(f"{prefix >> shift & 0xFFFF:x}" for shift in (48, 32, 16, 0))


def route(destination: str, locator: Locator, mode: str) -> str:
    """Return the words of an ILA route, up to where it goes."""
    encap = f"encap ila {groups(int(locator))} csum-mode {mode} ident-type luid hook-type output"
    return f"route replace {destination}/128 {encap}"


def receive(locator: Locator, domain: Domain) -> str:
    """Return the words of an entry of Linux's receive table: it restores whatever comes to a locator."""
    mode = domain.checksum_mode.value
    return f"loc_match {groups(int(locator))} loc {groups(int(domain.sir_prefix))} csum-mode {mode} ident-type luid"


class LinuxHost:
    """One host of the lab's fabric, without an agent."""

    def __init__(self, host: Host, *, domain: Domain, identifier: Identifier) -> None:
        self.host = host
        self._domain = domain
        self._mode = domain.checksum_mode
        address = str(domain.sir_prefix.address(identifier))
        name, _, _ = host.namespace.name.rpartition("-")
        pod = Namespace.create(f"{name}-linux-pod")
        cable((host.namespace, "pod"), (pod, "eth0"))
        host.namespace.sysctl(net__ipv6__conf__all__forwarding=1)
        pod.ip("addr", "add", f"{address}/128", "dev", "eth0", "nodad")
        gateway_mac = host.namespace.mac("pod")
        pod.ip("neigh", "replace", "fe80::1", "lladdr", gateway_mac.hex(":"), "dev", "eth0", "nud", "permanent")
        pod.ip("route", "add", "default", "via", "fe80::1", "dev", "eth0")
        pod_mac = pod.mac("eth0").hex(":")
        host.namespace.ip("neigh", "replace", address, "lladdr", pod_mac, "dev", "pod", "nud", "permanent")
        host.namespace.ip("route", "add", f"{address}/128", "dev", "pod")
        self.pod = End(pod, address, gateway_mac)
        host.namespace.run("ip", "ila", "add", *receive(host.locator, domain).split())

    def learn(self, address: str, locator: Locator, mode: ChecksumMode | None = None) -> None:
        """Translate what goes to a SIR address; in another mode than the domain's if one is given."""
        words = route(address, locator, (mode or self._mode).value)
        self.host.namespace.ip(*words.split(), "via", str(self.host.gateway), "dev", self.host.device)
