"""Compression is chosen only where it is faster than the link, by what was measured."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from godwit_protocol.compression import (
    METHODS,
    WORTH_SHARE,
    Compression,
    CompressionPolicy,
    Sample,
    Spent,
    agreed,
    choose,
    has_paid,
    is_hopeless,
    link_rate,
    time_share,
)

MIB = 1 << 20
SECOND_NS = 1_000_000_000


@st.composite
def samples(draw: st.DrawFn) -> list[Sample]:
    return [
        Sample(method, MIB, draw(st.integers(1, MIB + 9)), draw(st.integers(1, SECOND_NS)))
        for method in draw(st.lists(st.sampled_from(METHODS), unique=True))
    ]


LINKS = st.floats(1e4, 1e12)
THREADS = st.integers(1, 64)


@given(samples(), LINKS, THREADS)
def test_what_is_chosen_is_faster_even_if_nothing_overlaps(
    tried: list[Sample], link: float, threads: int
) -> None:
    method = choose(tried, link, threads)
    shares = {sample.method: time_share(sample, link, threads) for sample in tried}
    if method is Compression.NONE:
        assert all(share > WORTH_SHARE for share in shares.values())
        return
    assert shares[method] == min(shares.values()) <= WORTH_SHARE
    (sample,) = [each for each in tried if each.method is method]
    plain_s = sample.raw_bytes / link
    packed_s = sample.packed_bytes / link + sample.work_ns / SECOND_NS / threads
    assert packed_s <= plain_s


@given(samples(), LINKS, THREADS)
def test_nothing_is_chosen_on_a_link_that_is_faster_than_every_compressor(
    tried: list[Sample], link: float, threads: int
) -> None:
    assume(all(each.raw_bytes / each.work_ns * SECOND_NS * threads <= link for each in tried))
    assert choose(tried, link, threads) is Compression.NONE


@given(samples(), LINKS, THREADS, st.floats(0.001, 1.0))
def test_what_pays_on_a_link_pays_on_a_slower_one(
    tried: list[Sample], link: float, threads: int, part: float
) -> None:
    assume(choose(tried, link, threads) is not Compression.NONE)
    assert choose(tried, link * part, threads) is not Compression.NONE


@given(samples(), LINKS, THREADS, st.integers(0, SECOND_NS))
def test_a_slower_method_cannot_pay_where_a_faster_one_is_hopeless(
    tried: list[Sample], link: float, threads: int, more_ns: int
) -> None:
    for sample in tried:
        if is_hopeless(sample, link, threads):
            slower = sample._replace(packed_bytes=1, work_ns=sample.work_ns + more_ns)
            assert choose([sample, slower], link, threads) is Compression.NONE


def test_memory_that_does_not_become_smaller_is_never_compressed() -> None:
    assert choose([Sample(Compression.LZ4, MIB, MIB, 1)], 1.0, 64) is Compression.NONE


@given(
    st.integers(1, 10**12), st.integers(0, 10**12), LINKS, st.integers(1, 64), st.integers(1, 10**6)
)
def test_it_has_paid_if_the_threads_were_through_sooner(
    wire: int, saved: int, link: float, connections: int, step_ns: int
) -> None:
    plain_ns = int(connections * (wire + saved) / link * 1e9)
    sending_ns = plain_ns // 2
    packing_ns = plain_ns - sending_ns
    paid = Spent(wire, saved, sending_ns, 0, packing_ns)
    assert has_paid(paid, link, connections)
    assert not has_paid(paid._replace(paced_ns=step_ns + plain_ns // 1000 + 1), link, connections)


@given(st.integers(1, 10**12), st.integers(1, 10**12), st.integers(1, 64))
def test_the_links_rate_is_what_went_out_while_the_sockets_were_busy(
    wire: int, sending_ns: int, connections: int
) -> None:
    """Each of the connections was in its socket for that part of the time."""
    spent = Spent(wire, 0, sending_ns * connections, paced_ns=7, packing_ns=9)
    assert link_rate(spent, connections) == pytest.approx(wire / sending_ns * 1e9)
    assert link_rate(Spent(wire), connections) == 0.0


def test_spans_are_differences_of_sums() -> None:
    first, second = Spent(1, 2, 3, 4, 5), Spent(10, 20, 30, 40, 50)
    assert Spent.sum([first, second]).less(first) == second
    assert Spent.sum([]) == Spent()


@pytest.mark.parametrize(
    ("policy", "offered", "methods"),
    [
        (CompressionPolicy.AUTO, ["zstd", "lz4"], METHODS),
        (CompressionPolicy.AUTO, ["lz4", "brotli"], (Compression.LZ4,)),
        (CompressionPolicy.AUTO, [], ()),
        (CompressionPolicy.OFF, ["zstd", "lz4"], ()),
        (CompressionPolicy.ZSTD, ["zstd", "lz4"], (Compression.ZSTD,)),
        (CompressionPolicy.LZ4, ["zstd"], ()),
        (CompressionPolicy.AUTO, ["none"], ()),
    ],
)
def test_both_hosts_must_allow_a_method(
    policy: CompressionPolicy, offered: list[str], methods: tuple[Compression, ...]
) -> None:
    """A destination of before compression offers nothing."""
    assert agreed(policy, offered) == methods
