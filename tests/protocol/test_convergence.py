"""Convergence: it always ends, for the right reason, and never stuns over the limit."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit_protocol.convergence import (
    STALLED_ROUNDS_MAX,
    STUN_FIXED_NS,
    TELLING_BYTES,
    Decision,
    DecisionReason,
    Slowing,
    Verdict,
    bandwidth,
    decide,
    dirty_rates,
    is_capped,
    precopy_bandwidth,
    predicted_stun_ns,
    slowest_bandwidth,
)
from godwit_protocol.events.migration import RoundFigures

MIB = 1024**2
GIB = 1024**3
SECOND_NS = 1_000_000_000
BYTES = st.integers(0, 10 * GIB)


def figures(sent: int, duration_ns: int, remaining: int) -> RoundFigures:
    return RoundFigures(
        round=1,
        pages=sent // 4096,
        sent_bytes=sent,
        wire_bytes=sent,
        duration_ns=duration_ns,
        scan_ns=0,
        remaining_bytes=remaining,
    )


ROUNDS = st.builds(figures, BYTES, st.integers(0, 3600 * SECOND_NS), BYTES)


def migrate(
    dirtied: Callable[[float], float],
    *,
    machine_bytes: int,
    link: float,
    stun_limit_ns: int = 500_000_000,
    rounds_max: int = 30,
    slow_percent_max: int = 0,
    stun_limit_max_ns: int = 0,
) -> tuple[list[RoundFigures], Verdict]:
    """Pre-copy at ``link`` bytes/s of a machine that dirties ``dirtied(s)`` bytes in s seconds of
    its own time.
    """
    history: list[RoundFigures] = []
    to_send, slowing = machine_bytes, Slowing(0, slow_percent_max)
    while True:
        seconds = max(to_send / link, 0.001)
        own_seconds = seconds * (100 - slowing.percent) / 100
        remaining = int(min(dirtied(own_seconds), machine_bytes))
        history.append(figures(to_send, int(seconds * SECOND_NS), remaining))
        verdict = decide(
            history,
            stun_limit_ns=stun_limit_ns,
            rounds_max=rounds_max,
            stun_limit_max_ns=stun_limit_max_ns,
            slowing=slowing,
        )
        slowing = slowing._replace(percent=verdict.slow_percent)
        if verdict.decision is not Decision.ANOTHER_ROUND:
            return history, verdict
        to_send = remaining


@given(
    st.lists(ROUNDS, min_size=40, max_size=40),
    st.integers(0, 10 * SECOND_NS),
    st.integers(0, 40),
    st.integers(1, 10),
    st.integers(0, 100),
)
def test_it_ends_within_its_rounds_whatever_the_machine_does(
    rounds: list[RoundFigures], limit_ns: int, rounds_max: int, stalled_max: int, slow_max: int
) -> None:
    slowing = Slowing(0, slow_max)
    for count in range(1, len(rounds) + 1):
        verdict = decide(
            rounds[:count],
            stun_limit_ns=limit_ns,
            rounds_max=rounds_max,
            stalled_rounds_max=stalled_max,
            slowing=slowing,
        )
        assert slowing.percent <= verdict.slow_percent <= min(slow_max, 99)
        slowing = slowing._replace(percent=verdict.slow_percent)
        if verdict.decision is not Decision.ANOTHER_ROUND:
            break
    assert verdict.decision is not Decision.ANOTHER_ROUND
    assert count <= max(rounds_max, 1)


@given(st.lists(ROUNDS, min_size=1, max_size=12), st.integers(0, 10 * SECOND_NS))
def test_it_never_stuns_over_the_limit(rounds: list[RoundFigures], limit_ns: int) -> None:
    verdict = decide(rounds, stun_limit_ns=limit_ns, rounds_max=8)
    assert verdict.predicted_stun_ns <= verdict.stun_bound_ns
    if verdict.decision is Decision.STUN:
        assert verdict.stun_bound_ns <= limit_ns
    if verdict.decision is Decision.GIVE_UP:
        assert verdict.stun_bound_ns > limit_ns


@given(BYTES, BYTES, st.floats(1.0, 1e12))
def test_more_remaining_never_predicts_a_shorter_stun(less: int, more: int, rate: float) -> None:
    less, more = sorted((less, more))
    assert predicted_stun_ns(less, rate) <= predicted_stun_ns(more, rate)
    assert predicted_stun_ns(less, rate * 2) <= predicted_stun_ns(less, rate)
    assert predicted_stun_ns(0, rate) == predicted_stun_ns(0, 0.0) == STUN_FIXED_NS


@given(
    st.lists(ROUNDS, min_size=1, max_size=12), st.integers(0, SECOND_NS), st.integers(0, SECOND_NS)
)
def test_a_wider_limit_never_gives_up_where_a_narrower_one_goes_on(
    rounds: list[RoundFigures], narrow_ns: int, wide_ns: int
) -> None:
    narrow_ns, wide_ns = sorted((narrow_ns, wide_ns))
    narrow = decide(rounds, stun_limit_ns=narrow_ns, rounds_max=8)
    wide = decide(rounds, stun_limit_ns=wide_ns, rounds_max=8)
    if narrow.decision is Decision.STUN:
        assert wide.decision is Decision.STUN
    if wide.decision is Decision.GIVE_UP:
        assert narrow.decision is Decision.GIVE_UP


@given(st.lists(ROUNDS, min_size=1, max_size=12))
def test_bandwidth_stays_between_the_rates_that_were_seen(rounds: list[RoundFigures]) -> None:
    rates = [
        done.sent_bytes / done.duration_ns * 1e9
        for done in rounds
        if done.sent_bytes and done.duration_ns
    ]
    if not rates:
        assert bandwidth(rounds) == 0.0
    else:
        assert min(rates) * 0.999 <= bandwidth(rounds) <= max(rates) * 1.001


def test_an_idle_machine_is_stunned_after_its_first_round() -> None:
    history, verdict = migrate(lambda _s: 0, machine_bytes=16 * GIB, link=2e9)
    assert (len(history), verdict.decision) == (1, Decision.STUN)
    assert verdict.reason is DecisionReason.SMALL_ENOUGH


def test_a_small_hot_set_ends_in_a_stun_of_a_few_milliseconds() -> None:
    hot = 64 * MIB
    history, verdict = migrate(lambda s: min(50e6 * s, hot), machine_bytes=4 * GIB, link=2e9)
    assert verdict.decision is Decision.STUN
    assert verdict.predicted_stun_ns < 8_000_000
    assert len(history) <= 4


def test_a_machine_that_writes_faster_than_the_link_is_given_up() -> None:
    history, verdict = migrate(lambda s: 4e9 * s, machine_bytes=8 * GIB, link=1e9)
    assert verdict.decision is Decision.GIVE_UP
    assert verdict.reason is DecisionReason.STALLED_ABOVE_LIMIT
    assert len(history) == STALLED_ROUNDS_MAX + 1


def test_one_that_fits_without_shrinking_is_stunned_though_it_writes_fast() -> None:
    hot = 200 * MIB
    _, verdict = migrate(lambda s: min(4e9 * s, hot), machine_bytes=8 * GIB, link=1e9)
    assert verdict.decision is Decision.STUN
    assert verdict.reason is DecisionReason.FITS_AND_NO_LONGER_SHRINKS
    assert 200_000_000 < verdict.predicted_stun_ns < 230_000_000


def test_a_shrinking_one_goes_on_while_it_shrinks() -> None:
    rounds = [figures(4 * GIB >> n, SECOND_NS >> n, 2 * GIB >> n) for n in range(6)]
    decisions = [
        decide(rounds[: n + 1], stun_limit_ns=500_000_000, rounds_max=30) for n in range(6)
    ]
    assert [verdict.reason for verdict in decisions[1:]] == [DecisionReason.STILL_SHRINKING] * 5


def test_one_that_hovers_above_the_limit_uses_up_its_rounds() -> None:
    falling = iter(range(100))
    history, verdict = migrate(
        lambda _s: 4 * GIB - next(falling), machine_bytes=8 * GIB, link=1e9, rounds_max=12
    )
    assert verdict.reason is DecisionReason.ROUNDS_EXHAUSTED
    assert len(history) == 12


def test_at_the_last_round_what_fits_is_taken() -> None:
    rounds = [figures(GIB, SECOND_NS, 100 * MIB)]
    verdict = decide(rounds, stun_limit_ns=500_000_000, rounds_max=1)
    assert verdict.reason is DecisionReason.FITS_AT_LAST_ROUND


def test_without_a_known_bandwidth_only_nothing_can_be_predicted() -> None:
    assert predicted_stun_ns(1, 0.0) >= 3600 * SECOND_NS


def test_a_machine_that_writes_faster_than_the_link_is_slowed_until_it_fits() -> None:
    history, verdict = migrate(
        lambda s: 4e9 * s, machine_bytes=8 * GIB, link=1e9, slow_percent_max=95
    )
    assert verdict.decision is Decision.STUN
    assert verdict.stun_bound_ns <= 500_000_000
    assert 75 < verdict.slow_percent <= 95
    assert len(history) < 20


def test_it_is_slowed_only_if_waiting_did_not_help() -> None:
    rounds = [figures(4 * GIB, 4 * SECOND_NS, 2 * GIB)] * 3
    reasons = [
        decide(
            rounds[: n + 1], stun_limit_ns=SECOND_NS, rounds_max=30, slowing=Slowing(0, 80)
        ).reason
        for n in range(3)
    ]
    assert reasons == [
        DecisionReason.FIRST_ROUNDS,
        DecisionReason.WAITING_FOR_A_BETTER_MOMENT,
        DecisionReason.SLOWING_THE_GUEST,
    ]


def test_slowed_as_far_as_it_may_be_and_still_too_fast_it_is_given_up() -> None:
    _, verdict = migrate(lambda s: 8e9 * s, machine_bytes=8 * GIB, link=1e9, slow_percent_max=50)
    assert verdict.decision is Decision.GIVE_UP
    assert verdict.reason is DecisionReason.STALLED_ABOVE_LIMIT
    assert verdict.slow_percent == 50


def test_before_it_is_given_up_the_limit_is_raised_as_far_as_the_policy_says() -> None:
    _, verdict = migrate(
        lambda s: min(4e9 * s, GIB),
        machine_bytes=8 * GIB,
        link=1e9,
        stun_limit_max_ns=2 * SECOND_NS,
    )
    assert verdict.decision is Decision.STUN
    assert verdict.reason is DecisionReason.FITS_RAISED_LIMIT
    assert SECOND_NS < verdict.stun_bound_ns <= 2 * SECOND_NS


def test_nobody_switches_over_into_a_dip_of_the_link() -> None:
    steady = [figures(GIB, SECOND_NS, 300 * MIB), figures(300 * MIB, SECOND_NS // 3, 300 * MIB)]
    in_a_dip = figures(300 * MIB, 4 * SECOND_NS, 300 * MIB)
    fits = decide(steady, stun_limit_ns=700_000_000, rounds_max=30)
    assert fits.decision is Decision.STUN
    dipped = decide([*steady, in_a_dip], stun_limit_ns=700_000_000, rounds_max=30)
    assert dipped.predicted_stun_ns < 700_000_000 < dipped.stun_bound_ns
    assert dipped.decision is Decision.ANOTHER_ROUND


@given(st.lists(ROUNDS, min_size=1, max_size=12))
def test_only_a_round_that_tells_of_the_link_bounds_it(rounds: list[RoundFigures]) -> None:
    small = figures(TELLING_BYTES - 1, 3600 * SECOND_NS, 0)
    assert slowest_bandwidth(rounds) <= bandwidth(rounds)
    assert slowest_bandwidth([*rounds, small, small, small]) == bandwidth(
        [*rounds, small, small, small]
    )


@pytest.mark.parametrize(
    ("sent_bytes", "left_out"),
    [
        (30 * MIB, {"rewritten_bytes": 40 * MIB}),
        (MIB, {"rewritten_bytes": 4096}),
        (MIB, {"waiting_bytes": 100 * MIB}),
    ],
)
def test_a_round_that_left_out_more_than_it_tells_says_nothing_of_the_link(
    sent_bytes: int, left_out: dict[str, int]
) -> None:
    sent = figures(64 * MIB, 60_000_000, 64 * MIB)
    looked = msgspec.structs.replace(figures(sent_bytes, 60_000_000, 64 * MIB), **left_out)
    assert bandwidth([sent, looked]) == bandwidth([sent])
    assert slowest_bandwidth([sent, looked]) == bandwidth([sent])
    told = msgspec.structs.replace(looked, sent_bytes=50 * MIB)
    assert bandwidth([sent, told]) < bandwidth([sent])


def warm(remaining: int, hot: int, **more: int) -> RoundFigures:
    """A round over a link of 1 GiB a second."""
    return msgspec.structs.replace(figures(GIB, SECOND_NS, remaining), hot_bytes=hot, **more)


def test_hot_bytes_may_wait_in_another_round_up_to_a_share_of_what_the_stun_may_send() -> None:
    limit_ns = 205_000_000  # 200 ms for bytes: 205 MiB
    too_few, few, many = (
        decide([warm(3 * GIB, GIB), warm(GIB, hot)], stun_limit_ns=limit_ns, rounds_max=9)
        for hot in (TELLING_BYTES - 1, 40 * MIB, GIB)
    )
    assert too_few.wait_bytes_max == 0
    assert (few.decision, few.wait_bytes_max) == (Decision.ANOTHER_ROUND, 40 * MIB)
    assert 100 * MIB < many.wait_bytes_max < 105 * MIB
    stun = decide([warm(GIB, GIB), warm(MIB, MIB)], stun_limit_ns=limit_ns, rounds_max=9)
    assert (stun.decision, stun.wait_bytes_max) == (Decision.STUN, 0)


def test_what_waits_does_not_hide_that_the_rest_shrinks() -> None:
    limit_ns, still = 205_000_000, Decision.ANOTHER_ROUND
    waits = [
        warm(600 * MIB, 0, waiting_bytes=100 * MIB),
        warm(460 * MIB, 0, waiting_bytes=100 * MIB),
    ]
    verdict = decide(waits, stun_limit_ns=limit_ns, rounds_max=9)
    assert (verdict.decision, verdict.reason) == (still, DecisionReason.STILL_SHRINKING)
    verdict = decide([warm(600 * MIB, 0), warm(460 * MIB, 0)], stun_limit_ns=limit_ns, rounds_max=9)
    assert verdict.reason is DecisionReason.WAITING_FOR_A_BETTER_MOMENT


def test_a_look_that_the_stun_must_repeat_is_part_of_it() -> None:
    limit_ns = 100_000_000
    quick, slow = (
        decide([warm(GIB, 0), warm(MIB, 0, look_ns=ns)], stun_limit_ns=limit_ns, rounds_max=2)
        for ns in (0, 200_000_000)
    )
    assert slow.stun_bound_ns == quick.stun_bound_ns + 200_000_000
    assert (quick.decision, slow.decision) == (Decision.STUN, Decision.GIVE_UP)
    patient = decide(
        [warm(GIB, 0), warm(MIB, 0, look_ns=200_000_000)], stun_limit_ns=SECOND_NS, rounds_max=9
    )
    assert patient.reason is DecisionReason.SMALL_ENOUGH


def test_what_finding_the_pages_took_is_no_time_of_the_link() -> None:
    """The stun looks for its pages too: what that takes is in its prediction once."""
    looked_ns = SECOND_NS // 2
    told = warm(100 * MIB, 0, look_ns=looked_ns, carrying_ns=SECOND_NS - looked_ns)
    untold = warm(100 * MIB, 0, look_ns=looked_ns)
    assert bandwidth([told]) == slowest_bandwidth([told]) == 2 * GIB
    assert bandwidth([untold]) == GIB, "an older log"
    named = msgspec.structs.replace(told, sent_bytes=0, zero_bytes=GIB)
    assert bandwidth([named, named]) == 2 * GIB
    verdict = decide([told], stun_limit_ns=SECOND_NS, rounds_max=1)
    link_ns = predicted_stun_ns(100 * MIB, 2 * GIB)
    assert verdict.predicted_stun_ns == verdict.stun_bound_ns == looked_ns + link_ns


@given(st.lists(ROUNDS, min_size=1, max_size=8), st.integers(0, SECOND_NS), st.data())
def test_what_may_wait_fits_the_stun(
    rounds: list[RoundFigures], limit_ns: int, data: st.DataObject
) -> None:
    hot = data.draw(st.integers(0, rounds[-1].remaining_bytes))
    rounds = [*rounds[:-1], msgspec.structs.replace(rounds[-1], hot_bytes=hot)]
    verdict = decide(rounds, stun_limit_ns=limit_ns, rounds_max=9)
    assert 0 <= verdict.wait_bytes_max <= hot
    if verdict.wait_bytes_max:
        assert predicted_stun_ns(verdict.wait_bytes_max, slowest_bandwidth(rounds)) <= limit_ns


def test_dirty_rates_are_smoothed_region_by_region() -> None:
    found = ({"ram": GIB, "vgpu0": GIB}, {"ram": 100 * MIB, "vgpu0": 0}, {"ram": 200 * MIB})
    rounds = [
        msgspec.structs.replace(figures(GIB, SECOND_NS, 0), bytes_by_region=each) for each in found
    ]
    assert dirty_rates(rounds[:1]) == {}
    assert dirty_rates(rounds[:2]) == {"ram": 100 * MIB, "vgpu0": 0.0}
    assert dirty_rates(rounds)["ram"] == pytest.approx(140 * MIB)


def test_the_time_in_which_chunks_were_offered_says_nothing_of_the_link() -> None:
    sent = figures(64 * MIB, 60_000_000, 64 * MIB)
    offered = msgspec.structs.replace(sent, duration_ns=160_000_000, content_ns=100_000_000)
    assert bandwidth([offered]) == bandwidth([sent])
    assert slowest_bandwidth([offered]) == slowest_bandwidth([sent])


def capped(megabytes_per_second: int, cap: int, remaining: int = 0) -> RoundFigures:
    """A round of one second under a cap, both in MiB a second."""
    done = figures(megabytes_per_second * MIB, SECOND_NS, remaining)
    return msgspec.structs.replace(done, cap_bytes_per_second=cap * MIB)


def test_a_round_at_its_cap_only_raises_what_the_link_is_known_to_carry() -> None:
    held, free = capped(100, 100), capped(1000, 0)
    assert bandwidth([held, held]) == 100 * MIB  # no more is known
    assert bandwidth([held, free]) == 1000 * MIB
    assert bandwidth([free, held, held, held]) == 1000 * MIB
    assert slowest_bandwidth([free, held, held, held]) == 1000 * MIB
    assert bandwidth([capped(50, 50), held]) == 100 * MIB


def test_a_round_far_below_its_cap_tells_of_the_link() -> None:
    slow = capped(70, 100)
    assert not is_capped(slow)
    assert is_capped(capped(80, 100))
    assert bandwidth([capped(1000, 0), slow]) < 1000 * MIB
    assert slowest_bandwidth([capped(1000, 0), slow]) == 70 * MIB


def test_a_low_cap_that_was_lifted_does_not_hold_the_stun_off() -> None:
    """100 MiB left would take ten seconds at the cap that went before."""
    history = [capped(10, 10, 100 * MIB), capped(1000, 0, 100 * MIB)]
    verdict = decide(history, stun_limit_ns=500_000_000, rounds_max=30)
    assert verdict.predicted_stun_ns == predicted_stun_ns(100 * MIB, 1000 * MIB)
    assert verdict.decision is Decision.STUN


def test_another_round_is_not_expected_to_send_more_than_its_cap() -> None:
    """So a guest is slowed by what its rounds can carry, not by what the link could."""
    history = [capped(1000, 0), *[capped(100, 100, 95 * MIB)] * 3]
    assert precopy_bandwidth(history) == 100 * MIB
    assert precopy_bandwidth(history[:1]) == 1000 * MIB
    limits = {"stun_limit_ns": 1000, "rounds_max": 30}
    slowing = Slowing(20, 99)
    slowed = decide(history, slowing=slowing, **limits)
    assert slowed.reason is DecisionReason.SLOWING_THE_GUEST
    assert slowed.slow_percent == 100 - int(80 * 0.5 * 100 / 95)


def test_a_round_that_had_nothing_to_send_does_not_stop_the_guest() -> None:
    history = [*[capped(100, 100, 95 * MIB)] * 3, figures(0, SECOND_NS, 95 * MIB)]
    assert precopy_bandwidth(history) == bandwidth(history) > 0
    slowed = decide(history, slowing=Slowing(20, 99), stun_limit_ns=1000, rounds_max=30)
    assert slowed.slow_percent < 99


def compressed(link: int, remaining: int = 0, cap: int = 0) -> RoundFigures:
    """A round of one second: 400 MiB, of which 100 travelled, over a link of that many a second."""
    done = figures(400 * MIB, SECOND_NS, remaining)
    return msgspec.structs.replace(
        done,
        compression_bytes=300 * MIB,
        link_bytes_per_second=link * MIB,
        cap_bytes_per_second=cap * MIB,
    )


def test_a_round_that_was_compressed_tells_of_the_link_what_was_measured() -> None:
    """The stun is not compressed: 400 MiB a second is not what it will have."""
    history = [compressed(100, 50 * MIB)]
    assert bandwidth(history) == slowest_bandwidth(history) == 100 * MIB
    verdict = decide(history, stun_limit_ns=300_000_000, rounds_max=30)
    assert verdict.predicted_stun_ns == predicted_stun_ns(50 * MIB, 100 * MIB)
    assert verdict.decision is Decision.ANOTHER_ROUND
    assert slowest_bandwidth([compressed(100), compressed(20)]) == 20 * MIB, "a dip is seen"


def test_a_guest_is_slowed_by_what_rounds_can_carry_compressed() -> None:
    assert precopy_bandwidth([compressed(100)]) == 400 * MIB
    assert precopy_bandwidth([compressed(100, cap=100)]) == 400 * MIB
    assert is_capped(compressed(100, cap=100))
    assert precopy_bandwidth([compressed(0, cap=100)]) == 400 * MIB, "measured by what travelled"


def mostly_zeros(sent_kib: int, zero_kib: int, duration_ms: int, left_kib: int) -> RoundFigures:
    done = figures(sent_kib << 10, duration_ms * 10**6, left_kib << 10)
    return msgspec.structs.replace(done, zero_bytes=zero_kib << 10)


def test_a_machine_that_writes_zeros_alone_is_not_taken_for_one_behind_a_slow_link() -> None:
    """4 KiB of a round's 27 MiB were sent: the link was not slow, there was nothing for it."""
    history = [mostly_zeros(4, 26388, 245, 6360), mostly_zeros(4, 4464, 36, 548)]
    verdict = decide(history, stun_limit_ns=500_000_000, rounds_max=30)
    assert verdict.bandwidth_bytes_per_second == pytest.approx((26392 << 10) / 0.245)
    assert verdict.predicted_stun_ns < 11_000_000
    stalled = [*history, *[mostly_zeros(4, 560, 15, 520)] * 6]
    verdict = decide(stalled, stun_limit_ns=500_000_000, rounds_max=30)
    assert verdict.decision is Decision.STUN


def test_one_round_of_zeros_does_not_promise_a_short_stun() -> None:
    """What is left may be anything, and the link was not seen at work."""
    first = mostly_zeros(4, 8 << 20, 1000, 1024)
    limits = {"stun_limit_ns": 500_000_000, "rounds_max": 30}
    assert decide([first], **limits).reason is DecisionReason.FIRST_ROUNDS
    slow = figures(1 << 20, SECOND_NS, 600 << 10)
    assert decide([first, slow], **limits).decision is Decision.ANOTHER_ROUND
    assert bandwidth([first, slow]) == 1 << 20
    idle = mostly_zeros(4, 8 << 20, 1000, 0)
    assert decide([idle], **limits).reason is DecisionReason.SMALL_ENOUGH
    assert decide([first], stun_limit_ns=500_000_000, rounds_max=1).decision is Decision.STUN


def test_a_round_of_zeros_lowers_nothing() -> None:
    full = figures(100 * MIB, SECOND_NS, MIB)
    assert bandwidth([full, mostly_zeros(1024, 1024, 1000, 4)]) == 100 * MIB
    assert slowest_bandwidth([full, mostly_zeros(20 << 10, 1 << 20, 1000, 4)]) == 100 * MIB
    assert bandwidth([full, mostly_zeros(1024, 1023, 1000, 4)]) < 100 * MIB
    assert bandwidth([full, mostly_zeros(200 << 10, 200 << 10, 1000, 4)]) == 200 * MIB
