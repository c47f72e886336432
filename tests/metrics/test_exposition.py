"""The figures as Prometheus reads them, parsed by its own client's parser."""

from __future__ import annotations

import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from godwit.metrics import definitions as metrics
from godwit.metrics.exposition import Exposition
from godwit.metrics.figures import SERIES_MAX, Figures, Reading
from godwit.runtime.config import Service

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(figures: Figures) -> Samples:
    families = text_string_to_metric_families(Exposition(figures).text().decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(figures: Figures, name: str, **labels: str) -> float:
    return parsed(figures)[name, frozenset(labels.items())]


def test_what_has_not_happened_is_there_and_zero() -> None:
    figures = Figures(Service.COORDINATOR)
    ended = {"outcome": "aborted", "reason": "stun_limit_unreachable"}
    assert value(figures, "godwit_migrations_total", **ended) == 0
    assert value(figures, "godwit_migration_stun_seconds_count", outcome="completed") == 0


def test_counters_gauges_and_histograms_are_what_was_counted() -> None:
    figures = Figures()
    figures.add(metrics.WIRE_BYTES, amount=2**40)
    figures.raise_to(metrics.OWNERSHIP_EPOCH, 7)
    figures.raise_to(metrics.OWNERSHIP_EPOCH, 3)
    for seconds in (0.0005, 0.001, 0.0011, 60.0):
        figures.observe(metrics.STUN_SECONDS, seconds, "completed")
    figures.ask(lambda: [Reading(metrics.GPU_OCCUPANCY, 0.25, ('a "quoted" \\ model',))])
    assert value(figures, "godwit_migration_wire_bytes_total") == 2**40
    assert value(figures, "godwit_ownership_epoch") == 7
    quoted = value(figures, "godwit_gpu_occupancy_ratio", model='a "quoted" \\ model')
    assert quoted == 0.25

    def up_to(bound: float) -> float:
        le = "+Inf" if math.isinf(bound) else str(bound)
        return value(figures, "godwit_migration_stun_seconds_bucket", le=le, outcome="completed")

    assert [up_to(bound) for bound in (0.001, 0.002, 10.0, math.inf)] == [2, 3, 3, 4]
    total = value(figures, "godwit_migration_stun_seconds_sum", outcome="completed")
    assert total == pytest.approx(60.0026)


def test_a_process_tells_of_itself_too() -> None:
    assert value(Figures(Service.SOURCE_HOST), "process_resident_memory_bytes") > 0


def test_a_service_has_its_own_metrics_only() -> None:
    figures = Figures(Service.SOURCE_HOST)
    with pytest.raises(KeyError):
        figures.add(metrics.MIGRATIONS_ENDED, "completed", "none")
    assert not any(
        "stun_seconds" in name and "predicted" not in name for name, _ in parsed(figures)
    )


def test_a_label_that_takes_ever_new_values_is_a_defect() -> None:
    figures = Figures()
    with pytest.raises(AssertionError, match="godwit_alarms_total"):
        for number in range(SERIES_MAX + 1):
            figures.add(metrics.ALARMS_RAISED, f"an-id-{number}")
    with pytest.raises(AssertionError, match="godwit_alarms_total"):
        figures.add(metrics.ALARMS_RAISED, "one", "too many")
