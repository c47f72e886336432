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

from godwit.transfer.partition import numbers_in
from godwit.transfer.sent_leaves import LEAF_PAGES
from godwit_protocol.machine import PAGE_BYTES

from .memory import NO_RUNS, Runs

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
    """Which pages wait. Costs nothing a page while none does, else 1 byte; not thread-safe."""

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
    """One region's share. ``_found``: the leaves that the last scan found dirty."""

    def __init__(self, pages: int) -> None:
        self._pages = pages
        self._found = np.zeros(-(-pages // LEAF_PAGES), np.bool_)
        self._waiting: NDArray[np.bool_] | None = None

    def part(self, found: Runs, budget: int) -> tuple[Runs, int]:
        before, self._found = self._found, self._leaves(found)
        if self._waiting is None and budget <= 0:
            return found, _NOTHING
        dirty = numbers_in(self._with_waiting(found))
        hot = dirty[(before & self._found)[dirty // LEAF_PAGES]]
        waiting = self._chosen(hot, budget)
        self._waiting = self._mask(waiting) if len(waiting) else None
        sending = dirty if self._waiting is None else dirty[~self._waiting[dirty]]
        return _runs_in(sending), len(waiting)

    def dirty(self, looked: Runs) -> tuple[int, int]:
        dirty = self._with_waiting(looked)
        in_hot = (self._found & self._leaves(looked))[numbers_in(dirty) // LEAF_PAGES]
        return int(dirty[:, 1].sum()), int(in_hot.sum())

    def _chosen(self, hot: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
        """Pages of whole leaves, as many as fit."""
        if len(hot) <= budget:
            return hot
        leaves, first, counts = np.unique(hot // LEAF_PAGES, return_index=True, return_counts=True)
        waited = np.zeros(len(leaves), np.bool_)
        if self._waiting is not None:
            waited = np.logical_or.reduceat(self._waiting[hot], first)
        order = np.argsort(~waited, kind="stable")
        fits = np.zeros(len(leaves), np.bool_)
        fits[order] = np.cumsum(counts[order]) <= budget
        return hot[np.repeat(fits, counts)]

    def _with_waiting(self, runs: Runs) -> Runs:
        if self._waiting is None:
            return runs
        either = self._waiting.copy()
        either[numbers_in(runs)] = True
        return _runs_in(np.flatnonzero(either))

    def _leaves(self, runs: Runs) -> NDArray[np.bool_]:
        leaves = np.zeros_like(self._found)
        leaves[numbers_in(runs) // LEAF_PAGES] = True
        return leaves

    def _mask(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        mask = np.zeros(self._pages, np.bool_)
        mask[numbers] = True
        return mask


def _runs_in(numbers: NDArray[np.int64]) -> Runs:
    """Ascending page numbers as runs."""
    if not len(numbers):
        return NO_RUNS
    begins = np.flatnonzero(np.diff(numbers, prepend=-2) != 1)
    counts = np.diff(begins, append=len(numbers))
    return np.column_stack((numbers[begins], counts))
