"""Published rules: when each stuns, whom it slows, and that a recorded move plays under them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from godwit_protocol.convergence import Decision, DecisionReason
from godwit_protocol.estimation.policies import RULES, Policy, choose, reason
from godwit_protocol.estimation.rounds import Round

SECOND = 1_000_000_000
LIMIT_NS = SECOND // 2
GIB = 2**30
FITS, OVER = GIB // 2, GIB // 2 + 1
"""Of what a link of 1 GiB a second carries within the limit."""


def rounds(*left: int, sent: int = GIB, seconds: float = 1.0) -> Sequence[Round]:
    return [Round(sent, int(seconds * SECOND), each) for each in left]


def decision(policy: Policy, done: Sequence[Round]) -> Decision:
    return choose(policy, done, LIMIT_NS, 99).decision


def test_all_but_ours_have_a_rule_here() -> None:
    assert set(RULES) == set(Policy) - {Policy.GODWIT}


@pytest.mark.parametrize("policy", [Policy.QEMU, Policy.QEMU_AUTO_CONVERGE, Policy.KUBEVIRT])
def test_it_stuns_when_what_is_left_fits_the_limit(policy: Policy) -> None:
    assert decision(policy, rounds(OVER)) is Decision.ANOTHER_ROUND
    assert decision(policy, rounds(OVER, FITS)) is Decision.STUN


def test_auto_converge_slows_by_twenty_then_by_ten_up_to_what_is_allowed() -> None:
    percents = [
        choose(Policy.QEMU_AUTO_CONVERGE, rounds(*[OVER] * count), LIMIT_NS, 35).slow_percent
        for count in range(1, 9)
    ]
    assert percents == [0, 20, 20, 30, 30, 35, 35, 35]
    calm = choose(Policy.QEMU_AUTO_CONVERGE, rounds(*[GIB // 2] * 4, seconds=2), LIMIT_NS, 99)
    assert calm.slow_percent == 0, "no more than half was written again"


def test_kubevirt_waits_for_a_local_minimum_once_it_has_stalled() -> None:
    falling = [GIB] * 41 + [FITS - 2, FITS - 1]
    assert decision(Policy.KUBEVIRT, rounds(*falling)) is Decision.STUN, "it has not stalled"
    low = [FITS - 2] * 41 + [FITS - 3, FITS - 2]
    assert decision(Policy.KUBEVIRT, rounds(*low)) is Decision.ANOTHER_ROUND
    assert decision(Policy.KUBEVIRT, rounds(*low, FITS - 4)) is Decision.STUN


def test_nova_allows_more_the_longer_it_takes() -> None:
    fits_a_tenth = GIB // 20
    assert decision(Policy.NOVA, rounds(fits_a_tenth)) is Decision.STUN
    assert decision(Policy.NOVA, rounds(2 * fits_a_tenth)) is Decision.ANOTHER_ROUND
    step_s = 15  # 75 s a GiB, ten steps, for 2 GiB at least
    later = rounds(*[2 * fits_a_tenth] * (step_s + 1))
    assert decision(Policy.NOVA, later) is Decision.STUN


def test_why_is_told_in_our_words() -> None:
    def why(*left: int) -> DecisionReason:
        done = rounds(*left)
        return reason(done, 0, choose(Policy.QEMU_AUTO_CONVERGE, done, LIMIT_NS, 99))

    assert why(OVER) is DecisionReason.FIRST_ROUNDS
    assert why(OVER, OVER) is DecisionReason.SLOWING_THE_GUEST
    assert why(GIB, FITS) is DecisionReason.SMALL_ENOUGH
