import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.guests.counter_random import random_floats, random_words


def test_it_is_splitmix64() -> None:
    """The sequence of seed 1234567 as published with the algorithm's other implementations."""
    assert random_words(1234567, 0, 5).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(st.integers(0, 2**66), st.integers(0, 2**66), st.integers(0, 50), st.integers(0, 50))
def test_a_sequence_can_be_entered_anywhere(key: int, first: int, skip: int, count: int) -> None:
    whole = random_words(key, first, skip + count)
    assert np.array_equal(random_words(key, first + skip, count), whole[skip:])


def test_floats_fill_their_range_evenly() -> None:
    floats = random_floats(1, 0, 100_000)
    assert floats.min() >= -1
    assert floats.max() < 1
    assert float(floats.mean()) == pytest.approx(0, abs=0.01)
    assert float(floats.var()) == pytest.approx(1 / 3, abs=0.01)
