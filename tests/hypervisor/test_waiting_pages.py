"""Hot leaves wait, within their budget, and nothing that waited is forgotten."""

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from writer_process import Compared, Kernel, WriterProcess, empty_like, pages_of

from godwit.hypervisor.native.memory import runs_of
from godwit.hypervisor.native.waiting import WaitingPages
from godwit.transfer.sent_leaves import LEAF_PAGES
from godwit_protocol.machine import PAGE_BYTES

SIZES = (6 * LEAF_PAGES + 5, 20)
LOTS = 2**40


def runs(*extents):
    return runs_of(extents)


def test_what_was_written_in_two_rounds_waits_and_goes_in_the_end():
    waiting = WaitingPages((100, 10))
    nothing = runs()
    assert waiting.part([runs((0, 3), (40, 1)), nothing], LOTS).waiting_bytes == 0
    assert waiting.dirty([runs((1, 2), (90, 1)), runs((0, 1))]) == (4 * PAGE_BYTES, 2 * PAGE_BYTES)
    to_send, waits = waiting.part([runs((1, 2), (90, 1)), runs((0, 1))], LOTS)
    assert waits == 2 * PAGE_BYTES
    assert [r.tolist() for r in to_send] == [[[90, 1]], [[0, 1]]]
    # Not written again: it is no longer hot, and still dirty.
    assert waiting.dirty([nothing, nothing]) == (2 * PAGE_BYTES, 0)
    to_send, waits = waiting.part([nothing, nothing], LOTS)
    assert (waits, to_send[0].tolist()) == (0, [[1, 2]])
    assert waiting.dirty([nothing, nothing]) == (0, 0)


def test_a_budget_takes_whole_leaves_and_first_those_that_have_waited():
    waiting = WaitingPages((100,))
    two_leaves = runs((0, 10), (64, 10))
    waiting.part([runs((64, 10))], 0)
    to_send, waits = waiting.part([two_leaves], 10 * PAGE_BYTES)
    assert (waits, to_send[0].tolist()) == (10 * PAGE_BYTES, [[0, 10]])
    to_send, waits = waiting.part([two_leaves], 15 * PAGE_BYTES)
    assert (waits, to_send[0].tolist()) == (10 * PAGE_BYTES, [[0, 10]])
    to_send, waits = waiting.part([two_leaves], 9 * PAGE_BYTES)
    assert (waits, to_send[0].tolist()) == (0, [[0, 10], [64, 10]])


PAGES = st.sets(st.integers(0, SIZES[0] - 1), max_size=20)


@given(st.lists(st.tuples(PAGES, st.integers(0, 40)), max_size=12))
def test_each_dirty_page_is_sent_or_waits(rounds):
    waiting, waits = WaitingPages(SIZES), set()
    for found, budget in rounds:
        dirty = found | waits
        looked = [runs(*((page, 1) for page in sorted(found))), runs()]
        assert waiting.dirty(looked).total_bytes == len(dirty) * PAGE_BYTES
        to_send, waiting_bytes = waiting.part(looked, budget * PAGE_BYTES)
        waits = dirty - pages_of(to_send[0])
        assert pages_of(to_send[0]) <= dirty
        assert len(waits) * PAGE_BYTES == waiting_bytes <= budget * PAGE_BYTES
        sent_leaves = {page // LEAF_PAGES for page in pages_of(to_send[0])}
        assert not sent_leaves & {page // LEAF_PAGES for page in waits}, "a leaf was torn apart"


EXTENTS = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 60)), max_size=12)
"""Pages between, and pages: runs of less than a leaf, and of several."""
LARGE = 40 * LEAF_PAGES


def laid_out(extents):
    page, found = 0, []
    for gap, count in extents:
        page += gap
        if page + count <= LARGE:
            found.append((page, count))
        page += count
    return runs(*found)


def leaves_of(pages):
    return {page // LEAF_PAGES for page in pages}


@given(st.lists(st.tuples(EXTENTS, st.integers(0, 300)), max_size=8))
def test_pages_are_counted_by_where_their_runs_begin_and_end(rounds):
    """As if each were looked at: what is hot, what waits, and what is sent."""
    waiting, waits, before = WaitingPages([LARGE]), set(), set()
    for extents, budget in rounds:
        looked = laid_out(extents)
        now = pages_of(looked)
        dirty, hot_leaves = now | waits, before & leaves_of(now)
        hot = {page for page in dirty if page // LEAF_PAGES in hot_leaves}
        assert waiting.dirty([looked]) == (len(dirty) * PAGE_BYTES, len(hot) * PAGE_BYTES)
        to_send, waiting_bytes = waiting.part([looked], budget * PAGE_BYTES)
        sent = pages_of(to_send[0])
        assert sum(count for _, count in to_send[0].tolist()) == len(sent), "one was sent twice"
        expected, left = set(), budget
        for leaf in sorted(hot_leaves, key=lambda leaf: (leaf not in leaves_of(waits), leaf)):
            pages = {page for page in dirty if page // LEAF_PAGES == leaf}
            left -= len(pages)
            expected |= pages if left >= 0 else set()
        assert dirty - sent == expected
        assert waiting_bytes == len(expected) * PAGE_BYTES
        waits, before = expected, leaves_of(now)


def test_what_is_remembered_does_not_grow_with_what_is_dirty():
    """80 GiB, all of it dirty: a byte a page would be 20 MiB, and there were 24."""
    pages = 80 * 2**30 // PAGE_BYTES
    whole = [runs((0, pages))]
    waiting = WaitingPages([pages])
    tracemalloc.start()
    try:
        waiting.part(whole, 0)
        assert waiting.dirty(whole) == (pages * PAGE_BYTES, pages * PAGE_BYTES)
        waiting.part(whole, 0)
        counting = tracemalloc.get_traced_memory()[1]
        to_send, waits = waiting.part(whole, 2**30)
        assert waits == 2**30
        assert to_send[0].tolist() == [[2**18, pages - 2**18]]
        assert waiting.dirty(whole) == (pages * PAGE_BYTES, pages * PAGE_BYTES)
        choosing = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert counting < pages / 2
    assert choosing < 2 * pages


@pytest.fixture(scope="module")
def writer():
    process = WriterProcess()
    yield process
    process.close()


@st.composite
def writes(draw):
    region = draw(st.integers(0, len(SIZES) - 1))
    page = draw(st.integers(0, SIZES[region] - 1))
    return ("store", region, page, draw(st.integers(1, min(20, SIZES[region] - page))))


@pytest.mark.parametrize("way", [Kernel, Compared])
@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.lists(writes(), max_size=4), st.integers(0, 60)), max_size=8))
def test_the_copy_is_equal_whatever_waited(writer, way, rounds):
    memory = writer.allocate(*SIZES)
    source, replica = way(writer.process.pid, memory), empty_like(memory)
    waiting = WaitingPages(SIZES)
    source.send(replica, source.tracker.arm())
    for stores, budget in [*rounds, ([], 0)]:
        for store in stores:
            writer.do(*store)
        source.send(replica, waiting.part(source.tracker.scan(), budget * PAGE_BYTES).to_send)
    assert replica.digests() == memory.digests()
    assert waiting.dirty(source.tracker.look()) == (0, 0)
    source.tracker.close()
    memory.close()
    replica.close()
