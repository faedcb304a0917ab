# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics of the agent: counters of the datapath read at each scrape, and durations of operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.core.datapath import Datapath, DatapathError
from agent.core.mappings import MappingTable
from agent.core.status import Status

_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0)


class StepTimings:
    """Durations of the steps of CNI commands; implements agent.assembly.Timings."""

    def __init__(self, *, registry: CollectorRegistry) -> None:
        self._histogram = Histogram(
            "ilanet_cni_step_seconds",
            "Duration of each step of a CNI command, and of the whole as step 'total'.",
            ("operation", "step"),
            buckets=_BUCKETS,
            registry=registry,
        )

    def observe(self, operation: str, step: str, seconds: float) -> None:
        """Take the duration of one step in."""
        self._histogram.labels(operation, step).observe(seconds)


class AgentCollector(Collector):
    """What the agent and the kernel know at the moment of a scrape."""

    def __init__(
        self,
        *,
        datapath: Datapath,
        status: Status,
        table: Callable[[], MappingTable | None],
        endpoints: Callable[[], int],
        unpublished: Callable[[], int],
        reserve: Callable[[], int],
        nodes: Callable[[], int],
        probes: Callable[[], Mapping[str, int]],
    ) -> None:
        self._datapath = datapath
        self._status = status
        self._table = table
        self._endpoints = endpoints
        self._unpublished = unpublished
        self._reserve = reserve
        self._nodes = nodes
        self._probes = probes

    def describe(self) -> list[Metric]:
        """Return nothing: what there is to collect is known only at a scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        yield from self._verdicts()
        table = self._table()
        highest = table.highest if table is not None else None
        yield _gauge("ilanet_mappings", "Mappings that the kernel's map should hold.", len(table) if table else 0)
        yield _gauge("ilanet_generation_epoch", "Epoch of the newest mapping.", highest.epoch if highest else 0)
        yield _gauge("ilanet_generation_revision", "Its etcd revision.", highest.revision if highest else 0)
        yield _gauge("ilanet_endpoints", "Pods attached on this node.", self._endpoints())
        yield _gauge(
            "ilanet_endpoints_unpublished", "Of these, pods that the controller has not heard of.", self._unpublished()
        )
        yield _gauge("ilanet_reserve", "Identifiers held in advance.", self._reserve())
        yield _gauge("ilanet_nodes", "Nodes registered in the domain.", self._nodes())
        yield _gauge("ilanet_serving", "1 if a CNI ADD can be served.", int(self._status.serving))
        yield _gauge("ilanet_mappings_complete", "1 after a whole snapshot.", int(self._status.mappings_complete))
        probes = GaugeMetricFamily(
            "ilanet_probe_nodes", "Other nodes, by what probes of the underlay towards them found.", labels=("found",)
        )
        for found, count in self._probes().items():
            probes.add_metric((found,), count)
        yield probes
        problems = GaugeMetricFamily("ilanet_problem", "1 for each thing that is wrong now.", labels=("what",))
        for what in self._status.problems:
            problems.add_metric((what,), 1)
        yield problems

    def _verdicts(self) -> Iterator[Metric]:
        labels = ("hook", "verdict", "drop")
        packets = CounterMetricFamily("ilanet_verdict_packets", "Packets by hook and verdict.", labels=labels)
        octets = CounterMetricFamily("ilanet_verdict_bytes", "Bytes by hook and verdict.", labels=labels)
        try:
            counts = self._datapath.verdicts()
        except DatapathError as error:
            self._status.problem("verdicts", str(error))
            return
        for count in counts:
            key = (count.hook, count.verdict, "1" if count.drop else "0")
            packets.add_metric(key, count.packets)
            octets.add_metric(key, count.bytes)
        yield packets
        yield octets


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
