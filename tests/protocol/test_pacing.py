"""A share never lets more through than its rate; a link is shared so that nobody could have more
without somebody who has less having less still, and what one does not use is the others'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from godwit_protocol.errors import InvalidInputError
from godwit_protocol.pacing import (
    BANDWIDTH_MIN,
    BURST_BYTES,
    SPAN_NS,
    Link,
    Share,
    fair_shares,
    format_bandwidth,
    parse_bandwidth,
)

SECOND_NS = 1_000_000_000
rates = st.integers(1, 12_500_000_000)
frames = st.lists(
    st.tuples(st.integers(1, BURST_BYTES), st.integers(0, 3 * SECOND_NS)), min_size=1, max_size=30
)


def alone(rate: int, link: int = 0) -> tuple[Link, Share]:
    share, way_out = Share(rate), Link(link, 0)
    way_out.join(share, 0)
    return way_out, share


@given(rates, st.sampled_from((0, 1, 2)), frames)
def test_in_any_time_no_more_goes_than_rate_times_time_and_a_burst(
    rate: int, times: int, sizes: list[tuple[int, int]]
) -> None:
    link, share = alone(rate, times * rate)
    now_ns, passed = 0, [(0, 0)]
    for size, idle_ns in sizes:
        now_ns += idle_ns
        while lacking_ns := link.take(share, size, now_ns):
            now_ns += lacking_ns
        passed.append((now_ns, size))
    check_rate(passed, rate)


def check_rate(passed: Sequence[tuple[int, int]], rate: int, bursts: int = 1) -> None:
    """In any time, of what passed when: no more than that."""
    for first, (begin_ns, _) in enumerate(passed):
        sums = accumulate(size for _, size in passed[first:])
        for (at_ns, _), sent in zip(passed[first:], sums, strict=True):
            allowed = rate * (at_ns - begin_ns) + bursts * BURST_BYTES * SECOND_NS
            assert sent * SECOND_NS <= allowed


@given(rates, frames)
def test_a_frame_waits_exactly_as_long_as_it_is_told(
    rate: int, sizes: list[tuple[int, int]]
) -> None:
    """So it is never later than the rate asks for: what is allowed is used."""
    now_ns = 0
    link, share = alone(rate)
    for size, idle_ns in sizes:
        now_ns += idle_ns
        lacking_ns = link.take(share, size, now_ns)
        if lacking_ns:
            assert link.take(share, size, now_ns + lacking_ns - 1) == 1
            assert link.take(share, size, now_ns + lacking_ns) == 0
            now_ns += lacking_ns


@given(rates, rates)
def test_another_rate_goes_at_once(before: int, after: int) -> None:
    link, share = alone(before)
    assert link.take(share, BURST_BYTES, 0) == 0
    assert link.take(share, BURST_BYTES, 0) == -(-BURST_BYTES * SECOND_NS // before)
    link.set_cap(share, after, 0)
    assert link.take(share, BURST_BYTES, 0) == -(-BURST_BYTES * SECOND_NS // after)
    link.set_cap(share, 0, 0)
    assert link.take(share, 10**15, 0) == 0


def test_a_frame_beyond_the_burst_goes_and_what_follows_waits_for_it() -> None:
    link, share = alone(1000)
    assert link.take(share, BURST_BYTES + 1000, 0) == 0
    assert link.take(share, 1, 0) == SECOND_NS + 1_000_000


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


@dataclass
class Migration:
    """One that has frames of a size to send, each some time after the one before: none, if it only
    waits for the link.
    """

    share: Share
    size: int
    pause_ns: int
    asks_ns: int = 0
    passed: list[tuple[int, int]] = field(default_factory=list)

    @property
    def is_eager(self) -> bool:
        return self.pause_ns == 0

    def ask(self, link: Link) -> None:
        lacking_ns = link.take(self.share, self.size, self.asks_ns)
        if not lacking_ns:
            self.passed.append((self.asks_ns, self.size))
        self.asks_ns += lacking_ns or self.pause_ns


def played(link: Link, migrations: Sequence[Migration], until_ns: int) -> None:
    """Let each ask when it wants to, in the order of time."""
    for migration in migrations:
        link.join(migration.share, 0)
    while (first := min(migrations, key=lambda each: each.asks_ns)).asks_ns <= until_ns:
        first.ask(link)


LINK = 120_000_000
PLAYED_NS = SECOND_NS
some_migrations = st.lists(
    st.builds(
        Migration,
        st.builds(Share, st.just(0) | st.integers(1_000_000, LINK)),
        st.integers(BURST_BYTES // 4, BURST_BYTES),
        st.just(0) | st.integers(1_000_000, SECOND_NS),
    ),
    min_size=1,
    max_size=5,
)


@given(some_migrations)
@settings(max_examples=60)
def test_what_one_does_not_use_the_others_have(migrations: list[Migration]) -> None:
    """Under no order of asking is the link over its rate or one over its cap. Who always wants more
    has its fair share at least; and where one does that has no cap, nothing of the link is left.
    """
    played(Link(LINK, 0), migrations, PLAYED_NS)
    every = sorted(each for migration in migrations for each in migration.passed)
    check_rate(every, LINK, len(migrations))
    fair = fair_shares([each.share.cap for each in migrations], LINK)
    slack = BURST_BYTES + 1
    for migration, part in zip(migrations, fair, strict=True):
        if migration.share.cap:
            check_rate(migration.passed, migration.share.cap)
        if migration.is_eager:
            assert carried(migration) >= part * PLAYED_NS // SECOND_NS - slack
    if any(each.is_eager and not each.share.cap for each in migrations):
        assert sum(map(carried, migrations)) >= LINK * PLAYED_NS // SECOND_NS - slack


@given(some_migrations)
@settings(max_examples=60)
def test_what_is_lent_is_lent_fairly(migrations: list[Migration]) -> None:
    """Of two that always want more, the one with the higher cap has no less, and no more than its
    cap lets it.
    """
    played(Link(LINK, 0), migrations, PLAYED_NS)
    eager = sorted(
        (each for each in migrations if each.is_eager), key=lambda each: each.share.cap or LINK
    )
    for less, more in pairwise(eager):
        assert carried(less) <= carried(more) + 2 * BURST_BYTES
        if carried(more) > carried(less) + 2 * BURST_BYTES:
            assert carried(less) >= less.share.cap * PLAYED_NS // SECOND_NS - BURST_BYTES


def carried(migration: Migration) -> int:
    return sum(size for _, size in migration.passed)


def test_what_is_allowed_follows_what_others_use() -> None:
    link = Link(LINK, 0)
    eager, lazy = Migration(Share(0), BURST_BYTES, 0), Migration(Share(0), BURST_BYTES, PLAYED_NS)
    played(link, (eager, lazy), 3 * SPAN_NS)
    assert link.allowed(eager.share) == LINK
    assert link.allowed(lazy.share) == LINK // 2  # its own, should it want it
    new = Share(0)
    link.join(new, 3 * SPAN_NS)
    assert link.allowed(new) == LINK // 3
    assert link.allowed(eager.share) == LINK - LINK // 3
    link.set_cap(new, LINK // 10, 3 * SPAN_NS)
    assert (link.allowed(new), link.allowed(eager.share)) == (LINK // 10, LINK - LINK // 10)
    assert eager.share.least == LINK // 2  # when both had just begun


def test_a_bandwidth_is_read_as_it_is_written() -> None:
    assert parse_bandwidth("5Gbit") == 625_000_000
    assert parse_bandwidth("none") == 0
    for rate in (0, BANDWIDTH_MIN, 625_000_000):
        assert parse_bandwidth(format_bandwidth(rate)) == rate
    for text in ("999Kbit", "0Gbit", "fast", ""):
        with pytest.raises(InvalidInputError):
            parse_bandwidth(text)
