"""Convergence: at each round's end, another round, stun now, or give up, and why. Pure.

Bandwidth is an exponentially weighted mean with alpha 0.4 (KubeVirt's); the predicted stun is what
remains over that bandwidth plus a fixed cost. Whether a stun fits is judged by its bound, which
takes the slowest of the last rounds for the link: nobody switches over into a dip. A round is worth
its bytes only while the one before it still shrank what remained.

A cap on the bandwidth holds back rounds, and never the stun. So a round that went at its cap says
only what the link carries at least: it can raise what is expected of the stun, and lowers nothing.

Nor does a round that was compressed say what the link carries: that was measured beside. The stun
is not compressed.

Nor does a round that was mostly zeros, which are only named: it may have had little to send. Where
all are like that, the stun is taken to be so too, once a second round has borne it out.

Pages that are written in every round need not be sent in each: they may wait for the stun, which
would have to send them again all the same, as long as they fill no more than a share of what it may
send. So each round is shorter, and less is written in it.

A machine that writes faster than the link is slowed, step by step, up to what its policy allows;
then its stun may take up to the raised limit, if the policy has one; then the migration is given
up. Nothing loops for ever: the number of rounds is bounded, and each step of slowing is a larger
one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Final, NamedTuple, Protocol

import msgspec

BANDWIDTH_ALPHA: Final = 0.4
STUN_FIXED_NS: Final = 5_000_000
PREDICTED_STUN_NS_MAX: Final = 2**62
"""As good as never. A link that has almost stopped would predict more than an event can hold."""
SHRINK_MIN: Final = 0.25
"""Another round must be likely to leave at least this share less than now."""
SMALL_STUN_NS: Final = 2_000_000
"""Transfer time below which another round cannot shorten the stun noticeably."""
STALLED_ROUNDS_MAX: Final = 5
"""Rounds in a row without a new minimum of what remains, before giving up."""
DIP_ROUNDS: Final = 3
"""The slowest of so many last rounds bounds the stun."""
TELLING_BYTES: Final = 16 * 1024**2
"""A round of fewer bytes is mostly latency: its rate says little of the link."""
CAPPED_SHARE: Final = 0.8
"""A round at this share of its cap was held back by that, not by the link."""
WAITING_SHARE: Final = 0.5
"""Of what the stun may send: so much may be pages that wait for it. The rest is for what else is
written until then."""
SLOW_PERCENT_MAX: Final = 99
SLOW_AFTER_ROUNDS: Final = 2
"""Rounds in a row without a new minimum of what remains, before the guest is slowed at all."""
SLOW_FIRST_PERCENT: Final = 20
SLOW_STEP_PERCENT: Final = 10
SLOWED_RATIO: Final = 0.5
"""A slowed machine should dirty half of what the link carries: each round leaves half as much."""


class Decision(StrEnum):
    """What to do at the end of a round."""

    ANOTHER_ROUND = "another_round"
    STUN = "stun"
    GIVE_UP = "give_up"


class DecisionReason(StrEnum):
    """Why."""

    FIRST_ROUNDS = "first_rounds"
    STILL_SHRINKING = "still_shrinking"
    SMALL_ENOUGH = "small_enough"
    FITS_AND_NO_LONGER_SHRINKS = "fits_and_no_longer_shrinks"
    FITS_AT_LAST_ROUND = "fits_at_last_round"
    FITS_RAISED_LIMIT = "fits_raised_limit"
    SLOWING_THE_GUEST = "slowing_the_guest"
    WAITING_FOR_A_BETTER_MOMENT = "waiting_for_a_better_moment"
    STALLED_ABOVE_LIMIT = "stalled_above_limit"
    ROUNDS_EXHAUSTED = "rounds_exhausted"


class RoundLike(Protocol):
    """What a decision reads of a round (see ``events.migration.RoundFigures``)."""

    @property
    def sent_bytes(self) -> int:
        """Bytes of pages sent."""

    @property
    def duration_ns(self) -> int:
        """From the round's beginning to its being applied."""

    @property
    def content_ns(self) -> int:
        """What of that was not sending, but finding what the destination holds already."""

    @property
    def carrying_ns(self) -> int:
        """What of that was sending: not finding the dirty pages either. 0: not told."""

    @property
    def remaining_bytes(self) -> int:
        """Dirty when it had ended."""

    @property
    def rewritten_bytes(self) -> int:
        """Looked at, and left out."""

    @property
    def zero_bytes(self) -> int:
        """Found to be zero, and only named."""

    @property
    def compression_bytes(self) -> int:
        """Of those sent, what compression left out."""

    @property
    def link_bytes_per_second(self) -> int:
        """What the link carries, measured while a round was compressed; 0: by what was sent."""

    @property
    def cap_bytes_per_second(self) -> int:
        """The least bandwidth that it was allowed; 0: any."""

    @property
    def look_ns(self) -> int:
        """What finding the last dirty pages will take of the stun, beyond the fixed cost."""

    @property
    def hot_bytes(self) -> int:
        """Dirty when it had ended, and when it began."""

    @property
    def waiting_bytes(self) -> int:
        """Dirty when it began, and not sent: they wait for the stun."""


class RegionsLike(Protocol):
    """What is read of a round to know the regions' rates."""

    @property
    def duration_ns(self) -> int:
        """As ``RoundLike``'s."""

    @property
    def bytes_by_region(self) -> Mapping[str, int]:
        """What it had to send: dirty since the round before."""


class Slowing(NamedTuple):
    """How far the guest is slowed now, and how far it may be: percent of its time taken from it."""

    percent: int = 0
    percent_max: int = 0


NEVER_SLOWED: Final = Slowing()


class Verdict(msgspec.Struct, frozen=True):
    """A decision with the numbers it was made from. Rates are bytes a second.

    ``slow_percent``: how much of the guest's time to take from it during the next round.
    ``wait_bytes_max``: so many of the hot bytes may wait for the stun in it.
    """

    decision: Decision
    reason: DecisionReason
    predicted_stun_ns: int
    bandwidth_bytes_per_second: float
    dirty_bytes_per_second: float
    stun_bound_ns: int = 0
    slow_percent: int = 0
    wait_bytes_max: int = 0


def bandwidth(history: Sequence[RoundLike]) -> float:
    """What the link carries, in bytes a second: smoothed over the rounds that sent anything; 0.0 if
    none did. As long as all say only the least that it can be, the most of that; or what they went
    through, zeros and all, if that is more.
    """
    mean, is_least = 0.0, True
    for figures in history:
        rate = _rate(figures)
        if is_least or says_least(figures):
            mean = max(rate, mean)
        elif rate > 0.0:
            mean = BANDWIDTH_ALPHA * rate + (1 - BANDWIDTH_ALPHA) * mean
        is_least = is_least and (rate == 0.0 or says_least(figures))
    return max(mean, _gone_through(history)) if is_least else mean


def is_capped(figures: RoundLike) -> bool:
    """Whether the cap held a round back, so that its rate says little of the link."""
    cap = figures.cap_bytes_per_second
    return cap > 0 and _rate(figures) >= CAPPED_SHARE * cap


def says_least(figures: RoundLike) -> bool:
    """Whether the link may have carried more, had the round had more for it."""
    return is_capped(figures) or is_mostly_zeros(figures)


def is_mostly_zeros(figures: RoundLike) -> bool:
    """Whether a round named more than it sent."""
    return 0 < figures.zero_bytes >= figures.sent_bytes


def _gone_through(history: Sequence[RoundLike]) -> float:
    """Bytes a second, zeros and all: the slowest of the last ``DIP_ROUNDS`` of mostly zeros."""
    rates = [
        (done.sent_bytes + done.zero_bytes) / (done.carrying_ns or done.duration_ns) * 1e9
        for done in history[-DIP_ROUNDS:]
        if is_mostly_zeros(done) and done.duration_ns > 0
    ]
    return min(rates, default=0.0)


def precopy_bandwidth(history: Sequence[RoundLike]) -> float:
    """Bytes a second that another round can be expected to send: no more than its cap, but for what
    compression leaves out.
    """
    last = history[-1]
    carried = min(bandwidth(history), last.cap_bytes_per_second or math.inf)
    went_bytes = last.sent_bytes - last.compression_bytes
    return carried * last.sent_bytes / went_bytes if went_bytes > 0 else carried


def slowest_bandwidth(history: Sequence[RoundLike]) -> float:
    """Bytes a second that the link can be trusted with: the smoothed rate, or that of the slowest
    of the last ``DIP_ROUNDS`` rounds that tell of it.
    """
    telling = [
        _rate(done)
        for done in history[-DIP_ROUNDS:]
        if done.sent_bytes >= TELLING_BYTES and not says_least(done)
    ]
    return min([bandwidth(history), *filter(None, telling)])


def dirty_rates(history: Sequence[RegionsLike]) -> dict[str, float]:
    """By region: smoothed bytes a second that became dirty from round to round; empty until a
    second round tells. What waited for the stun is not counted.
    """
    rates: dict[str, float] = {}
    for before, now in pairwise(history):
        for region, found in now.bytes_by_region.items():
            if before.duration_ns > 0:
                rate = found / before.duration_ns * 1e9
                mean = rates.get(region, rate)
                rates[region] = BANDWIDTH_ALPHA * rate + (1 - BANDWIDTH_ALPHA) * mean
    return rates


def predicted_stun_ns(remaining_bytes: int, bytes_per_second: float) -> int:
    """What a stun that begins now would take, in ns, at most ``PREDICTED_STUN_NS_MAX``: that also
    where something remains and the bandwidth is unknown.
    """
    if remaining_bytes == 0:
        return STUN_FIXED_NS
    if bytes_per_second <= 0.0:
        return PREDICTED_STUN_NS_MAX
    predicted_ns = STUN_FIXED_NS + remaining_bytes / bytes_per_second * 1e9
    return int(min(predicted_ns, PREDICTED_STUN_NS_MAX))


def decide(
    history: Sequence[RoundLike],
    *,
    stun_limit_ns: int,
    rounds_max: int,
    stalled_rounds_max: int = STALLED_ROUNDS_MAX,
    stun_limit_max_ns: int = 0,
    slowing: Slowing = NEVER_SLOWED,
) -> Verdict:
    """Decide at the end of the last round in ``history`` (at least one).

    ``stun_limit_ns`` is what the stun may take, and ``stun_limit_max_ns`` what it may take when
    nothing else helps (if that is more); ``rounds_max`` bounds the rounds, and
    ``stalled_rounds_max`` those in a row without a new minimum of what remains.
    """
    last = history[-1]
    rate = bandwidth(history)
    predicted = last.look_ns + predicted_stun_ns(last.remaining_bytes, rate)
    slowest = slowest_bandwidth(history)
    bound = last.look_ns + predicted_stun_ns(last.remaining_bytes, slowest)
    dirty = last.remaining_bytes / last.duration_ns * 1e9 if last.duration_ns > 0 else 0.0
    percent = slowing.percent
    if bound <= stun_limit_ns:
        decision, reason = _stun_or_improve(history, bound, rounds_max)
    else:
        dirty_again = dirty * _sendable(last) / max(last.remaining_bytes, 1)
        slower = _slower(slowing, precopy_bandwidth(history), dirty_again)
        may_slow = slower > percent and _has_waited(history, slowing)
        decision, reason = _wait_or_give_up(history, rounds_max, stalled_rounds_max, may_slow)
        if reason is DecisionReason.SLOWING_THE_GUEST:
            percent = slower
        if decision is Decision.GIVE_UP and bound <= stun_limit_max_ns:
            decision, reason = Decision.STUN, DecisionReason.FITS_RAISED_LIMIT
    wait_bytes_max = 0
    if decision is Decision.ANOTHER_ROUND:
        wait_bytes_max = _wait_bytes_max(last, slowest, stun_limit_ns)
    return Verdict(decision, reason, predicted, rate, dirty, bound, percent, wait_bytes_max)


def _stun_or_improve(
    history: Sequence[RoundLike], bound_ns: int, rounds_max: int
) -> tuple[Decision, DecisionReason]:
    """A stun would fit the limit now. Would another round make it shorter?"""
    last = history[-1]
    is_guess = len(history) < 2 and last.remaining_bytes > 0 and is_mostly_zeros(last)
    if bound_ns - STUN_FIXED_NS - last.look_ns <= SMALL_STUN_NS and not is_guess:
        return Decision.STUN, DecisionReason.SMALL_ENOUGH
    if len(history) >= rounds_max:
        return Decision.STUN, DecisionReason.FITS_AT_LAST_ROUND
    if len(history) < 2:
        return Decision.ANOTHER_ROUND, DecisionReason.FIRST_ROUNDS
    if _has_shrunk(history[-2].remaining_bytes, history[-1].remaining_bytes):
        return Decision.ANOTHER_ROUND, DecisionReason.STILL_SHRINKING
    return Decision.STUN, DecisionReason.FITS_AND_NO_LONGER_SHRINKS


def _wait_or_give_up(
    history: Sequence[RoundLike], rounds_max: int, stalled_rounds_max: int, may_slow: bool
) -> tuple[Decision, DecisionReason]:
    """A stun would be too long now. Is there hope?"""
    if len(history) >= rounds_max:
        return Decision.GIVE_UP, DecisionReason.ROUNDS_EXHAUSTED
    if len(history) < 2:
        return Decision.ANOTHER_ROUND, DecisionReason.FIRST_ROUNDS
    if _has_shrunk(_sendable(history[-2]), _sendable(history[-1])):
        return Decision.ANOTHER_ROUND, DecisionReason.STILL_SHRINKING
    if may_slow:
        return Decision.ANOTHER_ROUND, DecisionReason.SLOWING_THE_GUEST
    if _rounds_since_minimum(history) >= stalled_rounds_max:
        return Decision.GIVE_UP, DecisionReason.STALLED_ABOVE_LIMIT
    return Decision.ANOTHER_ROUND, DecisionReason.WAITING_FOR_A_BETTER_MOMENT


def _has_waited(history: Sequence[RoundLike], slowing: Slowing) -> bool:
    """A machine that was never slowed may find a better moment by itself."""
    return slowing.percent > 0 or _rounds_since_minimum(history) >= SLOW_AFTER_ROUNDS


def _slower(slowing: Slowing, rate: float, dirty: float) -> int:
    """The next step: as much as makes each round leave half as much as the one before, by the
    rates that were seen, which saturate: so always some more than now.
    """
    least = max(slowing.percent + SLOW_STEP_PERCENT, SLOW_FIRST_PERCENT)
    share = min(SLOWED_RATIO * rate / dirty, 1.0) if dirty > 0.0 else 1.0
    running = (100 - slowing.percent) * share
    wanted = max(least, 100 - int(running))
    return min(wanted, slowing.percent_max, SLOW_PERCENT_MAX)


def _wait_bytes_max(last: RoundLike, slowest: float, stun_limit_ns: int) -> int:
    if last.hot_bytes < TELLING_BYTES:  # sent in next to no time: there is nothing to be saved
        return 0
    spare_ns = max(stun_limit_ns - STUN_FIXED_NS - last.look_ns, 0)
    return min(last.hot_bytes, int(WAITING_SHARE * slowest * spare_ns / 1e9))


def _sendable(figures: RoundLike) -> int:
    """What remained, but for what waits and is not to become less."""
    return figures.remaining_bytes - figures.waiting_bytes


def _has_shrunk(before: int, now: int) -> bool:
    return now < before and now <= before * (1 - SHRINK_MIN)


def _rounds_since_minimum(history: Sequence[RoundLike]) -> int:
    remaining = [figures.remaining_bytes for figures in history]
    return len(remaining) - 1 - remaining.index(min(remaining))


def _rate(figures: RoundLike) -> float:
    """Bytes a second that the link carried in one round; 0.0 if it sent nothing or took no time. A
    round that left something out, and sent little or mostly looked at that, tells nothing of it
    either.
    """
    left_out = figures.rewritten_bytes + figures.waiting_bytes
    least_bytes = max(figures.rewritten_bytes, TELLING_BYTES) if left_out else 0
    if figures.sent_bytes <= least_bytes or figures.duration_ns <= 0:
        return 0.0
    if figures.link_bytes_per_second:
        return float(figures.link_bytes_per_second)
    carried_bytes = figures.sent_bytes - figures.compression_bytes
    # Older logs do not tell what finding the pages took: what was decided by them stands.
    carrying_ns = figures.carrying_ns or max(figures.duration_ns - figures.content_ns, 1)
    return carried_bytes / carrying_ns * 1e9
