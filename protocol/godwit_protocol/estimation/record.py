"""What a finished migration teaches: a sample of its link, and how good its estimate was. Pure."""

from __future__ import annotations

from typing import Final

from ..convergence import TELLING_BYTES, is_mostly_zeros, says_least
from ..events.estimate import EstimateCompared
from ..events.migration import Outcome, RoundFigures, Verify
from ..projections import MigrationSummary
from ..roles.source_state import SWITCHOVER_STEP_DEADLINE_NS
from .forecast import Estimate
from .history import LinkSample, middle

ROUND_BYTES_MIN: Final = 1024**2
"""A migration of fewer says nothing of its link: a machine of one page takes as long as one of a
hundred.
"""


def link_sample(summary: MigrationSummary) -> LinkSample | None:
    """What the migration says of its link; None if that cannot be told.

    One that named more zeros than the little that it sent kept the link idle.
    The stun of a verified one is mostly its digests', which says nothing of the link. One whose
    switchover outlasted the deadline of a step had a party that was down.
    """
    stun_ns = summary.stun_ns
    if not _is_telling(summary) or stun_ns is None:
        return None
    figures = [done.figures for done in summary.rounds]
    largest = _telling_round(figures)
    least_bytes = TELLING_BYTES if is_mostly_zeros(largest) else ROUND_BYTES_MIN
    if largest.sent_bytes < least_bytes:
        return None
    rate, overhead_ns = _fit(figures, largest)
    if rate <= 0.0:
        return None
    switchover_ns = max(stun_ns - _copied_ns(summary, rate, is_least=says_least(largest)), 0)
    if switchover_ns >= SWITCHOVER_STEP_DEADLINE_NS:
        return None
    intent_ns = max(summary.marks.stopped_ns - summary.last_round_ns, 0)
    moved_ns = sum(done.duration_ns for done in figures) + intent_ns + stun_ns
    return LinkSample(
        migration=summary.id,
        machine=summary.machine,
        source=summary.source,
        destination=summary.destination,
        bytes_per_second=rate,
        round_overhead_ns=overhead_ns,
        intent_ns=intent_ns,
        switchover_ns=switchover_ns,
        around_ns=max(summary.duration_ns - moved_ns, 0),
        final_bytes=summary.final_bytes,
        largest_bytes=0 if says_least(largest) else largest.sent_bytes,
    )


def compared(summary: MigrationSummary, estimate: Estimate) -> EstimateCompared | None:
    """The estimate beside what the migration took; None if that cannot be told."""
    stun_ns = summary.stun_ns
    if not _is_telling(summary) or stun_ns is None:
        return None
    return EstimateCompared(
        estimate=estimate,
        stun_ns=stun_ns,
        total_ns=summary.duration_ns,
        rounds=len(summary.rounds),
        sent_bytes=summary.sent_bytes,
        within=stun_ns <= estimate.stun_ns.bound,
    )


def is_whole(summary: MigrationSummary) -> bool:
    """Whether all is known that will be: hosts may flush the stun's events after the end."""
    if summary.outcome is Outcome.COMPLETED:
        return bool(summary.marks.stopped_ns and summary.marks.first_step_ns and _is_sent(summary))
    return summary.outcome is Outcome.ABORTED


def _is_sent(summary: MigrationSummary) -> bool:
    return summary.marks.sent_ns > 0


def _is_telling(summary: MigrationSummary) -> bool:
    completed = summary.outcome is Outcome.COMPLETED
    return completed and summary.verify is not Verify.FULL and bool(summary.rounds)


def _telling_round(rounds: list[RoundFigures]) -> RoundFigures:
    """The largest, of those that went as fast as the link carries if there are such."""
    free = [done for done in rounds if done.sent_bytes >= TELLING_BYTES and not says_least(done)]
    return max(free or rounds, key=lambda done: done.sent_bytes)


def _copied_ns(summary: MigrationSummary, rate: float, *, is_least: bool) -> int:
    """What the stun's bytes took: by the link's rate, or where only the least of that is known, as
    it was seen if that is less.
    """
    expected_ns = int(summary.final_bytes / rate * 1e9)
    parts = summary.marks.components_ns()
    if not is_least or not parts:
        return expected_ns
    return min(expected_ns, parts["copy"] + parts["receive"])


def _fit(rounds: list[RoundFigures], largest: RoundFigures) -> tuple[float, int]:
    """Bytes a second of the largest round, and what rounds take beyond their bytes, in ns."""
    largest_ns = largest.duration_ns - largest.content_ns
    if not largest.sent_bytes or largest_ns <= 0:
        return 0.0, 0
    if largest.link_bytes_per_second:
        return float(largest.link_bytes_per_second), 0
    rough = largest.sent_bytes / largest_ns
    others = [
        done.duration_ns - done.content_ns - done.sent_bytes / rough
        for done in rounds
        if done is not largest
    ]
    overhead_ns = max(int(middle(others)), 0) if others else 0
    overhead_ns = min(overhead_ns, largest_ns // 2)
    return largest.sent_bytes / (largest_ns - overhead_ns) * 1e9, overhead_ns
