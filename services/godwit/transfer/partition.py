"""Which pages travel how: runs of pages cut, sorted and spread over connections, with numpy.

Every function works on whole arrays: no Python object a page, none a short run. Knows nothing of
sockets or frames but the two borders that the frames have (a chunk, a scatter).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from godwit_protocol.bulk import CHUNK_PAGES, SCATTER_PAGES_MAX
from godwit_protocol.errors import LocalProtocolError

PageView: TypeAlias = NDArray[np.uint8]
"""A whole region: uint8, shape (pages, page bytes), contiguous."""
Runs: TypeAlias = NDArray[np.int64]
"""Disjoint runs of pages of one region: int64, shape (n, 2), of (first page, page count)."""

NO_RUNS: Final[Runs] = np.empty((0, 2), dtype=np.int64)

LONG_RUN_PAGES: Final = 16
"""From here on a run is a frame of its own; shorter ones are gathered. Below it, the system calls
of a frame cost more than copying its pages once."""
_BATCH_PAGES: Final = 2048
"""Pages that are looked through for zeros at a time: a gathered copy is 8 MiB at most."""
_BLOCK_RUNS: Final = 1 << 14
"""Runs that are cut at a time, so that a machine of any size takes a few megabytes to plan."""


def blocks(runs: Runs) -> Iterator[Runs]:
    """``runs`` in order, a bounded number at a time."""
    for start in range(0, len(runs), _BLOCK_RUNS):
        yield runs[start : start + _BLOCK_RUNS]


def check_runs(runs: Runs, region_pages: int) -> None:
    """Raise ``LocalProtocolError`` unless every run has a page and lies in the region."""
    if runs.ndim != 2 or runs.shape[1] != 2 or runs.dtype != np.int64:
        raise LocalProtocolError(f"runs are int64 of shape (n, 2), not {runs.dtype} {runs.shape}")
    first, count = runs[:, 0], runs[:, 1]
    if np.any(first < 0) or np.any(count < 1) or np.any(first > region_pages - count):
        raise LocalProtocolError(f"a run does not lie in its region of {region_pages} pages")


def pieces_on(runs: Runs, connection: int, connections: int) -> Runs:
    """The pages of ``runs`` that travel on ``connection``, as runs that cross no chunk's border."""
    first, end = runs[:, 0], runs[:, 0] + runs[:, 1]
    first_chunk = first // CHUNK_PAGES
    piece_counts = (end - 1) // CHUNK_PAGES - first_chunk + 1
    chunk = np.repeat(first_chunk, piece_counts) + _positions_within(piece_counts)
    mine = chunk % connections == connection
    chunk = chunk[mine]
    piece_first = np.maximum(np.repeat(first, piece_counts)[mine], chunk * CHUNK_PAGES)
    piece_end = np.minimum(np.repeat(end, piece_counts)[mine], (chunk + 1) * CHUNK_PAGES)
    return np.column_stack((piece_first, piece_end - piece_first))


def scattered(pieces: Runs) -> Iterator[NDArray[np.int64]]:
    """The page numbers of ``pieces``, in order, at most ``SCATTER_PAGES_MAX`` at a time."""
    numbers = numbers_in(pieces)
    for start in range(0, len(numbers), SCATTER_PAGES_MAX):
        yield numbers[start : start + SCATTER_PAGES_MAX]


def batches(pieces: Runs) -> Iterator[Runs]:
    """``pieces`` in order, about ``_BATCH_PAGES`` pages at a time."""
    group = np.cumsum(pieces[:, 1]) // _BATCH_PAGES
    return iter(np.split(pieces, np.flatnonzero(np.diff(group)) + 1))


def split_zeros(pages: PageView, pieces: Runs) -> tuple[Runs, Runs]:
    """``pieces`` that cross no chunk's border, in two: pages with something, and zero pages.

    One word of each page is read; all of it only where that is zero.
    """
    numbers = numbers_in(pieces)
    words = pages.view(np.uint64)
    suspects = np.flatnonzero(words[numbers, 0] == 0)
    is_zero = np.zeros(len(numbers), np.bool_)
    is_zero[suspects] = ~words[numbers[suspects]].any(axis=1)
    if not is_zero.any():
        return pieces, NO_RUNS
    return pieces_of(numbers[~is_zero]), pieces_of(numbers[is_zero])


def numbers_in(pieces: Runs) -> NDArray[np.int64]:
    """The page numbers of ``pieces``, in order."""
    counts = pieces[:, 1]
    return np.repeat(pieces[:, 0], counts) + _positions_within(counts)


def pieces_of(numbers: NDArray[np.int64]) -> Runs:
    """The longest runs of ``numbers``, in their order, that cross no chunk's border."""
    apart = (np.diff(numbers, prepend=-2) != 1) | (numbers % CHUNK_PAGES == 0)
    begins = np.flatnonzero(apart)
    return np.column_stack((numbers[begins], np.diff(begins, append=len(numbers))))


def _positions_within(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """For counts (2, 3): (0, 1, 0, 1, 2)."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total, dtype=np.int64) - np.repeat(ends - counts, counts)
