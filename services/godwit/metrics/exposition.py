"""The figures in Prometheus's text format, a metric at a time.

Knows the format's library, and nothing of what a figure means. A scrape comes at any time, in the
middle of a stun too: so the text is made in small pieces, and whoever serves it lets the event loop
do what is due between two of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import (
    Metric as Family,
)
from prometheus_client.registry import Collector

from .definitions import Kind, Metric
from .figures import Figures, Histogram, Labels

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_INFINITY: Final = "+Inf"


class Exposition:
    """What ``GET /metrics`` answers. One a process: it has no registry in common with others."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._process = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._process)

    def pieces(self) -> Iterator[bytes]:
        """The text, in pieces of one metric each: some tens of microseconds of work."""
        values, histograms = self._figures.read(), self._figures.histograms()
        for metric in self._figures.metrics:
            if metric.kind is Kind.HISTOGRAM:
                yield _text(_histogram_family(metric, histograms[metric]))
            else:
                yield _text(_family(metric, values[metric]))
        yield generate_latest(self._process)

    def text(self) -> bytes:
        """The whole text."""
        return b"".join(self.pieces())


class _One(Collector):
    """A registry of one metric, for the library that writes the text."""

    def __init__(self, family: Family) -> None:
        self._family = family

    def collect(self) -> list[Family]:
        return [self._family]


def _text(family: Family) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_One(family))
    return generate_latest(registry)


def _family(metric: Metric, series: dict[Labels, float]) -> Family:
    made: CounterMetricFamily | GaugeMetricFamily
    if metric.kind is Kind.COUNTER:
        made = CounterMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    else:
        made = GaugeMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    for labels, value in series.items():
        made.add_metric(labels, value)
    return made


def _histogram_family(metric: Metric, series: dict[Labels, Histogram]) -> Family:
    made = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    bounds = (*map(str, metric.bounds), _INFINITY)
    for labels, histogram in series.items():
        buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
        made.add_metric(labels, buckets, sum_value=histogram.total)
    return made
