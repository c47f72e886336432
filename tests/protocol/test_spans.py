"""A recorded migration makes exactly these spans, whoever made them of which events."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit_protocol import cloudevents, codec
from godwit_protocol.events import EVENT_TYPES, Event, Lane, Recorded
from godwit_protocol.events import migration as ev
from godwit_protocol.projections import MigrationSummary, fold
from godwit_protocol.spans import (
    TRACEPARENT,
    Phase,
    Span,
    Spans,
    span_id_of,
    trace_id_of,
    with_traceparent,
)
from recorded_logs import in_file
from structs_of import enveloped, structs

LOGS = Path(__file__).parents[1] / "golden" / "logs"
BETWEEN_TWO_CLOCKS_NS = 20_000
"""An event reads the wall clock and the monotonic one a little apart."""
MIGRATION = "0199f0c2-7a51-7c3e-9d5b-3f6a1c2b4d5e"

COMPLETED = """
coordinator migration   0 892446
coordinator queue       0 39812
operator    request     698 0
tracker     place       39000 9310
coordinator reserve     39812 12506
coordinator decide      52319 664073
destination prepare     69624 643595
coordinator start       716392 2913
source      connect     800266 27361
source      round       829819 7881
source      freeze      844681 1456
source      copy        846137 6136
destination stage       853249 1395
source      go          855824 218
source      release     856042 6983
destination activate    856834 3714
destination resume      860548 572
"""
"""Who made it, the phase, its beginning after the request and its length, in microseconds."""


@cache
def told(name: str) -> tuple[Recorded, ...]:
    return tuple(codec.decode(m.data, m.sequence) for m in in_file(LOGS / name))


def made(name: str) -> list[tuple[Lane, Span]]:
    """The spans that each service makes of its own events."""
    services: dict[tuple[Lane, str], Spans] = {}
    found = []
    for recorded in told(name):
        lane, host = recorded.envelope.lane, recorded.envelope.host
        spans = services.setdefault((lane, host), Spans())
        found += [(lane, span) for span in spans.of(recorded)]
    return found


def phases(name: str) -> set[Phase]:
    return {span.phase for _, span in made(name)}


def test_a_completed_migration_is_these_spans() -> None:
    spans = sorted(made("v1-completed.ndjson"), key=lambda it: (it[1].start_ns, -it[1].end_ns))
    began_ns = spans[0][1].start_ns
    lines = [
        f"{lane} {span.phase} {(span.start_ns - began_ns) // 1000}"
        f" {(span.end_ns - span.start_ns) // 1000}"
        for lane, span in spans
    ]
    assert lines == [" ".join(line.split()) for line in COMPLETED.strip().splitlines()]


def test_the_stun_s_spans_are_its_components() -> None:
    folded = MigrationSummary(id=told("v1-completed.ndjson")[0].envelope.migration)
    for recorded in told("v1-completed.ndjson"):
        folded = fold(folded, recorded)
    by_phase = {span.phase: span for _, span in made("v1-completed.ndjson")}
    components = folded.marks.components_ns()

    def length_ns(phase: Phase) -> int:
        return by_phase[phase].end_ns - by_phase[phase].start_ns

    copied_ns = sum(components[part] for part in ("scan", "digest", "copy"))
    expected_ns = {
        Phase.FREEZE: components["freeze"],
        Phase.COPY: copied_ns,
        Phase.STAGE: components["load"],
        Phase.ACTIVATE: components["activate"],
        Phase.RESUME: components["resume"],
    }
    found_ns = {phase: length_ns(phase) for phase in expected_ns}
    assert found_ns == pytest.approx(expected_ns, abs=BETWEEN_TWO_CLOCKS_NS)


@pytest.mark.parametrize("name", sorted(path.name for path in LOGS.iterdir()))
def test_spans_of_all_services_are_one_trace(name: str) -> None:
    spans = [span for _, span in made(name)]
    migration = told(name)[0].envelope.migration
    assert {span.trace_id for span in spans} == {trace_id_of(migration)}
    ids = [span.span_id for span in spans]
    assert len(set(ids)) == len(ids), "no two have one id"
    roots = [span for span in spans if not span.parent_id]
    assert [root.phase for root in roots] == ([] if "doubt" in name else [Phase.MIGRATION])
    assert {span.parent_id for span in spans} - {0} == {span_id_of(migration)}
    linked = {link for span in spans for link in span.links}
    assert linked <= set(ids), "a link leads to a span of the trace"
    assert linked, "what the coordinator and the tracker did came of something"


@pytest.mark.parametrize(
    ("name", "among", "failure"),
    [
        ("v1-aborted.ndjson", {Phase.ABANDON, Phase.DISCARD}, "cancelled by an operator"),
        ("v1-rolled-back.ndjson", {Phase.TAKE_BACK, Phase.QUARANTINE}, "closed the link"),
    ],
)
def test_an_abort_fails_the_whole_and_says_why(name: str, among: set[Phase], failure: str) -> None:
    assert among <= phases(name)
    assert Phase.RESUME not in phases(name)
    root = next(span for _, span in made(name) if not span.parent_id)
    assert failure in root.failure


def test_a_doubt_is_a_span_that_failed() -> None:
    doubt = next(span for _, span in made("v1-in-doubt.ndjson") if span.phase is Phase.DOUBT)
    assert "no answer" in doubt.failure
    assert Phase.MIGRATION not in phases("v1-in-doubt.ndjson"), "it has not ended"


@given(st.sampled_from(sorted(EVENT_TYPES)).flatmap(lambda name: structs(EVENT_TYPES[name])))
def test_no_event_breaks_it_and_no_span_ends_before_it_begins(event: Event) -> None:
    envelope = enveloped(event, migration=MIGRATION)
    for span in Spans().of(Recorded(envelope, event)):
        assert span.start_ns <= span.end_ns
        assert span.span_id


def test_a_service_that_forgot_a_beginning_makes_a_span_without_length() -> None:
    released = ev.MachineReleased()
    (span,) = Spans().of(Recorded(enveloped(released, migration=MIGRATION), released))
    assert span.start_ns == span.end_ns


def test_what_a_restarted_service_found_staged_took_no_time_that_is_known() -> None:
    staged = ev.ImageStaged(
        pages=0, received_bytes=0, received_ns=0, staged_ns=0, verified=ev.Verify.OFF
    )
    assert list(Spans().of(Recorded(enveloped(staged, migration=MIGRATION), staged))) == []


def test_a_header_tells_the_trace_and_the_span_that_the_event_makes() -> None:
    for recorded in told("v1-completed.ndjson"):
        headers = with_traceparent(cloudevents.headers(recorded.envelope))
        version, trace_id, span_id, flags = headers[TRACEPARENT].split("-")
        assert (version, flags) == ("00", "01")
        assert int(trace_id, 16) == trace_id_of(recorded.envelope.migration)
        assert int(span_id, 16) == span_id_of(recorded.envelope.id)


def test_what_is_about_no_migration_belongs_to_no_trace() -> None:
    event = ev.MachineReleased()
    envelope = enveloped(event, machine="m")
    assert TRACEPARENT not in with_traceparent(cloudevents.headers(envelope))
    assert Spans().of(Recorded(envelope, event)) == ()
    named = msgspec.structs.replace(envelope, migration="not-a-uuid")
    assert Spans().of(Recorded(named, event)) == ()
