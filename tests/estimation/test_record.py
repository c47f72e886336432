"""What a finished migration teaches."""

from __future__ import annotations

import msgspec
import pytest

from godwit_protocol.convergence import Decision, DecisionReason
from godwit_protocol.estimation.forecast import Estimate, forecast
from godwit_protocol.estimation.record import compared, is_whole, link_sample
from godwit_protocol.events.migration import (
    Limits,
    Outcome,
    RoundCompleted,
    RoundFigures,
    Verify,
)
from godwit_protocol.projections import MigrationSummary, StunMarks
from godwit_protocol.roles.source_state import SWITCHOVER_STEP_DEADLINE_NS
from histories import MIB, MS, link, window

STUN_NS = 60 * MS
SECOND_NS = 1000 * MS


def done(number: int, sent_bytes: int, duration_ns: int) -> RoundCompleted:
    figures = RoundFigures(
        round=number,
        pages=sent_bytes // 4096,
        sent_bytes=sent_bytes,
        wire_bytes=sent_bytes,
        duration_ns=duration_ns,
        scan_ns=0,
        remaining_bytes=0,
    )
    return RoundCompleted(
        figures=figures,
        bandwidth_bytes_per_second=1,
        dirty_bytes_per_second=1,
        predicted_stun_ns=1,
        stun_limit_ns=1,
        decision=Decision.ANOTHER_ROUND,
        reason=DecisionReason.FIRST_ROUNDS,
    )


SUMMARY = MigrationSummary(
    id="id",
    machine="m",
    source="host-1",
    destination="host-2",
    outcome=Outcome.COMPLETED,
    requested_wall_ns=1,
    ended_wall_ns=1 + 2 * SECOND_NS,
    rounds=(done(1, 1000 * MIB, 1010 * MS), done(2, 10 * MIB, 20 * MS)),
    last_round_ns=5 * SECOND_NS,
    final_bytes=20 * MIB,
    marks=StunMarks(
        stopped_ns=5 * SECOND_NS + 3 * MS,
        sent_ns=1,
        first_step_ns=5 * SECOND_NS + 3 * MS + STUN_NS,
    ),
)


def test_a_compressed_round_tells_of_the_link_what_was_measured() -> None:
    first = SUMMARY.rounds[0]
    figures = msgspec.structs.replace(
        first.figures, compression_bytes=900 * MIB, link_bytes_per_second=70 * MIB
    )
    packed = msgspec.structs.replace(first, figures=figures)
    sample = link_sample(msgspec.structs.replace(SUMMARY, rounds=(packed, SUMMARY.rounds[1])))
    assert sample is not None
    assert sample.bytes_per_second == 70 * MIB


def estimate() -> Estimate:
    made = forecast(
        [window(0)], [link(1e9)], Limits(), machine="m", source="host-1", destination="host-2"
    )
    assert made.estimate is not None
    return made.estimate


def test_a_sample_takes_a_migration_apart() -> None:
    sample = link_sample(SUMMARY)
    assert sample is not None
    assert sample.bytes_per_second == pytest.approx(1000 * MIB, rel=0.01)
    assert sample.round_overhead_ns == pytest.approx(10 * MS, rel=0.05)
    assert sample.intent_ns == 3 * MS
    assert sample.switchover_ns == pytest.approx(40 * MS, rel=0.02)
    around_ns = 2 * SECOND_NS - 1030 * MS - 3 * MS - STUN_NS
    assert sample.around_ns == around_ns


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": Outcome.ABORTED},
        {"outcome": Outcome.RUNNING},
        {"rounds": ()},
        {"marks": StunMarks()},
        {"verify": Verify.FULL},
    ],
)
def test_what_did_not_complete_as_usual_teaches_nothing(changes: dict[str, object]) -> None:
    odd = msgspec.structs.replace(SUMMARY, **changes)
    assert link_sample(odd) is None
    assert compared(odd, estimate()) is None


def test_a_switchover_with_a_party_down_says_nothing_of_the_link_but_counts() -> None:
    late_ns = SUMMARY.marks.stopped_ns + SWITCHOVER_STEP_DEADLINE_NS + SECOND_NS
    marks = msgspec.structs.replace(SUMMARY.marks, first_step_ns=late_ns)
    disrupted = msgspec.structs.replace(SUMMARY, marks=marks)
    assert link_sample(disrupted) is None
    told = compared(disrupted, estimate())
    assert told is not None
    assert not told.within


def test_an_estimate_stands_beside_what_the_migration_took() -> None:
    told = compared(SUMMARY, estimate())
    assert told is not None
    assert (told.stun_ns, told.total_ns, told.rounds) == (STUN_NS, 2 * SECOND_NS, 2)
    assert told.sent_bytes == 1030 * MIB
    assert told.within == (told.estimate.stun_ns.bound >= STUN_NS)


@pytest.mark.parametrize(
    ("changes", "whole"),
    [
        ({}, True),
        ({"outcome": Outcome.ABORTED, "marks": StunMarks()}, True),
        ({"outcome": Outcome.RUNNING}, False),
        ({"marks": StunMarks(stopped_ns=1, first_step_ns=2)}, False),
        ({"marks": StunMarks(stopped_ns=1, sent_ns=2)}, False),
    ],
)
def test_a_migration_is_whole_once_the_hosts_have_flushed_the_stun(
    changes: dict[str, object], whole: bool
) -> None:
    assert is_whole(msgspec.structs.replace(SUMMARY, **changes)) is whole


def test_rounds_that_a_cap_held_back_do_not_tell_the_link_s_rate() -> None:
    """Of such alone, the sample is the least there is; one that was free tells it all the same."""
    held = done(1, 1000 * MIB, 10 * SECOND_NS)
    figures = msgspec.structs.replace(held.figures, cap_bytes_per_second=100 * MIB)
    held = msgspec.structs.replace(held, figures=figures)
    only = msgspec.structs.replace(SUMMARY, rounds=(held,))
    sample = link_sample(only)
    assert sample is not None
    assert not sample.tells_rate
    free = msgspec.structs.replace(SUMMARY, rounds=(held, done(2, 100 * MIB, 100 * MS)))
    sample = link_sample(free)
    assert sample is not None
    assert sample.tells_rate
    assert sample.bytes_per_second >= 900 * MIB


def test_the_time_in_which_chunks_were_offered_is_not_the_link_s() -> None:
    first, second = SUMMARY.rounds
    longer = msgspec.structs.replace(
        first.figures, duration_ns=first.figures.duration_ns + SECOND_NS, content_ns=SECOND_NS
    )
    offered = (msgspec.structs.replace(first, figures=longer), second)
    plain = link_sample(SUMMARY)
    sample = link_sample(msgspec.structs.replace(SUMMARY, rounds=offered))
    assert sample is not None
    assert plain is not None
    assert sample.bytes_per_second == plain.bytes_per_second
    assert sample.round_overhead_ns == plain.round_overhead_ns


def with_zeros(sent_bytes: int, zero_bytes: int) -> MigrationSummary:
    first = done(1, sent_bytes, SECOND_NS)
    figures = msgspec.structs.replace(first.figures, zero_bytes=zero_bytes)
    return msgspec.structs.replace(
        SUMMARY, rounds=(msgspec.structs.replace(first, figures=figures),)
    )


def test_a_round_of_zeros_does_not_make_its_link_slow() -> None:
    assert link_sample(with_zeros(8 * MIB, 8 * MIB)) is None
    mixed, mostly = with_zeros(8 * MIB, 8 * MIB - 1), with_zeros(16 * MIB, 64 * MIB)
    for summary, largest_bytes in ((mixed, 8 * MIB), (mostly, 0)):
        sample = link_sample(summary)
        assert sample is not None
        assert sample.largest_bytes == largest_bytes
