"""A bucket never lets more through than its rate; a link is shared so that nobody could have more
without somebody who has less having less still.
"""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit_protocol.errors import InvalidInputError
from godwit_protocol.pacing import (
    BANDWIDTH_MIN,
    BURST_BYTES,
    TokenBucket,
    fair_shares,
    format_bandwidth,
    parse_bandwidth,
)

SECOND_NS = 1_000_000_000
rates = st.integers(1, 12_500_000_000)
frames = st.lists(
    st.tuples(st.integers(1, BURST_BYTES), st.integers(0, 3 * SECOND_NS)), min_size=1, max_size=30
)


@given(rates, frames)
def test_in_any_time_no_more_goes_than_rate_times_time_and_a_burst(
    rate: int, sizes: list[tuple[int, int]]
) -> None:
    bucket, now_ns, passed = TokenBucket(rate, 0), 0, [(0, 0)]
    for size, idle_ns in sizes:
        now_ns += idle_ns
        while lacking_ns := bucket.take(size, now_ns):
            now_ns += lacking_ns
        passed.append((now_ns, size))
    for first, (begin_ns, _) in enumerate(passed):
        for at_ns, sent in zip(
            (at_ns for at_ns, _ in passed[first:]),
            accumulate(size for _, size in passed[first:]),
            strict=True,
        ):
            assert sent * SECOND_NS <= rate * (at_ns - begin_ns) + BURST_BYTES * SECOND_NS


@given(rates, frames)
def test_a_frame_waits_exactly_as_long_as_it_is_told(
    rate: int, sizes: list[tuple[int, int]]
) -> None:
    """So it is never later than the rate asks for: what is allowed is used."""
    bucket, now_ns = TokenBucket(rate, 0), 0
    for size, idle_ns in sizes:
        now_ns += idle_ns
        lacking_ns = bucket.take(size, now_ns)
        if lacking_ns:
            assert bucket.take(size, now_ns + lacking_ns - 1) == 1
            assert bucket.take(size, now_ns + lacking_ns) == 0
            now_ns += lacking_ns


@given(rates, rates)
def test_another_rate_goes_at_once(before: int, after: int) -> None:
    bucket = TokenBucket(before, 0)
    assert bucket.take(BURST_BYTES, 0) == 0
    assert bucket.take(BURST_BYTES, 0) == -(-BURST_BYTES * SECOND_NS // before)
    bucket.set_rate(after, 0)
    assert bucket.take(BURST_BYTES, 0) == -(-BURST_BYTES * SECOND_NS // after)
    bucket.set_rate(0, 0)
    assert bucket.take(10**15, 0) == 0


def test_a_frame_beyond_the_burst_goes_and_what_follows_waits_for_it() -> None:
    bucket = TokenBucket(1000, 0)
    assert bucket.take(BURST_BYTES + 1000, 0) == 0
    assert bucket.take(1, 0) == SECOND_NS + 1_000_000


caps = st.lists(st.one_of(st.just(0), st.integers(1, 10**10)), min_size=1, max_size=8)


@given(caps, st.integers(10, 10**11))
def test_a_link_is_shared_max_min_fair(wanted: list[int], link: int) -> None:
    shares = fair_shares(wanted, link)
    assert sum(shares) <= link
    for cap, share in zip(wanted, shares, strict=True):
        assert 0 < share <= (cap or link)
        if share < (cap or link):  # it could use more: nobody has more than it, but for rounding
            assert max(shares) <= share + 1
    if sum(cap or link for cap in wanted) >= link:
        assert sum(shares) >= link - len(wanted)  # nothing that somebody wants is left over


def test_a_link_without_a_limit_leaves_each_its_cap() -> None:
    assert fair_shares([5, 0, 7], 0) == [5, 0, 7]
    assert fair_shares([], 100) == []
    assert fair_shares([10, 0, 0], 100) == [10, 45, 45]
    assert fair_shares([0, 0, 0], 1) == [1, 1, 1]  # never none at all


def test_a_bandwidth_is_read_as_it_is_written() -> None:
    assert parse_bandwidth("5Gbit") == 625_000_000
    assert parse_bandwidth("none") == 0
    for rate in (0, BANDWIDTH_MIN, 625_000_000):
        assert parse_bandwidth(format_bandwidth(rate)) == rate
    for text in ("999Kbit", "0Gbit", "fast", ""):
        with pytest.raises(InvalidInputError):
            parse_bandwidth(text)
