"""Figures of a server, as Prometheus reads them: what was counted, and what is so at this moment."""

from __future__ import annotations

import platform
from collections import Counter as Tally
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edgeferry_runtime import __version__
from edgeferry_runtime.serving.pulse import answering

if TYPE_CHECKING:
    from edgeferry_runtime.serving.repository import Repository
    from edgeferry_runtime.serving.telling import Visit

BUCKETS = (
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Upper bounds of the latency histograms, seconds."""

MOST = 500
"""Sets of labels at most; what comes beyond is counted under the model ``other``."""

OTHER = "other"


class Figures:
    """Counts requests, in a registry of its own. All of it belongs to the event loop.

    Attributes:
        registry: What an exposition is made of.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.in_flight: Tally[str] = Tally()
        self._requests = self._counter("requests", "Requests answered.", "protocol", "model", "version", "status")
        self._times = [
            self._histogram("request", "From a request's head to its answer."),
            self._histogram("queue", "Waiting for a thread."),
            self._histogram("compute", "The model's run."),
        ]
        self._answered: dict[tuple[str, str, int, int | str], Counter] = {}
        self._observed: dict[str, tuple[Histogram, ...]] = {}
        Info("edgeferry_build", "What this is.", registry=self.registry).info(
            {"version": __version__, "python": platform.python_version(), "machine": platform.machine()}
        )
        ProcessCollector(registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"edgeferry_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"edgeferry_{name}_seconds", text, ["model"], registry=self.registry, buckets=BUCKETS)

    def enter(self, protocol: str) -> None:
        """Count a request that has come."""
        self.in_flight[protocol] += 1

    def leave(self, visit: Visit, status: int | str, ms: float) -> None:
        """Count a request that was answered; one that no model ran for says nothing of how long models take.

        Args:
            visit: The request. Its model is one that is served, never a name that a client made up.
            status: Its status.
            ms: How long it took.
        """
        self.in_flight[visit.protocol] -= 1
        self._child(visit.protocol, visit.model, visit.version, status).inc()
        if visit.model:
            total, *of_model = self._children(visit.model)
            total.observe(ms / 1000)
            if visit.compute_ms:
                for histogram, taken in zip(of_model, (visit.queue_ms, visit.compute_ms), strict=True):
                    histogram.observe(taken / 1000)

    def _child(self, protocol: str, model: str, version: int, status: int | str) -> Counter:
        key = (protocol, model, version, status)
        if key in self._answered:
            return self._answered[key]
        kind = f"{status // 100}xx" if isinstance(status, int) else status
        if len(self._answered) >= MOST:
            return self._requests.labels(protocol, OTHER, "", kind)
        self._answered[key] = self._requests.labels(protocol, model, str(version or ""), kind)
        return self._answered[key]

    def _children(self, model: str) -> tuple[Histogram, ...]:
        if model in self._observed:
            return self._observed[model]
        if len(self._observed) >= MOST:
            return tuple(histogram.labels(OTHER) for histogram in self._times)
        self._observed[model] = tuple(histogram.labels(model) for histogram in self._times)
        return self._observed[model]

    def watch(self, repository: Repository, dropped: Callable[[], int]) -> None:
        """Show as well what is so at the moment of asking.

        Args:
            repository: The models.
            dropped: Tells how many lines of the log found no room.
        """
        self.registry.register(_Moment(self.in_flight, repository, dropped))


class _Moment(Collector):
    """What is so when it is asked for."""

    def __init__(self, in_flight: Tally[str], repository: Repository, dropped: Callable[[], int]) -> None:
        self._in_flight, self._repository, self._dropped = in_flight, repository, dropped

    def collect(self) -> Iterable[Metric]:
        """Look."""
        flying = GaugeMetricFamily(
            "edgeferry_requests_in_flight", "Requests that are being answered.", labels=["protocol"]
        )
        for protocol, count in self._in_flight.items():
            flying.add_metric([protocol], count)
        yield flying
        yield from self._models()
        yield CounterMetricFamily(
            "edgeferry_log_lines_dropped", "Lines of the log that nobody read.", value=self._dropped()
        )

    def _models(self) -> Iterable[Metric]:
        states = GaugeMetricFamily(
            "edgeferry_model_state", "1 for what a version is doing.", labels=["model", "version", "state"]
        )
        waiting = GaugeMetricFamily("edgeferry_queue_length", "Requests that wait or run.", labels=["model", "version"])
        for listing in self._repository.index():
            states.add_metric([listing.name, str(listing.version), listing.state.value], 1)
        for release in answering(self._repository):
            length = sum(lane.waiting for lane in release.lanes.values())
            waiting.add_metric([release.name, str(release.version)], length)
        loaded = CounterMetricFamily("edgeferry_releases", "Releases loaded and refused.", labels=["model", "outcome"])
        for labels, count in self._repository.outcomes.items():
            loaded.add_metric(labels, count)
        return states, waiting, loaded
