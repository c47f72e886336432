"""What two hosts tell each other bounds how far their clocks are apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit_protocol.clock_offset import DRIFT_NS_PER_S, ClockOffset, better, of_round_trip

OFFSETS_NS = st.integers(-(2**62), 2**62)
DELAYS_NS = st.integers(0, 10**10)
TRIPS = st.tuples(DELAYS_NS, DELAYS_NS, DELAYS_NS)
"""The way there, the time until the answer, the way back."""


def found(trip: tuple[int, int, int], true_ns: int, asked_ns: int = 10**15) -> ClockOffset:
    there, until_answered, back = trip
    heard_ns = asked_ns + there + true_ns
    told_ns = asked_ns + there + until_answered + back
    offset = of_round_trip(asked_ns, heard_ns, heard_ns + until_answered, told_ns)
    assert offset is not None
    return offset


@given(true_ns=OFFSETS_NS, trip=TRIPS)
def test_however_unequal_the_two_ways_are_the_offset_is_within_its_error(
    true_ns: int, trip: tuple[int, int, int]
) -> None:
    offset = found(trip, true_ns)
    assert abs(offset.offset_ns - true_ns) <= offset.error_ns
    assert offset.error_ns == (trip[0] + trip[2] + 1) // 2


@given(true_ns=OFFSETS_NS, trips=st.lists(TRIPS, min_size=1, max_size=8))
def test_of_several_the_shortest_round_trip_is_kept(
    true_ns: int, trips: list[tuple[int, int, int]]
) -> None:
    kept, now_ns = found(trips[0], true_ns, 0), sum(trips[0])
    for trip in trips[1:]:
        kept = better(kept, found(trip, true_ns, now_ns)) or kept
        now_ns += sum(trip)
    assert abs(kept.offset_ns - true_ns) <= kept.error_ns
    least_ns = min((trip[0] + trip[2] + 1) // 2 for trip in trips)
    assert kept.error_ns <= least_ns + DRIFT_NS_PER_S * now_ns // 10**9


def test_an_old_one_gives_way_as_clocks_come_apart() -> None:
    old = ClockOffset(offset_ns=5, error_ns=100, at_ns=0)
    new = ClockOffset(offset_ns=7, error_ns=15_101, at_ns=1_000_000_000)
    assert old.error_at_ns(1_000_000_000) == 15_100
    assert better(old, new) is old
    later = ClockOffset(offset_ns=7, error_ns=15_101, at_ns=2_000_000_000)
    assert better(old, later) is later
    assert better(None, old) is old
    assert better(old, None) is old
    assert better(None, None) is None


@pytest.mark.parametrize(
    "stamps", [(10, 5, 4, 20), (10, 5, 6, 9), (10, 0, 11, 20)], ids=["answer", "told", "longer"]
)
def test_what_no_round_trip_can_be_tells_nothing(stamps: tuple[int, int, int, int]) -> None:
    assert of_round_trip(*stamps) is None


@given(true_ns=OFFSETS_NS, trip=TRIPS, there=DELAYS_NS, back=DELAYS_NS)
def test_what_else_bounds_it_narrows_it(
    true_ns: int, trip: tuple[int, int, int], there: int, back: int
) -> None:
    offset = found(trip, true_ns)
    narrowed = offset.narrowed(true_ns - back, true_ns + there)
    assert narrowed is not None
    assert abs(narrowed.offset_ns - true_ns) <= narrowed.error_ns <= offset.error_ns
    assert true_ns - back <= narrowed.offset_ns <= true_ns + there
    assert offset.narrowed(None, None) == offset
    assert offset.narrowed(true_ns + 1, true_ns) is None
