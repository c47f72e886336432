"""How many connections: within what both hosts have, changed only for what is clearly faster."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit_protocol.connections import (
    GAIN_MIN,
    Carried,
    first_number,
    may_try,
    next_number,
    opened,
)

MAX = st.integers(1, 64)
RATES = st.lists(st.floats(1.0, 1e11), min_size=64, max_size=64)


@given(MAX, st.integers(1, 512), st.integers(1, 512), st.integers(0, 10**12))
def test_the_first_number_is_within_what_both_hosts_have(
    number_max: int, here: int, there: int, allowed: int
) -> None:
    number = first_number(number_max, here, there, allowed)
    assert 1 <= number <= min(number_max, here, there)


@pytest.mark.parametrize(
    ("cores_here", "cores_there", "allowed", "number"),
    [
        (2, 2, 0, 2),
        (16, 16, 0, 8),
        (16, 3, 0, 3),
        (16, 16, 625_000_000, 1),
        (16, 16, 5_000_000_000, 5),
        (1, 16, 0, 1),
        (16, 0, 0, 0),
    ],
)
def test_it_follows_cores_and_bandwidth(
    cores_here: int, cores_there: int, allowed: int, number: int
) -> None:
    assert first_number(opened(cores_here), cores_here, cores_there, allowed) == number


@pytest.mark.parametrize(
    ("allowed", "number"), [(62_500_000, 2), (50_000_000, 1), (625_000_000, 8), (0, 8)]
)
def test_what_may_be_compressed_has_threads_for_it(allowed: int, number: int) -> None:
    """At 500 Mbit/s one thread sends with ease, and is too slow to compress."""
    assert first_number(8, 16, 16, allowed, may_compress=True) == number
    assert first_number(8, 16, 0, allowed, may_compress=True) == 0


def climbed(
    number: int, number_max: int, rate: Callable[[int], float], rounds: int
) -> list[Carried]:
    """What ``rounds`` rounds come to where so many connections carry ``rate``."""
    carried = [Carried(number, rate(number))]
    for _ in range(rounds):
        number = next_number(carried, number_max)
        carried.append(Carried(number, rate(number)))
    return carried


@given(st.data(), MAX, RATES)
def test_it_climbs_to_a_number_that_no_neighbour_beats_and_stays(
    data: st.DataObject, number_max: int, rates: list[float]
) -> None:
    first = data.draw(st.integers(1, number_max))
    carried = climbed(first, number_max, lambda number: rates[number - 1], 20)
    assert all(1 <= number <= number_max for number, _ in carried)
    last, rate = carried[-1]
    assert {number for number, _ in carried[-5:]} == {last}
    assert rate >= rates[first - 1]
    for neighbour in (2 * last, last // 2):
        if 1 <= neighbour <= number_max:
            assert rates[neighbour - 1] < GAIN_MIN * rate


@given(MAX, st.floats(1.0, 1e11), st.lists(st.floats(1.0, 1.09), min_size=64, max_size=64))
def test_chance_changes_nothing(number_max: int, rate: float, noise: list[float]) -> None:
    """What is faster by less than a tenth is tried, and left again."""
    carried = climbed(number_max, number_max, lambda number: rate * noise[number - 1], 9)
    assert carried[-1].connections == number_max


def test_a_link_on_which_more_is_faster_gets_more() -> None:
    numbers = [number for number, _ in climbed(1, 8, float, 6)]
    assert numbers == [1, 2, 4, 8, 8, 8, 8]


def test_where_rounds_shrink_by_half_nothing_is_tried_and_the_best_that_is_known_stays() -> None:
    assert may_try(500, 1000)
    assert not may_try(499, 1000)
    carried = [Carried(2, 10.0)]
    assert next_number(carried, 4) == 4
    assert next_number(carried, 4, trying=False) == 2
    carried.append(Carried(4, 20.0))
    assert next_number(carried, 4, trying=False) == 4
