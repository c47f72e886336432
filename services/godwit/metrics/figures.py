"""The figures of one process, kept as plain numbers: a microsecond each.

Prometheus's own client takes a lock and several calls for each. Belongs to one event loop. Must not
know how figures are shown.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

from godwit.runtime.config import Service

from . import definitions
from .definitions import Kind, Metric

SERIES_MAX: Final = 1_000
"""Of one metric. Labels take few values: more is a defect."""


class Reading(NamedTuple):
    """A value that is only looked up when it is asked for."""

    metric: Metric
    value: float
    labels: tuple[str, ...] = ()


Source = Callable[[], Iterable[Reading]]


@dataclass(slots=True)
class Histogram:
    """Counts by bucket, the last of them without an upper bound."""

    counts: list[int]
    total: float = 0.0


Labels = tuple[str, ...]
V = TypeVar("V")


class Figures:
    """What one process has counted since its start."""

    def __init__(self, service: Service | None = None) -> None:
        """``service`` None: every metric there is."""
        self.metrics = definitions.ALL if service is None else definitions.of(service)
        self._values: dict[Metric, dict[Labels, float]] = {}
        self._histograms: dict[Metric, dict[Labels, Histogram]] = {}
        self._sources: list[Source] = []
        for metric in self.metrics:
            if metric.kind is Kind.HISTOGRAM:
                made = {labels: _histogram(metric) for labels in metric.series}
                self._histograms[metric] = made
            else:
                self._values[metric] = dict.fromkeys(metric.series, 0.0)

    def add(self, metric: Metric, *labels: str, amount: float = 1.0) -> None:
        """Count up. A metric that the service has not is a ``KeyError``."""
        series = self._values[metric]
        series[labels] = _known(metric, series, labels, 0.0) + amount

    def raise_to(self, metric: Metric, value: float, *labels: str) -> None:
        """Set a gauge that only goes up."""
        series = self._values[metric]
        series[labels] = max(_known(metric, series, labels, 0.0), value)

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Count a value in a histogram."""
        series = self._histograms[metric]
        found = series.get(labels)
        if found is None:
            found = series[labels] = _known(metric, series, labels, _histogram(metric))
        found.counts[bisect_left(metric.bounds, value)] += 1
        found.total += value

    def ask(self, source: Source) -> None:
        """Look these values up each time that the figures are shown. Quick, and must not raise."""
        self._sources.append(source)

    def read(self) -> dict[Metric, dict[Labels, float]]:
        """Counters and gauges as they are now, those of the sources included."""
        found = {metric: dict(series) for metric, series in self._values.items()}
        for reading in self._readings():
            found[reading.metric][reading.labels] = reading.value
        return found

    def histograms(self) -> dict[Metric, dict[Labels, Histogram]]:
        """Histograms as they are now. Not a copy."""
        return self._histograms

    def _readings(self) -> Iterator[Reading]:
        for source in self._sources:
            yield from source()


def _histogram(metric: Metric) -> Histogram:
    return Histogram([0] * (len(metric.bounds) + 1))


def _known(metric: Metric, series: dict[Labels, V], labels: Labels, fresh: V) -> V:
    found = series.get(labels)
    if found is not None:
        return found
    assert len(labels) == len(metric.labels), metric.name
    assert len(series) < SERIES_MAX, metric.name
    return fresh
