"""Runs are cut and spread so that every page goes out once, on its own connection."""

import tracemalloc

import numpy as np
import pytest
from direct_link import runs, runs_of_pages
from hypothesis import given
from hypothesis import strategies as st

from godwit.transfer.partition import blocks, check_runs, pieces_on, scattered
from godwit_protocol.bulk import CHUNK_PAGES, SCATTER_PAGES_MAX, connection_of_page
from godwit_protocol.errors import LocalProtocolError

EXTENTS = st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 1500)), max_size=6)


@given(extents=EXTENTS, connections=st.integers(1, 5))
def test_every_page_goes_once_and_on_its_own_connection(extents, connections):
    pages = sorted({p for first, count in extents for p in range(first, first + count)})
    whole = runs_of_pages(pages)
    came: list[int] = []
    for connection in range(connections):
        pieces = pieces_on(whole, connection, connections)
        for first, count in pieces.tolist():
            assert first // CHUNK_PAGES == (first + count - 1) // CHUNK_PAGES
            assert connection_of_page(first, connections) == connection
        for numbers in scattered(pieces):
            assert len(numbers) <= SCATTER_PAGES_MAX
            came += numbers.tolist()
    assert sorted(came) == pages


def test_blocks_are_bounded_and_whole():
    many = np.column_stack((np.arange(0, 300_000, 2), np.ones(150_000, np.int64)))
    parts = list(blocks(many))
    assert max(map(len, parts)) <= 1 << 14
    assert np.array_equal(np.concatenate(parts), many)


def test_planning_a_large_machine_takes_little_memory():
    """Every other page of 8 GiB dirty: a million runs, and a few megabytes to cut them."""
    first = np.arange(0, 1 << 21, 2)
    million = np.column_stack((first, np.ones_like(first)))
    tracemalloc.start()
    try:
        pages = sum(
            len(numbers)
            for block in blocks(million)
            for numbers in scattered(pieces_on(block, 0, 2))
        )
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert pages == 1 << 19
    assert peak_bytes < 4 << 20


@pytest.mark.parametrize("extent", [(-1, 1), (0, 0), (0, -1), (5, 6), (10, 1), (2**62, 2**62)])
def test_a_run_outside_its_region_is_refused(extent):
    with pytest.raises(LocalProtocolError):
        check_runs(runs((0, 3), extent), 10)


@pytest.mark.parametrize("wrong", [np.zeros((3, 3), np.int64), np.zeros((3, 2), np.int32)])
def test_runs_of_another_shape_are_refused(wrong):
    with pytest.raises(LocalProtocolError, match="int64"):
        check_runs(wrong, 10)
