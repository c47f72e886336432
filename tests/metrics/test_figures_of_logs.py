"""The figures that recorded migrations leave behind, against the same logs folded otherwise."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.documents.event_writers import LANES
from godwit.metrics import definitions as metrics
from godwit.metrics.definitions import Metric
from godwit.metrics.facts import Facts
from godwit.metrics.figures import Figures
from godwit.metrics.migrations import Migrations
from godwit.runtime.config import Service
from godwit_protocol import codec
from godwit_protocol.convergence import Decision
from godwit_protocol.events import Event, Lane, Recorded
from godwit_protocol.events import migration as ev
from godwit_protocol.projections import MigrationSummary, fold
from recorded_logs import in_file
from structs_of import enveloped, structs
from two_computers import measured, on_two_computers

LOGS = Path(__file__).parents[1] / "golden" / "logs"
NS = 1e9
WRITERS = {
    Lane.COORDINATOR: Service.COORDINATOR,
    Lane.SOURCE: Service.SOURCE_HOST,
    Lane.DESTINATION: Service.DESTINATION_HOST,
    Lane.TRACKER: Service.GPU_STATE_TRACKER,
}


@cache
def told(name: str) -> tuple[tuple[Recorded, int], ...]:
    """Each event with the instant at which it was stored."""
    return tuple((codec.decode(m.data, m.sequence), m.time_ns) for m in in_file(LOGS / name))


def summary(name: str) -> MigrationSummary:
    folded = MigrationSummary(id=told(name)[0][0].envelope.migration)
    for recorded, _ in told(name):
        folded = fold(folded, recorded)
    return folded


def of_host(name: str, lane: Lane) -> Figures:
    """What the service counted that wrote the lane."""
    figures = Figures(WRITERS[lane])
    facts = Facts(figures)
    for recorded, _ in told(name):
        if recorded.envelope.lane is lane:
            facts.learn(recorded)
    return figures


def of_coordinator(name: str, *, ended_by: str = "coordinator-1", history: int = 0) -> Figures:
    """What a replica counted; the first ``history`` events stood in the log when it started."""
    figures = Figures(Service.COORDINATOR)
    migrations = Migrations(figures, ended_by)
    for place, (recorded, time_ns) in enumerate(told(name)):
        if place == history:
            migrations.begin()
        migrations.learn(recorded, time_ns)
    return figures


def value(figures: Figures, metric: Metric, *labels: str) -> float:
    return figures.read()[metric][labels]


def total(figures: Figures, metric: Metric, *labels: str) -> tuple[int, float]:
    """How many values a histogram has, and their sum."""
    found = figures.histograms()[metric][labels]
    return sum(found.counts), found.total


def test_a_completed_migration_is_its_rounds_its_bytes_and_its_owner() -> None:
    name, folded = "v1-completed.ndjson", summary("v1-completed.ndjson")
    source = of_host(name, Lane.SOURCE)
    assert value(source, metrics.ROUNDS, Decision.STUN) == 1
    sent = [value(source, metrics.SENT_BYTES, phase) for phase in ("precopy", "stun")]
    assert sent == [folded.sent_bytes - folded.final_bytes, folded.final_bytes]
    count, seconds = total(source, metrics.ROUND_SECONDS)
    assert count == len(folded.rounds)
    assert seconds == pytest.approx(sum(done.figures.duration_ns for done in folded.rounds) / NS)
    assert value(source, metrics.TRANSFER_RATE) == 0, "it is over"
    destination = of_host(name, Lane.DESTINATION)
    assert value(destination, metrics.OWNERSHIP_CHANGES, "activated") == 1
    activated = next(r for r, _ in told(name) if isinstance(r.event, ev.MachineActivated))
    assert value(destination, metrics.OWNERSHIP_EPOCH) == activated.envelope.epoch > 1


def test_rates_are_those_of_the_last_round_while_it_goes_on() -> None:
    rounds = [r for r, _ in told("v1-aborted.ndjson") if isinstance(r.event, ev.RoundCompleted)]
    figures = Figures(Service.SOURCE_HOST)
    facts = Facts(figures)
    for recorded in rounds:
        facts.learn(recorded)
        event = recorded.event
        assert isinstance(event, ev.RoundCompleted)
        assert value(figures, metrics.DIRTY_RATE) == event.dirty_bytes_per_second
        assert value(figures, metrics.TRANSFER_RATE) == event.bandwidth_bytes_per_second
        assert value(figures, metrics.REMAINING_BYTES) == event.figures.remaining_bytes
        assert value(figures, metrics.PREDICTED_STUN_SECONDS) == event.predicted_stun_ns / 1e9
    last = rounds[-1].event
    slowed = msgspec.structs.replace(last, slow_percent=80)
    facts.learn(Recorded(msgspec.structs.replace(rounds[-1].envelope, migration="other"), slowed))
    assert value(figures, metrics.THROTTLE_RATIO) == 0.8
    assert value(figures, metrics.DIRTY_RATE) == 2 * last.dirty_bytes_per_second


@pytest.mark.parametrize(
    ("name", "over"),
    [
        ("v1-completed.ndjson", ev.MachineReleased),
        ("v1-aborted.ndjson", ev.MigrationAbandoned),
        ("v1-rolled-back.ndjson", ev.MachineTakenBack),
    ],
)
def test_there_are_no_rates_any_more_once_the_source_has_done_with_it(
    name: str, over: type[Event]
) -> None:
    figures = Figures(Service.SOURCE_HOST)
    facts, rates = Facts(figures), list[float]()
    for recorded, _ in told(name):
        if recorded.envelope.lane is Lane.SOURCE:
            facts.learn(recorded)
            rates.append(value(figures, metrics.TRANSFER_RATE))
            if isinstance(recorded.event, over):
                break
    assert isinstance(recorded.event, over)
    assert max(rates) > 0
    assert rates[-1] == 0


def test_the_stun_and_its_components_are_those_of_the_fold() -> None:
    name, folded = "v1-completed.ndjson", summary("v1-completed.ndjson")
    figures = of_coordinator(name)
    assert folded.stun_ns is not None
    assert value(figures, metrics.MIGRATIONS_ENDED, "completed", "none") == 1
    assert total(figures, metrics.STUN_SECONDS, "completed") == (1, folded.stun_ns / NS)
    for component, took_ns in folded.marks.components_ns().items():
        found = total(figures, metrics.STUN_COMPONENT_SECONDS, component)
        assert found == (1, max(took_ns, 0) / NS)
    assert value(figures, metrics.MIGRATIONS_OPEN) == 0
    waits = [total(figures, metrics.QUEUE_WAIT_SECONDS)[1]]
    waits.append(total(figures, metrics.PREPARATION_SECONDS)[1])
    assert 0 < sum(waits) < total(figures, metrics.MIGRATION_SECONDS, "completed")[1]


def test_a_stun_over_its_limit_is_counted() -> None:
    figures = Figures(Service.COORDINATOR)
    migrations = Migrations(figures, "coordinator-1")
    migrations.begin()
    for recorded, time_ns in told("v1-completed.ndjson"):
        event = recorded.event
        if isinstance(event, ev.MigrationRequested | ev.PreparationOrdered | ev.MigrationStarted):
            event = msgspec.structs.replace(event, limits=ev.Limits(stun_limit_ns=1_000_000))
        migrations.learn(Recorded(recorded.envelope, event), time_ns)
    assert value(figures, metrics.STUN_LIMIT_EXCEEDED) == 1
    assert value(of_coordinator("v1-completed.ndjson"), metrics.STUN_LIMIT_EXCEEDED) == 0


def test_between_computers_a_stun_lasts_until_the_source_heard_of_its_end() -> None:
    figures = Figures(Service.COORDINATOR)
    migrations = Migrations(figures, "coordinator-1")
    migrations.begin()
    heard_ns = stopped_ns = 0
    for recorded, time_ns in told("v1-completed.ndjson"):
        if isinstance(recorded.event, ev.MachineStunned):
            stopped_ns = recorded.event.stopped_ns
        if isinstance(recorded.event, ev.MachineReleased):
            heard_ns = recorded.envelope.monotonic_ns
        migrations.learn(on_two_computers(recorded), time_ns)
    expected = (1, (heard_ns - stopped_ns) / NS)
    assert total(figures, metrics.STUN_SECONDS, "completed") == expected
    assert total(figures, metrics.STUN_COMPONENT_SECONDS, "copy")[0] == 1
    assert total(figures, metrics.STUN_COMPONENT_SECONDS, "go")[0] == 0


def test_between_computers_whose_clocks_were_compared_it_is_that_of_the_fold() -> None:
    figures, folded = Figures(Service.COORDINATOR), MigrationSummary(id="m")
    migrations = Migrations(figures, "coordinator-1")
    migrations.begin()
    for recorded, time_ns in told("v1-completed.ndjson"):
        folded = fold(folded, measured(recorded))
        migrations.learn(measured(recorded), time_ns)
    assert folded.stun_ns is not None
    assert total(figures, metrics.STUN_SECONDS, "completed") == (1, folded.stun_ns / NS)
    assert total(figures, metrics.STUN_COMPONENT_SECONDS, "go")[0] == 1


@pytest.mark.parametrize("name", ["v1-aborted.ndjson", "v1-rolled-back.ndjson"])
def test_an_abort_is_counted_by_its_reason_and_its_stun_apart(name: str) -> None:
    figures, folded = of_coordinator(name), summary(name)
    assert value(figures, metrics.MIGRATIONS_ENDED, "aborted", folded.reason) == 1
    stunned = 1 if folded.aborted_stun_ns else 0
    expected = (stunned, folded.aborted_stun_ns / NS)
    assert total(figures, metrics.STUN_SECONDS, "aborted") == expected
    assert total(figures, metrics.STUN_SECONDS, "completed") == (0, 0)
    assert value(of_host(name, Lane.SOURCE), metrics.REMAINING_BYTES) == 0


def test_the_wait_of_a_migration_that_still_waits_is_seen_until_its_destination_prepares() -> None:
    figures, now_ns = Figures(Service.COORDINATOR), [0]
    migrations = Migrations(figures, "coordinator-1", lambda: now_ns[0])
    waits = list[tuple[type[Event], float]]()
    for recorded, time_ns in told("v1-completed.ndjson"):
        now_ns[0] = now_ns[0] or time_ns + 90 * 10**9
        migrations.learn(recorded, time_ns)
        waits.append((type(recorded.event), value(figures, metrics.OLDEST_WAIT_SECONDS)))
    kinds, seconds = zip(*waits, strict=True)
    until = kinds.index(ev.PreparationOrdered)
    assert kinds[0] is ev.MigrationRequested
    assert seconds == (90.0,) * until + (0.0,) * (len(kinds) - until)
    assert value(of_coordinator("v1-aborted.ndjson"), metrics.OLDEST_WAIT_SECONDS) == 0


def test_a_doubt_is_there_as_long_as_it_lasts() -> None:
    figures = of_coordinator("v1-in-doubt.ndjson")
    assert value(figures, metrics.MIGRATIONS_OPEN) == 1
    assert value(figures, metrics.MIGRATIONS_IN_DOUBT) == 1
    source = of_host("v1-in-doubt.ndjson", Lane.SOURCE)
    assert value(source, metrics.ALARMS_RAISED, "doubt_raised") == 1


def test_another_replica_s_migrations_and_history_are_not_counted() -> None:
    name = "v1-completed.ndjson"
    before_the_end = len(told(name)) - 1
    counted = of_coordinator(name, history=before_the_end)
    assert total(counted, metrics.STUN_SECONDS, "completed")[0] == 1, "it ended before our eyes"
    for figures in (
        of_coordinator(name, ended_by="coordinator-2"),
        of_coordinator(name, history=99),
    ):
        assert value(figures, metrics.MIGRATIONS_ENDED, "completed", "none") == 0
        assert total(figures, metrics.STUN_SECONDS, "completed")[0] == 0
        assert total(figures, metrics.QUEUE_WAIT_SECONDS)[0] == 0


@given(st.sampled_from(sorted(LANES, key=str)).flatmap(structs))
def test_every_fact_can_be_counted_by_every_service_that_writes_it(event: Event) -> None:
    for lane in set(LANES[type(event)]) & set(WRITERS):
        figures = Figures(WRITERS[lane])
        Facts(figures).learn(Recorded(enveloped(event, lane=lane, migration="m"), event))
        figures.read()
