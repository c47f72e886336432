"""How long a migration will still take, as a figure that never grows. Pure.

An estimate may get worse: the machine writes more, the link gives less. What is shown does not jump
back then. It goes down more slowly instead, so that it and the new estimate reach zero together;
without an estimate it stands still. An estimate that is better than what is shown is shown at once.
"""

from __future__ import annotations

from typing import Final

import msgspec

from godwit_protocol.convergence import STUN_FIXED_NS, Decision
from godwit_protocol.estimation.history import DirtyWindow, LinkSample, RegionWrites
from godwit_protocol.estimation.rounds import Curve, play
from godwit_protocol.events import Recorded
from godwit_protocol.events import migration as ev
from godwit_protocol.projections import MigrationSummary

UNKNOWN: Final = -1
REMAINING_NS_MAX: Final = 7 * 24 * 3600 * 10**9
"""An estimate beyond is none."""


class Countdown(msgspec.Struct, frozen=True, kw_only=True):
    """What was shown at ``at_ns``, and what was estimated then. Nanoseconds; ``UNKNOWN``: nothing.

    ``estimate_ns`` is never less than ``shown_ns`` unless it is unknown.
    """

    shown_ns: int = UNKNOWN
    estimate_ns: int = UNKNOWN
    at_ns: int = 0

    def remaining_ns(self, now_ns: int) -> int | None:
        """What to show at ``now_ns``: never more than at any time before; None: not known yet."""
        if self.shown_ns == UNKNOWN:
            return None
        if self.estimate_ns == UNKNOWN:
            return self.shown_ns
        passed_ns = min(max(now_ns - self.at_ns, 0), self.estimate_ns)
        return self.shown_ns * (self.estimate_ns - passed_ns) // max(self.estimate_ns, 1)

    def told(self, estimate_ns: int | None, now_ns: int) -> Countdown:
        """The countdown from a new estimate on; None: there is none."""
        now_ns = max(now_ns, self.at_ns)
        shown_ns = self.remaining_ns(now_ns)
        if estimate_ns is None or estimate_ns > REMAINING_NS_MAX:
            held_ns = UNKNOWN if shown_ns is None else shown_ns
            return Countdown(shown_ns=held_ns, at_ns=now_ns)
        least_ns = estimate_ns if shown_ns is None else min(shown_ns, estimate_ns)
        return Countdown(shown_ns=least_ns, estimate_ns=estimate_ns, at_ns=now_ns)


def estimate_after(recorded: Recorded, summary: MigrationSummary) -> int | None:
    """How long the migration takes after an event of it; None if the event does not tell.

    ``summary`` has the event folded in.
    """
    match recorded.event:
        case ev.RoundCompleted() as done:
            return _after_round(done, summary)
        case ev.StunIntended() as intended:
            return intended.predicted_stun_ns
        case _:
            return None


def tells_remaining(recorded: Recorded) -> bool:
    """Whether ``estimate_after`` has anything to say of such an event, be it that nobody knows."""
    return isinstance(recorded.event, ev.RoundCompleted | ev.StunIntended)


def _after_round(done: ev.RoundCompleted, summary: MigrationSummary) -> int | None:
    """The rest of the rounds on paper, as the source's own core would have them, and the stun."""
    if done.decision is not Decision.ANOTHER_ROUND:
        return done.predicted_stun_ns if done.decision is Decision.STUN else None
    figures, rate = done.figures, done.bandwidth_bytes_per_second
    if rate <= 0 or figures.remaining_bytes <= 0 or figures.duration_ns <= 0:
        return None
    played = play(Curve(_writes(done, summary)), _link(rate, summary), summary.limits)
    return played.total_ns if played.decision is Decision.STUN else None


def _writes(done: ev.RoundCompleted, summary: MigrationSummary) -> DirtyWindow:
    """What is left is all that is sent next; it is written again at the rate of this round."""
    figures = done.figures
    written = int(done.dirty_bytes_per_second * figures.duration_ns / 1e9)
    left = RegionWrites("", figures.remaining_bytes, (min(written, figures.remaining_bytes),))
    return DirtyWindow(
        machine=summary.machine,
        host=summary.source,
        epoch=0,
        taken_wall_ns=0,
        elapsed_ns=(figures.duration_ns,),
        regions=(left,),
    )


def _link(bytes_per_second: float, summary: MigrationSummary) -> LinkSample:
    return LinkSample(
        migration=summary.id,
        machine=summary.machine,
        source=summary.source,
        destination=summary.destination,
        bytes_per_second=bytes_per_second,
        round_overhead_ns=0,
        intent_ns=0,
        switchover_ns=STUN_FIXED_NS,
        around_ns=0,
    )
