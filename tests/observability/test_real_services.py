"""Metrics and traces of services that really moved a machine, and were really told to stop."""

from __future__ import annotations

import asyncio

import pytest

from godwit.metrics import definitions
from godwit.runtime.config import WRITERS, Service
from godwit_protocol import codec, subjects
from godwit_protocol.events import Lane
from godwit_protocol.projections import MigrationSummary, fold
from godwit_protocol.spans import TRACEPARENT, span_id_of, trace_id_of
from observed_cluster import Observed

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

SPANS_S_MAX = 20.0
SERVICES = {
    "coordinator": Service.COORDINATOR,
    "gpu_state_tracker": Service.GPU_STATE_TRACKER,
    "monitor": Service.MONITOR,
    "host-1-source_host": Service.SOURCE_HOST,
    "host-2-destination_host": Service.DESTINATION_HOST,
}
OF_THE_STUN = {"freeze", "copy", "stage", "go", "activate", "resume", "release"}
CAUSES = {
    "queue": "request",
    "place": "queue",
    "prepare": "reserve",
    "connect": "start",
    "stage": "copy",
    "go": "stage",
    "activate": "go",
    "release": "resume",
    "migration": "release",
}
"""By name of a span, that of the one it came from: also over the direct link."""
COMPLETED = {"migration", "request", "queue", "place", "prepare", "connect", "round"} | OF_THE_STUN


async def summary(observed: Observed, migration: str) -> MigrationSummary:
    folded = MigrationSummary(id=migration)
    async for stored in observed.log.read(subjects.whole_migration(migration)):
        folded = fold(folded, codec.decode(stored.data, stored.sequence))
    return folded


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_exports_what_the_table_says(observed: Observed, service: str) -> None:
    found = {sample.name for sample in await observed.scrape(service)}
    for metric in definitions.of(SERVICES[service]):
        suffix = "_count" if metric.kind is definitions.Kind.HISTOGRAM else ""
        assert metric.name + suffix in found


async def test_the_figures_are_what_the_log_tells(observed: Observed) -> None:
    completed = await summary(observed, observed.completed)
    assert completed.stun_ns is not None
    stun = "godwit_migration_stun_seconds"
    await observed.until("coordinator", f"{stun}_count", 1, outcome="completed")
    seconds = completed.stun_ns / 1e9
    await observed.until("coordinator", f"{stun}_sum", seconds, outcome="completed")
    ended = "godwit_migrations_total"
    await observed.until("coordinator", ended, 1, outcome="completed", reason="none")
    await observed.until("coordinator", ended, 1, outcome="aborted", reason="cancelled")
    sent = "godwit_migration_sent_bytes_total"
    in_the_stun = completed.final_bytes
    await observed.until("host-1-source_host", sent, in_the_stun, phase="stun")
    before = completed.sent_bytes - in_the_stun
    await observed.until("host-1-source_host", sent, before, phase="precopy")
    await observed.until("host-2-destination_host", "godwit_ownership_epoch", 2)
    await observed.until("gpu_state_tracker", "godwit_gpus", 4, model="H100-80GB", simulated="true")


async def test_no_sample_has_an_id_or_a_name(observed: Observed) -> None:
    names = {"hog", "host-1", "host-2", observed.completed, observed.aborted}
    for service in SERVICES:
        for sample in await observed.scrape(service):
            assert not names & set(sample.labels.values()), sample


async def test_every_service_s_spans_make_one_trace(observed: Observed) -> None:
    trace_id = trace_id_of(observed.completed)
    found = await asyncio.to_thread(observed.collector.of_trace, trace_id, COMPLETED, SPANS_S_MAX)
    by_name = {it.span.name: it for it in found}
    services = {"godwit-cli", *(f"godwit-{role}" for role in SERVICES.values() if role in WRITERS)}
    assert {it.service for it in found} == services
    assert by_name["stage"].service == "godwit-destination_host"
    assert by_name["copy"].service == "godwit-source_host"
    root = span_id_of(observed.completed).to_bytes(8, "big")
    assert by_name["migration"].span.span_id == root
    assert {it.span.parent_span_id for it in found} == {b"", root}
    ids = {it.span.span_id for it in found}
    links = {link.span_id for it in found for link in it.span.links}
    assert links <= ids
    for name, cause in CAUSES.items():
        (link,) = by_name[name].span.links
        assert link.span_id == by_name[cause].span.span_id, name


async def test_the_stun_s_spans_are_as_long_as_the_stun(observed: Observed) -> None:
    stun_ns = (await summary(observed, observed.completed)).stun_ns
    trace_id = trace_id_of(observed.completed)
    found = await asyncio.to_thread(observed.collector.of_trace, trace_id, COMPLETED, SPANS_S_MAX)
    by_name = {it.span.name: it.span for it in found}
    stood_ns = by_name["resume"].end_time_unix_nano - by_name["freeze"].start_time_unix_nano
    assert stood_ns == pytest.approx(stun_ns, abs=1_000_000), "two services, one wall clock"


async def test_an_aborted_migration_s_trace_has_failed(observed: Observed) -> None:
    found = await asyncio.to_thread(
        observed.collector.of_trace,
        trace_id_of(observed.aborted),
        {"migration", "request", "abort", "abandon", "discard"},
        SPANS_S_MAX,
    )
    by_id = {it.span.span_id: it.span for it in found}
    at, names = next(it.span for it in found if it.span.name == "discard"), ["discard"]
    while at.links:
        at = by_id[at.links[0].span_id]
        names.append(at.name)
    assert names == ["discard", "abandon", "abort", "request"], "from what was asked for to its end"
    root = next(it.span for it in found if it.span.name == "migration")
    assert root.status.code == root.status.STATUS_CODE_ERROR
    assert "cancelled" in root.status.message


async def test_every_event_carries_its_place_in_the_trace(observed: Observed) -> None:
    lanes = set()
    async for stored in observed.log.read(subjects.whole_migration(observed.completed)):
        envelope = codec.decode(stored.data, stored.sequence).envelope
        _, trace_id, span_id, _ = stored.headers[TRACEPARENT].split("-")
        assert int(trace_id, 16) == trace_id_of(observed.completed)
        assert int(span_id, 16) == span_id_of(envelope.id)
        lanes.add(envelope.lane)
    assert lanes == set(Lane)
