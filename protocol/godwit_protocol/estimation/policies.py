"""When others stun and whom they slow: published rules, to hold ours against. Pure.

They are QEMU's, without and with auto-converge, KubeVirt's newest and Nova's, as far as they decide
at a round's end. None of them gives up by itself: that is left to a deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from itertools import accumulate
from typing import Final, NamedTuple

from ..convergence import Decision, DecisionReason, RoundLike, bandwidth

SECOND_NS: Final = 1_000_000_000
GIB: Final = 2**30
THROTTLE_FIRST_PERCENT: Final = 20
THROTTLE_STEP_PERCENT: Final = 10
THROTTLE_AFTER: Final = 2
"""QEMU: so many rounds of which more than half was written again, before the next step."""
STALLED_AFTER_NS: Final = 40 * SECOND_NS
STALLED_SHARE: Final = 0.96
"""KubeVirt: less than 4 % below the least of what was left until 40 s ago is no progress."""
LOCAL_ROUNDS: Final = 3
NOVA_STEPS: Final = 10
NOVA_STEP_S_PER_GIB: Final = 7.5
NOVA_GIB_MIN: Final = 2.0


class Policy(StrEnum):
    """Who decides at a round's end."""

    GODWIT = "godwit"
    QEMU = "qemu"
    QEMU_AUTO_CONVERGE = "qemu-auto-converge"
    KUBEVIRT = "kubevirt"
    NOVA = "nova"


class Choice(NamedTuple):
    """What to do next. ``slow_percent``: of the guest's time, taken from it in the next round."""

    decision: Decision
    slow_percent: int = 0


Rule = Callable[[Sequence[RoundLike], int, int], Choice]
"""From all rounds, the stun's limit in ns, and how much of the guest's time may be taken."""


def choose(
    policy: Policy, rounds: Sequence[RoundLike], stun_limit_ns: int, slow_percent_max: int
) -> Choice:
    """What a published rule decides at the end of the last of ``rounds`` (at least one)."""
    return RULES[policy](rounds, stun_limit_ns, slow_percent_max)


def reason(rounds: Sequence[RoundLike], before: int, choice: Choice) -> DecisionReason:
    """Why, in our words. ``before``: how much the guest was slowed until now, percent."""
    if choice.decision is Decision.STUN:
        return DecisionReason.SMALL_ENOUGH
    if choice.slow_percent > before:
        return DecisionReason.SLOWING_THE_GUEST
    if len(rounds) < 2:
        return DecisionReason.FIRST_ROUNDS
    if rounds[-1].remaining_bytes < rounds[-2].remaining_bytes:
        return DecisionReason.STILL_SHRINKING
    return DecisionReason.WAITING_FOR_A_BETTER_MOMENT


def _qemu(rounds: Sequence[RoundLike], stun_limit_ns: int, _slow_percent_max: int) -> Choice:
    """What is pending must fit the last round's bandwidth times the downtime limit."""
    fits = rounds[-1].remaining_bytes <= _last_rate(rounds) * stun_limit_ns
    return Choice(Decision.STUN if fits else Decision.ANOTHER_ROUND)


def _auto_converge(
    rounds: Sequence[RoundLike], stun_limit_ns: int, slow_percent_max: int
) -> Choice:
    """As QEMU; and each time that more than half of what was sent was written again, twice, the
    guest is slowed: by 20 %, then by 10 more.
    """
    percent = dirtier = 0
    for done in rounds:
        dirtier += done.remaining_bytes > done.sent_bytes / 2
        if dirtier >= THROTTLE_AFTER:
            step = THROTTLE_STEP_PERCENT if percent else THROTTLE_FIRST_PERCENT
            percent, dirtier = min(percent + step, slow_percent_max), 0
    return _qemu(rounds, stun_limit_ns, slow_percent_max)._replace(slow_percent=percent)


def _kubevirt(rounds: Sequence[RoundLike], stun_limit_ns: int, _slow_percent_max: int) -> Choice:
    """Smooths the bandwidth. Once it has stalled, it waits for a local minimum. It stuns only if
    the estimate fits.
    """
    left = [done.remaining_bytes for done in rounds]
    ended_ns = list(accumulate(done.duration_ns for done in rounds))
    until_ns = ended_ns[-1] - STALLED_AFTER_NS
    before = [each for each, at_ns in zip(left, ended_ns, strict=True) if at_ns <= until_ns]
    stalled = bool(before) and left[-1] > STALLED_SHARE * min(before)
    fits = left[-1] <= bandwidth(rounds) / 1e9 * stun_limit_ns
    if fits and (left[-1] <= min(left[-LOCAL_ROUNDS:]) or not stalled):
        return Choice(Decision.STUN)
    return Choice(Decision.ANOTHER_ROUND)


def _nova(rounds: Sequence[RoundLike], stun_limit_ns: int, slow_percent_max: int) -> Choice:
    """QEMU's rule with a downtime that is raised in ten steps, from a tenth of it to all of it."""
    gib = max(rounds[0].sent_bytes / GIB, NOVA_GIB_MIN)
    step_ns = SECOND_NS * NOVA_STEP_S_PER_GIB * gib
    steps = 1 + int(sum(done.duration_ns for done in rounds) / step_ns)
    allowed_ns = stun_limit_ns * min(steps, NOVA_STEPS) // NOVA_STEPS
    return _qemu(rounds, allowed_ns, slow_percent_max)


def _last_rate(rounds: Sequence[RoundLike]) -> float:
    """Bytes a nanosecond."""
    return rounds[-1].sent_bytes / max(rounds[-1].duration_ns, 1)


RULES: Final[Mapping[Policy, Rule]] = {
    Policy.QEMU: _qemu,
    Policy.QEMU_AUTO_CONVERGE: _auto_converge,
    Policy.KUBEVIRT: _kubevirt,
    Policy.NOVA: _nova,
}
"""All but ours, which is ``convergence.decide``."""
