"""What every metric's name, labels and buckets must be."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from godwit.metrics import definitions
from godwit.metrics.definitions import Kind, Metric
from godwit.runtime.config import Service

LABELS = {
    *("version", "stream", "outcome", "reason", "component", "decision", "phase"),
    *("by", "alarm", "answer", "within", "model", "simulated", "state"),
}
NOT_BASE = re.compile(r"_(ns|us|ms|milliseconds|minutes|bits|kib|mib|gib|percent)(_|$)")


def named(metric: Metric) -> str:
    return metric.name


@pytest.mark.parametrize("metric", definitions.ALL, ids=named)
def test_a_name_has_base_units_and_the_suffix_of_its_kind(metric: Metric) -> None:
    assert re.fullmatch(r"godwit(_[a-z]+)+", metric.name)
    assert not NOT_BASE.search(metric.name)
    assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
    if metric.kind is Kind.HISTOGRAM:
        assert metric.name.endswith("_seconds")
    assert bool(metric.bounds) == (metric.kind is Kind.HISTOGRAM)


@pytest.mark.parametrize("metric", definitions.ALL, ids=named)
def test_no_label_can_hold_an_id(metric: Metric) -> None:
    assert set(metric.labels) <= LABELS
    assert all(len(labels) == len(metric.labels) for labels in metric.series)
    assert len(set(metric.series)) == len(metric.series) <= 30


def test_no_two_have_one_name_and_every_service_has_some() -> None:
    names = [metric.name for metric in definitions.ALL]
    assert len(set(names)) == len(names)
    for service in set(Service) - {Service.COMMAND, Service.PROVISION}:
        assert definitions.SERVICE_INFO in definitions.of(service)


def test_stuns_are_told_apart_from_a_millisecond_to_ten_seconds() -> None:
    bounds = definitions.STUN_SECONDS.bounds
    assert (bounds[0], bounds[-1]) == (0.001, 10.0)
    assert all(high / low <= 2.5 for low, high in pairwise(bounds))
    assert set(definitions.COMPONENTS) >= {"freeze", "copy", "load", "go", "activate", "resume"}
