"""Nothing is lost however looks, sends and writes fall between each other."""

import asyncio
import tracemalloc

import numpy as np
import pytest
from direct_link import DEADLINE_S, Memory, direct, runs_of_pages, work
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from godwit.transfer.keyed_digest import KEY_BYTES
from godwit.transfer.partition import PageView
from godwit.transfer.rewritten import RewrittenPages
from godwit.transfer.sent_leaves import LEAF_PAGES, SentLeaves, pages_by_leaf

PAGES = 2 * LEAF_PAGES + 3
LEAVES = 3
ALL = np.array([[0, PAGES]])
WRITES = st.lists(st.tuples(st.integers(0, PAGES - 1), st.integers(0, 2)), max_size=3)


class Racing:
    """Memory that is written between any two pages that are read of it."""

    def __init__(self, bursts: list[list[tuple[int, int]]]) -> None:
        self.pages: PageView = np.zeros((PAGES, 4096), np.uint8)
        self._bursts = iter(bursts)

    def read(self, page: int) -> PageView:
        for written, value in next(self._bursts, []):
            self.pages[written] = value
        return self.pages[page].copy()


@settings(max_examples=150, deadline=None)
@given(st.lists(WRITES, max_size=120), st.integers(1, 5), st.randoms(use_true_random=False))
def test_in_bytes_no_interleaving_loses_a_write(bursts, rounds, chance):
    """Looks and sends read page by page, in any order, and the guest writes between any two."""
    memory, there = Racing(bursts), np.zeros((PAGES, 4096), np.uint8)
    leaves = SentLeaves((PAGES,), bytes(KEY_BYTES))

    def send(differs: np.ndarray) -> None:
        numbers = [page for page in range(PAGES) if differs[page // LEAF_PAGES]]
        leaves.begin(0, runs_of_pages(numbers))
        for page in chance.sample(numbers, len(numbers)):
            copy = memory.read(page)[np.newaxis]
            leaves.add(0, np.array([page]), copy)
            there[page] = copy

    for _ in range(rounds):
        torn = np.stack([memory.read(page) for page in range(PAGES)])
        send(leaves.differing(0, torn, ALL))
        assert not leaves.differing(0, there, ALL).any(), "the table is not what is there"
    while next(memory._bursts, None) is not None:
        memory.read(0)
    send(leaves.differing(0, memory.pages, ALL))  # the stun: nobody writes any more
    assert np.array_equal(memory.pages, there)


@given(st.lists(st.tuples(st.integers(0, 3 * LEAF_PAGES), st.integers(1, 3 * LEAF_PAGES))))
def test_leaves_are_told_from_where_runs_begin_and_end(gaps_and_counts):
    page, numbers = 0, []
    for gap, count in gaps_and_counts:
        numbers += range(page + gap, page + gap + count)
        page += gap + count
    leaf_count = page // LEAF_PAGES + 1
    counted = np.bincount(np.array(numbers, int) // LEAF_PAGES, minlength=leaf_count)
    assert pages_by_leaf(runs_of_pages(numbers), leaf_count).tolist() == counted.tolist()


def test_what_is_begun_takes_no_memory_a_page():
    """8 GiB, all of it to be sent: the page numbers alone would be 16 MiB, and there were three."""
    pages = 8 * 2**30 // 4096
    leaves = SentLeaves((pages,), bytes(KEY_BYTES))
    leaves._sent[0][:] = 1
    tracemalloc.start()
    try:
        leaves.begin(0, np.array([[0, pages]]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not leaves._sent[0].any()
    assert peak < pages


class WritesWhileSending:
    """A guest that writes whenever a frame is about to go out."""

    bytes_per_second = 0

    def __init__(self, bursts: list[list[tuple[int, int]]]) -> None:
        self.memory: Memory | None = None
        self._bursts = iter(bursts)

    def take(self, _byte_count: int) -> None:
        assert self.memory is not None
        for page, value in next(self._bursts, []):
            self.memory.pages[page] = value

    def lift(self) -> None:
        """There is nothing to let pass."""


@pytest.mark.parametrize("remembers", [True, False])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(WRITES, max_size=20), st.booleans(), st.booleans())
def test_on_the_wire_no_write_is_lost(remembers, bursts, digested, zeros):
    """Whatever else is left out: zeros, and pages that hold what was sent."""
    pacer = WritesWhileSending(bursts)
    leaves = SentLeaves((PAGES,))

    async def scenario() -> None:
        async with direct(
            1, PAGES, digested=digested, pacer=pacer, omit_zeros=zeros, leaves=leaves
        ) as link:
            link.sender._rewritten = AlwaysSought((PAGES,)) if remembers else None
            here, there = link.here[0], link.there[0]
            pacer.memory = here
            for number in range(1, 5):
                differs = np.repeat(leaves.differing(0, here.pages, ALL), LEAF_PAGES)[:PAGES]
                to_send = runs_of_pages(np.flatnonzero(differs).tolist())
                async with asyncio.timeout(DEADLINE_S):
                    await link.move(number, work(0, here, to_send))
                assert not leaves.differing(0, there.pages, ALL).any()
            pacer.take = lambda _byte_count: None
            differs = np.repeat(leaves.differing(0, here.pages, ALL), LEAF_PAGES)[:PAGES]
            await link.move(5, work(0, here, runs_of_pages(np.flatnonzero(differs).tolist())))
            assert np.array_equal(here.pages, there.pages)

    asyncio.run(scenario())


class AlwaysSought(RewrittenPages):
    """Looking always pays."""

    def is_sought(self, round_number: int, *, in_stun: bool) -> bool:
        return True

    def judge(self, **_figures: int) -> None:
        pass
