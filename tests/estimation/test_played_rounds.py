"""A migration on paper: the rounds that the live source would send, and always an end."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from godwit_protocol.convergence import Decision, DecisionReason, Slowing, decide
from godwit_protocol.estimation.history import DirtyWindow, LinkSample, RegionWrites
from godwit_protocol.estimation.rounds import ROUNDS_PLAYED_MAX, Curve, play
from godwit_protocol.events.migration import Limits, RoundFigures
from histories import MIB, MS, link, links, steady, window, windows

LIMITS = Limits()
ANY_LIMITS = st.builds(
    Limits,
    stun_limit_ns=st.integers(1, 10_000 * MS),
    rounds_max=st.integers(1, 5000),
    stalled_rounds_max=st.integers(1, 5000),
    stun_limit_max_ns=st.integers(0, 10_000 * MS),
    slow_percent_max=st.integers(0, 99),
)


def faster(given: LinkSample, times: float) -> LinkSample:
    return msgspec.structs.replace(given, bytes_per_second=given.bytes_per_second * times)


def busier(given: DirtyWindow, times: int) -> DirtyWindow:
    (region,) = given.regions
    written = tuple(times * each for each in region.written_bytes)
    after = (RegionWrites(region.name, region.resident_bytes, written),)
    return msgspec.structs.replace(given, regions=after)


def remaining(given: DirtyWindow, over: LinkSample, rounds: int) -> list[int]:
    """What each of so many rounds leaves: no decision ends them early."""
    never = Limits(stun_limit_ns=1, rounds_max=rounds, stalled_rounds_max=rounds)
    return [done.remaining_bytes for done in play(Curve(given), over, never).rounds]


def test_the_curve_goes_through_the_window_s_instants_and_on_with_its_last_slope() -> None:
    curve = Curve(window(10 * MIB, 20 * MIB, elapsed_ns=(100, 300), resident_bytes=26 * MIB))
    told = [curve.written_bytes(ns) // MIB for ns in (0, 50, 100, 200, 300, 400, 10**18)]
    assert told == [0, 5, 10, 15, 20, 25, 26]


@given(windows(), st.integers(0, 2**62), st.integers(0, 2**62))
def test_more_time_never_dirties_less(given: DirtyWindow, one: int, other: int) -> None:
    curve = Curve(given)
    low, high = sorted((one, other))
    assert 0 <= curve.written_bytes(low) <= curve.written_bytes(high) <= given.resident_bytes


def test_a_machine_that_writes_nothing_is_sent_once() -> None:
    played = play(Curve(window(0, 0)), link(1024 * MIB, intent_ns=MS), LIMITS)
    assert (played.decision, played.reason) == (Decision.STUN, DecisionReason.SMALL_ENOUGH)
    assert [done.sent_bytes for done in played.rounds] == [1024 * MIB]
    assert (played.final_bytes, played.stun_ns) == (0, 10 * MS)
    assert played.total_ns == 1000 * MS + MS + 10 * MS


def test_the_stun_sends_what_was_written_since_the_last_round_s_scan() -> None:
    """Also what was written while the intent went to the log."""
    played = play(Curve(steady(100 * MIB)), link(1000 * MIB, intent_ns=10 * MS), LIMITS)
    last = played.rounds[-1]
    assert played.decision is Decision.STUN
    assert played.final_bytes > last.remaining_bytes > 0
    assert played.final_bytes == Curve(steady(100 * MIB)).written_bytes(last.duration_ns + 10 * MS)


def test_a_guest_that_writes_at_its_steps_ends_is_known_by_its_own_stuns() -> None:
    at_once = window(0, 0, 0, 50 * MIB, 50 * MIB)
    assert play(Curve(at_once), link(20_000 * MIB), LIMITS).final_bytes == 0
    own = link(20_000 * MIB, final_bytes=60 * MIB)
    assert play(Curve(at_once), own, LIMITS).final_bytes == 50 * MIB
    assert play(Curve(window(0)), own, LIMITS).final_bytes == 0  # it has stopped writing since


def test_a_machine_faster_than_its_link_is_given_up() -> None:
    played = play(Curve(steady(200 * MIB)), link(100 * MIB), LIMITS)
    assert played.decision is Decision.GIVE_UP
    assert played.stun_ns > LIMITS.stun_limit_ns


def test_without_pre_copy_all_of_it_is_sent_in_the_stun() -> None:
    curve = Curve(steady(200 * MIB))
    played = play(curve, link(100 * MIB), Limits(rounds_max=0))
    assert (played.decision, played.rounds) == (Decision.STUN, ())
    assert played.sent_bytes == played.final_bytes == curve.resident_bytes
    assert played.stun_ns >= curve.resident_bytes / (100 * MIB) * 1e9


def test_a_machine_that_may_be_slowed_is_not_given_up() -> None:
    played = play(Curve(steady(200 * MIB)), link(100 * MIB), Limits(slow_percent_max=80))
    assert played.decision is Decision.STUN
    assert played.stun_ns < LIMITS.stun_limit_ns


@given(windows(), links, ANY_LIMITS)
def test_every_play_ends_as_the_live_source_would_decide(
    given: DirtyWindow, over: LinkSample, limits: Limits
) -> None:
    played = play(Curve(given), over, limits)
    assert len(played.rounds) <= ROUNDS_PLAYED_MAX
    assert played.decision is not Decision.ANOTHER_ROUND
    figures = [
        RoundFigures(
            round=number,
            pages=1,
            sent_bytes=done.sent_bytes,
            wire_bytes=done.sent_bytes,
            duration_ns=done.duration_ns,
            scan_ns=0,
            remaining_bytes=done.remaining_bytes,
        )
        for number, done in enumerate(played.rounds, 1)
    ]
    percent = 0
    for number in range(1, len(figures) + 1):
        verdict = decide(
            figures[:number],
            stun_limit_ns=limits.stun_limit_ns,
            rounds_max=min(limits.rounds_max, ROUNDS_PLAYED_MAX),
            stalled_rounds_max=limits.stalled_rounds_max,
            stun_limit_max_ns=limits.stun_limit_max_ns,
            slowing=Slowing(percent, limits.slow_percent_max),
        )
        percent = verdict.slow_percent
        assert (verdict.decision is Decision.ANOTHER_ROUND) == (number < len(figures))
    assert verdict.decision is played.decision
    assert played.stun_ns <= played.total_ns


@given(windows(), links, st.floats(1, 100), st.integers(1, 20))
def test_a_faster_link_leaves_no_round_more(
    given: DirtyWindow, over: LinkSample, times: float, rounds: int
) -> None:
    slow, fast = remaining(given, over, rounds), remaining(given, faster(over, times), rounds)
    assert all(less <= more for less, more in zip(fast, slow, strict=False))


@given(windows(), links, st.integers(1, 100), st.integers(1, 20))
def test_a_busier_machine_leaves_no_round_less(
    given: DirtyWindow, over: LinkSample, times: int, rounds: int
) -> None:
    calm, busy = remaining(given, over, rounds), remaining(busier(given, times), over, rounds)
    assert all(less <= more for less, more in zip(calm, busy, strict=False))


def test_a_cap_holds_rounds_and_never_the_stun() -> None:
    steady_writes, over = Curve(steady(10 * MIB)), link(1000 * MIB)
    limits = Limits(bandwidth_bytes_per_second=100 * MIB)
    free, capped = play(steady_writes, over, LIMITS), play(steady_writes, over, limits)
    first = free.rounds[0].duration_ns - over.round_overhead_ns
    assert capped.rounds[0].duration_ns - over.round_overhead_ns == 10 * first
    assert capped.rounds[0].cap_bytes_per_second == 100 * MIB
    sending_ns = int(capped.final_bytes / (1000 * MIB) * 1e9)
    assert capped.stun_ns == over.switchover_ns + sending_ns
