# SPDX-License-Identifier: Apache-2.0
"""An address moves with its owner: peers reach it at the new host at once, also those with old news."""

from __future__ import annotations

import signal
import time

import pytest

from lab.runtime import CniError, Pod
from tests.netns.conftest import Net, greet, ping


def start(net: Net, container: str, number: int) -> Pod:
    """Start the pod 'db' that keeps its address, as a container of that id on a host."""
    net.cluster.pods.pop("db", None)
    return net.cluster.pod("db", net.hosts[number], container=f"{net.cluster.name}-{container}", keep_address=True)


def end(pod: Pod) -> None:
    pod.delete()
    pod.namespace.close()


def test_a_later_pod_of_the_same_name_takes_the_address_over(net: Net) -> None:
    """Deleted on one host and started on another, the pod has its address, and every peer reaches it there."""
    first = start(net, "db-1", 0)
    peers = [net.pod("a1"), net.pod("b1"), net.pod("c1")]
    for peer in peers:
        ping(peer.namespace, first.address)
    end(first)
    second = start(net, "db-2", 1)
    assert second.address == first.address
    for peer in peers:
        assert greet(peer.namespace, second.namespace, second.address, 5432) == peer.address
    second.check()
    end(second)


def test_a_holder_that_has_not_released_is_named(net: Net) -> None:
    """A second container of the same owner elsewhere is refused, with the holder's node and container in the answer."""
    holder = start(net, "db-1", 0)
    try:
        with pytest.raises(CniError) as caught:
            start(net, "db-2", 1)
        net.cluster.pods.pop("db").namespace.close()
        assert caught.value.code == 11
        assert "host1" in str(caught.value)
        assert holder.container_id in str(caught.value)
        ping(net.pod("c1").namespace, holder.address)
    finally:
        end(holder)


def test_a_late_release_of_the_old_holder_does_no_harm(net: Net) -> None:
    """A DEL that comes again after the address has moved changes nothing (R17)."""
    first = start(net, "db-1", 0)
    first.delete()
    second = start(net, "db-2", 1)
    first.delete()
    ping(net.pod("c1").namespace, second.address)
    first.namespace.close()
    end(second)


def test_a_host_with_old_news_reaches_the_pod_through_its_old_host(net: Net) -> None:
    """T27: the third host has not heard of the move; the old host translates again and forwards, past its stack."""
    first = start(net, "db-1", 0)
    peer, old_host, stale = net.pod("c1"), net.hosts[0], net.cluster.agents["host3"]
    ping(peer.namespace, first.address)
    stale.signal(signal.SIGSTOP)
    try:
        end(first)
        second = start(net, "db-2", 1)
        with net.counted(old_host, "from_wire", "onward", at_least=3):
            ping(peer.namespace, second.address)
        assert greet(peer.namespace, second.namespace, second.address, 5433) == peer.address
    finally:
        stale.signal(signal.SIGCONT)
    time.sleep(1.5)
    before = net.cluster.verdicts(old_host)["from_wire", "onward"]
    ping(peer.namespace, second.address)
    assert net.cluster.verdicts(old_host)["from_wire", "onward"] == before
    end(second)
