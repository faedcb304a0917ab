# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from agent.core.datapath import DatapathError
from agent.core.mappings import MappingTable
from agent.core.status import Status
from agent.metrics import AgentCollector, StepTimings
from ila.http import HttpServer
from lab.etcd import free_port
from tests.fakes import DOMAIN, REGISTRATION, FakeDatapath


@dataclass
class Served:
    """A server on a free port, and what it shows."""

    url: str
    status: Status
    datapath: FakeDatapath
    timings: StepTimings
    unhealthy: str = ""

    async def get(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as answer:
            return answer.status, await answer.text()

    async def metrics(self) -> dict[str, float]:
        _, text = await self.get("/metrics")
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {
            sample.name + "".join(f",{v}" for _, v in sorted(sample.labels.items())): sample.value for sample in samples
        }


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """Yield a server for an agent that has just started."""
    port = free_port("::1")
    registry, status, datapath = CollectorRegistry(), Status(), FakeDatapath()
    timings = StepTimings(registry=registry)
    table = MappingTable(domain=DOMAIN)
    collector = AgentCollector(
        datapath=datapath,
        status=status,
        table=lambda: table,
        endpoints=lambda: 2,
        unpublished=lambda: 1,
        reserve=lambda: 64,
        nodes=lambda: 3,
        probes=lambda: {"well": 2, "source": 1},
    )
    registry.register(collector)
    found = Served(f"http://[::1]:{port}", status, datapath, timings)
    server = HttpServer(
        listen=f"[::1]:{port}",
        registry=registry,
        not_ready=status.not_serving,
        describe=lambda: {"problems": dict(status.problems)},
        unhealthy=lambda: found.unhealthy,
    )
    await server.start()
    yield found
    await server.close()


async def test_ready_only_when_an_add_can_be_served(served: Served) -> None:
    """/readyz says why not, then ok; /healthz is ok all the while."""
    served.status.problem("controller", "registration: nobody answers")
    assert await served.get("/readyz") == (503, "controller: registration: nobody answers\n")
    assert await served.get("/healthz") == (200, "ok\n")
    served.status.registered(REGISTRATION)
    served.status.host_ready(mtu=1500)
    assert await served.get("/readyz") == (200, "ok\n")


async def test_unhealthy_when_only_a_new_start_helps(served: Served) -> None:
    """/healthz says why: the kubelet's Event quotes the status, and the container starts again."""
    served.unhealthy = "the node has another address"
    assert await served.get("/healthz") == (503, "the node has another address\n")


async def test_metrics_are_what_prometheus_reads(served: Served) -> None:
    """Verdicts by hook, problems, durations and counts parse as Prometheus text."""
    served.status.problem("etcd", "down")
    served.timings.observe("add", "wire", 0.002)
    metrics = await served.metrics()
    assert metrics["ilanet_verdict_packets_total,1,from_pod,spoofed_source"] == 3
    assert metrics["ilanet_verdict_bytes_total,1,from_pod,spoofed_source"] == 300
    assert metrics["ilanet_problem,etcd"] == 1
    assert metrics["ilanet_endpoints"] == 2
    assert metrics["ilanet_nodes"] == 3
    assert (metrics["ilanet_probe_nodes,well"], metrics["ilanet_probe_nodes,source"]) == (2, 1)
    assert metrics["ilanet_serving"] == 0
    assert metrics["ilanet_cni_step_seconds_count,add,wire"] == 1


async def test_a_kernel_that_does_not_answer_is_a_problem_not_a_crash(served: Served) -> None:
    """A scrape goes on without the counters that cannot be read, and says so."""
    served.datapath.fail_next["verdicts"] = DatapathError("verdicts: gone")
    metrics = await served.metrics()
    assert not [name for name in metrics if name.startswith("ilanet_verdict_packets")]
    assert metrics["ilanet_problem,verdicts"] == 1
