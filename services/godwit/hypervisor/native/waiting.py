"""Hot leaves: pages that are written in every round, and may wait for the stun.

A leaf (64 KiB) is hot if it was written in two rounds one after the other. As many hot leaves as
may wait are taken out of a round, each with all of its dirty pages; they stay dirty until they are
sent, at the latest in the stun, whether or not they are written again. Those that have waited
before come first, as long as they are hot. Knows neither who tracks nor who sends, nor why so many
may wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from godwit.transfer.sent_leaves import LEAF_PAGES, pages_by_leaf
from godwit_protocol.machine import PAGE_BYTES

from .dirty import intersection
from .memory import NO_RUNS, Runs

LEAVES_AT_ONCE: Final = 1 << 20
_NOTHING: Final = 0


class Parted(NamedTuple):
    """A round's dirty pages: one ``Runs`` a region to send, and how many bytes wait."""

    to_send: list[Runs]
    waiting_bytes: int


class Dirty(NamedTuple):
    """What is dirty at a round's end, and how much of it in hot leaves."""

    total_bytes: int
    hot_bytes: int


class WaitingPages:
    """Which pages wait. What it costs does not grow with them, nor with what is dirty; not
    thread-safe.
    """

    def __init__(self, region_pages: Sequence[int]) -> None:
        self._regions = [_Region(pages) for pages in region_pages]

    def part(self, found: Sequence[Runs], wait_bytes_max: int) -> Parted:
        """Part what a scan has found at the beginning of a round, and all that has waited. Not for
        the first round, which has all pages, written or not.

        Returns what is to be sent, of which nothing waits any more, and how much still does.
        """
        waiting, to_send = 0, []
        for region, runs in zip(self._regions, found, strict=True):
            sending, held_back = region.part(runs, wait_bytes_max // PAGE_BYTES - waiting)
            to_send.append(sending)
            waiting += held_back
        return Parted(to_send, waiting * PAGE_BYTES)

    def dirty(self, looked: Sequence[Runs]) -> Dirty:
        """What waits and what a look has found at the round's end, each page once."""
        counts = [r.dirty(runs) for r, runs in zip(self._regions, looked, strict=True)]
        total, hot = map(sum, zip(*counts, strict=True))
        return Dirty(total * PAGE_BYTES, hot * PAGE_BYTES)


class _Region:
    """One region's share. ``_found``: the leaves that the last scan found dirty.

    It takes some bytes a leaf and a run, and none a page: all of a machine may be dirty.
    """

    def __init__(self, pages: int) -> None:
        self._leaf_count = -(-pages // LEAF_PAGES)
        self._found = np.zeros(self._leaf_count, np.bool_)
        self._waiting = NO_RUNS

    def part(self, found: Runs, budget: int) -> tuple[Runs, int]:
        before, self._found = self._found, self._counts(found) > 0
        dirty = _union(found, self._waiting)
        if budget <= 0:  # as in the stun
            self._waiting = NO_RUNS
            return dirty, _NOTHING
        waited = self._counts(self._waiting) > 0
        chosen = _chosen(before & self._found, waited, self._counts(dirty), budget)
        self._waiting = _within(dirty, chosen)
        return _within(dirty, ~chosen), _pages_of(self._waiting)

    def dirty(self, looked: Runs) -> tuple[int, int]:
        counts = self._counts(looked)
        hot, dirty = self._found & (counts > 0), looked
        if len(self._waiting):
            dirty = _union(looked, self._waiting)
            counts = self._counts(dirty)
        return _pages_of(dirty), int(np.sum(counts, where=hot, dtype=np.int64))

    def _counts(self, runs: Runs) -> NDArray[np.uint8]:
        return pages_by_leaf(runs, self._leaf_count)


def _chosen(
    hot: NDArray[np.bool_], waited: NDArray[np.bool_], counts: NDArray[np.uint8], budget: int
) -> NDArray[np.bool_]:
    """Of the hot leaves, as many as fit: first those that have waited."""
    chosen = np.zeros_like(hot)
    for some in (hot & waited, hot & ~waited):
        for at in range(0, len(hot), LEAVES_AT_ONCE):
            part = slice(at, at + LEAVES_AT_ONCE)
            taken = np.where(some[part], counts[part], 0)
            total = int(taken.sum(dtype=np.int64))
            if total > budget:
                chosen[part] |= some[part] & (np.cumsum(taken, dtype=np.int64) <= budget)
                return chosen
            chosen[part] |= some[part]
            budget -= total
    return chosen


def _pages_of(runs: Runs) -> int:
    return int(runs[:, 1].sum())


def _within(runs: Runs, leaves: NDArray[np.bool_]) -> Runs:
    """The pages of ``runs`` that are in these leaves."""
    edges = np.flatnonzero(np.diff(leaves, prepend=False, append=False)).reshape(-1, 2) * LEAF_PAGES
    return intersection(runs, np.column_stack((edges[:, 0], edges[:, 1] - edges[:, 0])))


def _union(left: Runs, right: Runs) -> Runs:
    """The pages that are in either; each of the two is ascending and without overlaps."""
    if not len(right):
        return left
    both = np.concatenate((left, right))
    both = both[np.argsort(both[:, 0], kind="stable")]
    ends = np.maximum.accumulate(both.sum(axis=1))
    begins = np.flatnonzero(np.append(True, both[1:, 0] > ends[:-1]))
    starts, lasts = both[begins, 0], np.append(begins[1:], len(both)) - 1
    return np.column_stack((starts, ends[lasts] - starts))
