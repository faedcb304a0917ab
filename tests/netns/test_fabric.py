# SPDX-License-Identifier: Apache-2.0
"""The lab's own witness: the underlay's rule that counts and drops what crosses it untranslated."""

from __future__ import annotations

import os

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6

from lab.capture import Capture
from lab.cluster import DOMAIN
from lab.fabric import Fabric, Shape
from tests.netns.conftest import send_on


@pytest.mark.parametrize("shape", list(Shape))
def test_the_guard_counts_and_drops_what_is_untranslated(shape: Shape) -> None:
    """A packet from host to host with a SIR destination, routed or bridged; one to a locator passes uncounted."""
    fabric = Fabric(prefix=f"g{os.getpid()}", shape=shape, domain=DOMAIN)
    try:
        fabric.build(2)
        # Where br_netfilter is loaded, bridged packets meet the rules of ip6 too: not everywhere, so not here either.
        fabric.router.run("sysctl", "-e", "-q", "-w", "net.bridge.bridge-nf-call-ip6tables=0")
        receiver, sender = fabric.hosts
        gateway = (fabric.router, "h2") if shape is Shape.ROUTED else (receiver.namespace, receiver.device)
        mac = gateway[0].mac(gateway[1])
        if shape is Shape.ROUTED:
            fabric.router.ip(
                *("neigh", "replace", receiver.address, "dev", "h1"),
                *("lladdr", receiver.namespace.mac(receiver.device).hex(":"), "nud", "permanent"),
            )
        stray, proper = (
            bytes(IPv6(src=sender.address, dst=str(prefix.network[0x77])) / UDP(sport=1, dport=number))
            for number, prefix in enumerate((DOMAIN.sir_prefix, receiver.locator))
        )
        arrived = Capture.open(receiver.namespace, receiver.device)
        try:
            assert fabric.untranslated() == 0
            send_on(sender.namespace, sender.device, mac, stray, proper, stray)
            assert arrived.first(lambda seen: seen.raw[40:] == proper[40:]).destination.startswith("fd00:c0de:")
            assert fabric.untranslated() == 2
            assert not [seen for seen in arrived.waiting() if seen.raw[40:] == stray[40:]]
        finally:
            arrived.close()
    finally:
        fabric.close()
