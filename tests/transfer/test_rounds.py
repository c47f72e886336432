"""Whatever pages are sent, in whatever rounds, over however many connections: they arrive."""

import asyncio

import numpy as np
import pytest
from direct_link import Memory, direct, runs, runs_of_pages, work
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from godwit.transfer.partition import NO_RUNS
from godwit_protocol.bulk import CHUNK_PAGES, TOTALS_BYTES, RoundTotals
from godwit_protocol.errors import UnreachableError

SMALL_PAGES, LARGE_PAGES = 300, 3 * CHUNK_PAGES + 7
PAGE_SETS = st.tuples(
    st.sets(st.integers(0, SMALL_PAGES - 1), max_size=40),
    st.lists(st.tuples(st.integers(0, LARGE_PAGES - 1), st.integers(1, 700)), max_size=4),
)


def pages_in(extents: list[tuple[int, int]]) -> list[int]:
    return sorted({p for first, count in extents for p in range(first, first + count)})


@pytest.mark.parametrize("connections", [1, 2, 4])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rounds=st.lists(PAGE_SETS, min_size=1, max_size=3), zeros=st.sets(st.integers(0, 299)))
def test_memory_is_equal_after_any_rounds(connections, rounds, zeros):
    async def scenario() -> None:
        async with direct(connections, SMALL_PAGES, LARGE_PAGES) as link:
            small, large = link.here
            for number, (small_set, extents) in enumerate(rounds, 1):
                small_pages = sorted(small_set)
                large_pages = [p for p in pages_in(extents) if p < LARGE_PAGES]
                small.stamp(small_pages, number)
                large.stamp(large_pages, -number % 2**32)
                totals = await link.move(
                    number,
                    work(0, small, runs_of_pages(small_pages)),
                    work(1, large, runs_of_pages(large_pages)),
                )
                assert totals.pages == len(small_pages) + len(large_pages)
            zero_pages = sorted(zeros)
            small.pages[zero_pages] = 0
            await link.move(
                len(rounds) + 1, work(0, small, NO_RUNS, zero_runs=runs_of_pages(zero_pages))
            )
            for here, there in zip(link.here, link.there, strict=True):
                assert np.array_equal(here.pages, there.pages)

    asyncio.run(scenario())


async def test_a_round_with_no_pages_is_applied_too():
    async with direct(3, 8) as link:
        assert await link.move(1) == RoundTotals()
        assert await link.move(2, work(0, link.here[0], NO_RUNS)) == RoundTotals()


async def test_the_newest_copy_wins_although_the_source_never_waits():
    """Rounds go out back to back over several connections: an address keeps to one of them."""
    async with direct(4, 16 * CHUNK_PAGES) as link:
        memory = link.here[0]
        every_page = runs((0, len(memory.pages)))
        for number in range(1, 6):
            memory.pages[:, :8] = number
            await asyncio.to_thread(link.sender.send_round, number, [work(0, memory, every_page)])
            # Written after the kernel took it, as a guest does: the next round must cover it.
        await link.session.round_applied(5)
        assert np.array_equal(memory.pages, link.there[0].pages)


async def test_the_figures_of_a_round_say_what_it_carried():
    async with direct(2, 4 * CHUNK_PAGES) as link:
        memory = link.here[0]
        memory.stamp([0, 2, 4, *range(600, 700)], 1)
        to_send = runs((0, 1), (2, 1), (4, 1), (600, 100))
        sent = await asyncio.to_thread(
            link.sender.send_round, 1, [work(0, memory, to_send, runs((1024, 10)))]
        )
        applied = await link.session.round_applied(1)
        assert (sent.pages, sent.sent_bytes, sent.frames) == (113, 103 * 4096, 3)
        assert (applied.pages, applied.frames) == (113, 3)
        headers = 52 * (sent.frames + 2) + 2 * TOTALS_BYTES
        assert sent.wire_bytes == applied.payload_bytes + headers == link.sender.progress()
        assert sent.duration_ns > 0


async def test_a_large_sparse_region_stays_sparse():
    async with direct(2, 1 << 21) as link:  # 8 GiB
        memory, there = link.here[0], link.there[0]
        page_numbers = [0, 511, 512, 1 << 20, (1 << 21) - 1]
        memory.stamp(page_numbers, 1)
        before = there.resident_bytes
        await link.move(1, work(0, memory, runs_of_pages(page_numbers)))
        assert np.array_equal(there.pages[page_numbers], memory.pages[page_numbers])
        assert there.resident_bytes - before == len(page_numbers) * 4096
        assert memory.resident_bytes == len(page_numbers) * 4096


async def test_after_the_end_no_round_is_waited_for():
    async with direct(2, 8) as link:
        await link.move(1)
        await asyncio.to_thread(link.sender.end)
        with pytest.raises(UnreachableError, match="ended the link after 1 rounds"):
            await link.session.round_applied(2)
        assert await link.session.round_applied(1) == RoundTotals()
        assert link.session.failure is None


async def test_memory_may_be_released_once_the_session_is_closed():
    async with direct(1, 8) as link:
        kept: Memory = link.there.pop()
        await link.move(1, work(0, link.here[0], runs((0, 8))))
        await link.session.close()
        assert all(thread.is_alive() is False for thread in link.session._threads)
        assert kept.pages.shape == (8, 4096)
