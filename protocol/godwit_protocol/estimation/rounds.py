"""One migration played through on paper: a machine's curve of writes over a link. Pure.

Rounds follow each other as the live source sends them, and ``convergence.decide`` ends them, the
same that decides there. A round that takes t leaves what the machine writes in t; the stun begins
a little after the last round's end and sends what was written until then.

Pages that wait for the stun do so here too. How many of them are written again in a time is read
from the same curve, as if each page were written by chance, independently and at a rate of its own:
then as much is written within two spans as within one of their length together.

A guest is stopped between two of its steps, and may write most at the end of each, as a trainer
does. A window, which begins anywhere in a step, cannot tell that; the stuns of its own moves can.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import Final, NamedTuple, Protocol

from ..convergence import PREDICTED_STUN_NS_MAX, Decision, DecisionReason, Slowing, decide
from .history import DirtyWindow, LinkSample

ROUNDS_PLAYED_MAX: Final = 32
"""A machine that has not converged by then does not: its remaining bytes repeat themselves."""


class MoveLimits(Protocol):
    """What a play reads of a migration's limits (see ``events.migration.Limits``)."""

    @property
    def stun_limit_ns(self) -> int:
        """What the stun may take."""

    @property
    def rounds_max(self) -> int:
        """The most rounds; 0: no pre-copy."""

    @property
    def stalled_rounds_max(self) -> int:
        """The most rounds in a row without a new minimum."""

    @property
    def stun_limit_max_ns(self) -> int:
        """What the stun may take when nothing else helps."""

    @property
    def slow_percent_max(self) -> int:
        """How much of the guest's time may be taken from it."""

    @property
    def bandwidth_bytes_per_second(self) -> int:
        """What rounds may take of the link, and the stun need not heed; 0: all of it."""


class Round(NamedTuple):
    """One round of a play; ``convergence.RoundLike``."""

    sent_bytes: int
    duration_ns: int
    remaining_bytes: int
    rewritten_bytes: int = 0
    zero_bytes: int = 0
    content_ns: int = 0
    carrying_ns: int = 0
    compression_bytes: int = 0
    link_bytes_per_second: int = 0
    cap_bytes_per_second: int = 0
    look_ns: int = 0
    hot_bytes: int = 0
    waiting_bytes: int = 0


class Curve:
    """Distinct bytes that a machine writes within a time: straight lines between the instants of a
    window, and beyond the last one on with the last slope, up to all that the machine holds.
    """

    def __init__(self, window: DirtyWindow) -> None:
        self.resident_bytes = window.resident_bytes
        self._elapsed_ns = (0, *window.elapsed_ns)
        self._written_bytes = (0, *window.written_bytes)
        self.most_bytes = self._written_bytes[-1]

    def written_bytes(self, elapsed_ns: int) -> int:
        """How much is dirty ``elapsed_ns`` after all was clean. Never falls as time goes on."""
        later = (i for i, at_ns in enumerate(self._elapsed_ns) if at_ns > elapsed_ns)
        after = next(later, len(self._elapsed_ns) - 1)
        time_ns, written = self._elapsed_ns[after - 1], self._written_bytes[after - 1]
        span_ns = self._elapsed_ns[after] - time_ns
        grown = (self._written_bytes[after] - written) * (elapsed_ns - time_ns) // span_ns
        return min(written + grown, self.resident_bytes)

    def common_bytes(self, *spans_ns: int) -> int:
        """How much is written in each of some spans of time."""
        common = 0
        for count in range(1, len(spans_ns) + 1):
            sign = 1 if count % 2 else -1
            common += sign * sum(map(self.written_bytes, map(sum, combinations(spans_ns, count))))
        return max(0, min([common, *map(self.written_bytes, spans_ns)]))


class Left(NamedTuple):
    """Dirty at a round's end, and what of that was dirty at its beginning."""

    remaining_bytes: int
    hot_bytes: int


class Writing:
    """What a machine on paper writes from round to round, while some of it waits."""

    def __init__(self) -> None:
        self._spans_ns: tuple[int, ...] = ()

    def left(self, curve: Curve, own_ns: int, waiting_bytes: int) -> Left:
        """After a round of ``own_ns`` of the guest's time, by the curve of that time.

        ``waiting_bytes`` were hot before the round and were not sent in it.
        """
        written = curve.written_bytes(own_ns)
        last = self._spans_ns[-2:]
        if len(last) < 2 or not waiting_bytes:
            again = waiting_bytes
        else:
            were_hot = max(curve.common_bytes(*last), waiting_bytes, 1)
            again = curve.common_bytes(own_ns, *last) * waiting_bytes // were_hot
        hot = curve.common_bytes(own_ns, last[-1]) if last else 0
        return Left(min(written + waiting_bytes - again, curve.resident_bytes), hot)

    def passed(self, own_ns: int) -> None:
        """That round is over."""
        self._spans_ns = (*self._spans_ns[-1:], own_ns)


class Played(NamedTuple):
    """How a play ended. ``stun_ns`` of one that was given up is what its stun would have taken."""

    decision: Decision
    reason: DecisionReason
    rounds: tuple[Round, ...]
    final_bytes: int
    stun_ns: int
    total_ns: int

    @property
    def sent_bytes(self) -> int:
        """All rounds and the stun."""
        return sum(done.sent_bytes for done in self.rounds) + self.final_bytes


def play(curve: Curve, link: LinkSample, limits: MoveLimits) -> Played:
    """Play one migration. Ends after at most ``ROUNDS_PLAYED_MAX`` rounds."""
    if limits.rounds_max == 0:
        return _stop_and_copy(curve, link)
    rounds_max = min(limits.rounds_max, ROUNDS_PLAYED_MAX)
    slowing = Slowing(0, limits.slow_percent_max)
    cap, writing = limits.bandwidth_bytes_per_second, Writing()
    rounds = [_round(curve, link, writing, slowing, cap, curve.resident_bytes, 0)]
    while (
        verdict := decide(
            rounds,
            stun_limit_ns=limits.stun_limit_ns,
            rounds_max=rounds_max,
            stalled_rounds_max=limits.stalled_rounds_max,
            stun_limit_max_ns=limits.stun_limit_max_ns,
            slowing=slowing,
        )
    ).decision is Decision.ANOTHER_ROUND:
        slowing = slowing._replace(percent=verdict.slow_percent)
        left, waits = rounds[-1].remaining_bytes, verdict.wait_bytes_max
        rounds.append(_round(curve, link, writing, slowing, cap, left - waits, waits))
    own_ns = _own_ns(rounds[-1].duration_ns + link.intent_ns, slowing)
    left = writing.left(curve, own_ns, rounds[-1].waiting_bytes).remaining_bytes
    final_bytes = max(left, min(link.final_bytes, curve.most_bytes))
    stun_ns = link.switchover_ns + _sending_ns(final_bytes, link.bytes_per_second)
    taken_ns = sum(done.duration_ns for done in rounds) + link.intent_ns + stun_ns
    return Played(
        decision=verdict.decision,
        reason=verdict.reason,
        rounds=tuple(rounds),
        final_bytes=final_bytes,
        stun_ns=min(stun_ns, PREDICTED_STUN_NS_MAX),
        total_ns=min(taken_ns + link.around_ns, PREDICTED_STUN_NS_MAX),
    )


def _stop_and_copy(curve: Curve, link: LinkSample) -> Played:
    """No round at all: everything is sent in the stun."""
    stun_ns = link.switchover_ns + _sending_ns(curve.resident_bytes, link.bytes_per_second)
    return Played(
        decision=Decision.STUN,
        reason=DecisionReason.FITS_AT_LAST_ROUND,
        rounds=(),
        final_bytes=curve.resident_bytes,
        stun_ns=min(stun_ns, PREDICTED_STUN_NS_MAX),
        total_ns=min(link.intent_ns + stun_ns + link.around_ns, PREDICTED_STUN_NS_MAX),
    )


def _round(
    curve: Curve,
    link: LinkSample,
    writing: Writing,
    slowing: Slowing,
    cap: int,
    sent_bytes: int,
    waiting_bytes: int,
) -> Round:
    rate = min(link.bytes_per_second, cap or math.inf)
    duration_ns = link.round_overhead_ns + _sending_ns(sent_bytes, rate)
    own_ns = _own_ns(duration_ns, slowing)
    left = writing.left(curve, own_ns, waiting_bytes)
    writing.passed(own_ns)
    return Round(
        sent_bytes,
        duration_ns,
        left.remaining_bytes,
        cap_bytes_per_second=cap,
        hot_bytes=left.hot_bytes,
        waiting_bytes=waiting_bytes,
    )


def _own_ns(elapsed_ns: int, slowing: Slowing) -> int:
    """What is left to a slowed guest of that time."""
    return elapsed_ns * (100 - slowing.percent) // 100


def _sending_ns(sent_bytes: int, bytes_per_second: float) -> int:
    return int(min(sent_bytes / bytes_per_second * 1e9, PREDICTED_STUN_NS_MAX))
