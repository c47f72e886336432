"""What the destination holds of each leaf, by its digest: which leaves must be sent is asked of it.

A leaf is 64 KiB. Its digest here is always of the very bytes that were sent, page by page as they
go out, and at first of zeros, as the destination's memory is. So the table does not say what the
memory was at some instant, but what is there at the other end; and a leaf whose bytes have another
digest has not got there, whoever wrote it, whenever, and whether or not it was being written while
it was read or sent:

- A leaf that is sent while it is written may arrive as no instant has seen it. Its digest is of
  what arrives, so it differs from what the guest has made of it.
- A leaf that is looked at while it is written may by chance have the digest that stands in the
  table, though it is something else afterwards. The next look sees that. The last look is in the
  stun: nobody writes then, and what it finds the same is the same.

It would be wrong to enter what the memory held when it was looked at, a moment before it is sent: A
is found, B is sent, A is written again, and B stays at the other end for ever.

Knows neither connections nor rounds, nor who asks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray

from godwit_protocol.bulk import CHUNK_PAGES
from godwit_protocol.machine import PAGE_BYTES

from .keyed_digest import KEY_BYTES, SUMS, Digests, KeyedDigest
from .partition import PageView, Runs, blocks, pieces_on

LEAF_PAGES: Final = 16
LEAF_BYTES: Final = LEAF_PAGES * PAGE_BYTES
LEAVES_AT_ONCE: Final = 1 << 20
"""That are begun at a time, so that a machine of any size takes a few megabytes."""
THREADS_MAX: Final = 4
"""That look through a region together. More than this a host's memory hardly feeds."""

assert CHUNK_PAGES % LEAF_PAGES == 0, (
    "a leaf travels on one connection, and is looked at by one thread"
)


class SentLeaves:
    """Digests of all leaves of a machine, 256 KiB a GiB.

    ``begin`` comes before a round; within it ``add`` may be called by several threads, each for
    leaves that no other has. ``differing`` is asked between rounds.
    """

    def __init__(self, region_pages: Sequence[int], key: bytes | None = None) -> None:
        """``region_pages``: size of each region in pages. ``key``: drawn anew if not given."""
        self._digest = KeyedDigest(os.urandom(KEY_BYTES) if key is None else key, LEAF_PAGES)
        self._sent: list[Digests] = [_nothing(pages) for pages in region_pages]

    def clear(self) -> None:
        """The destination holds nothing but zeros."""
        for sent in self._sent:
            sent[:] = 0

    def begin(self, region: int, runs: Runs) -> None:
        """All pages of these leaves that hold anything are about to be sent: ``runs``."""
        sent = self._sent[region]
        begun = pages_by_leaf(runs, len(sent)) > 0
        for at in range(0, len(sent), LEAVES_AT_ONCE):
            sent[at : at + LEAVES_AT_ONCE][begun[at : at + LEAVES_AT_ONCE]] = 0

    def add(self, region: int, numbers: NDArray[np.int64], copies: PageView) -> None:
        """The destination gets, or has, these bytes of pages whose leaf was begun; zeros need not
        be told. ``copies``: as ``KeyedDigest.of_pages`` takes them; nobody writes them.
        """
        parts = self._digest.of_pages(numbers, copies)
        np.add.at(self._sent[region], numbers // LEAF_PAGES, parts)

    def differing(self, region: int, pages: PageView, extents: Runs) -> NDArray[np.bool_]:
        """Which leaves hold something else than the destination: bool, shape (leaves,).

        ``extents``: the pages that hold data; no other is read. Blocks, and reads all of them.
        """
        found = _nothing(len(pages))
        threads = min(THREADS_MAX, os.cpu_count() or 1)
        with ThreadPoolExecutor(threads, thread_name_prefix="leaves") as pool:
            shares = [pieces_on(extents, index, threads) for index in range(threads)]
            for done in [pool.submit(self._look, pages, share, found) for share in shares]:
                done.result()
        differs: NDArray[np.bool_] = (found != self._sent[region]).any(axis=1)
        return differs

    def _look(self, pages: PageView, pieces: Runs, found: Digests) -> None:
        """Enter the digests of ``pieces``, which cross no chunk's border, into ``found``."""
        for first, count in pieces.tolist():
            part = pages[first : first + count]
            if first % LEAF_PAGES or count % LEAF_PAGES:
                numbers = np.arange(first, first + count)
                np.add.at(found, numbers // LEAF_PAGES, self._digest.of_pages(numbers, part))
            else:
                leaf = first // LEAF_PAGES
                found[leaf : leaf + count // LEAF_PAGES] += self._digest.of_blocks(part)


def pages_by_leaf(runs: Runs, leaf_count: int) -> NDArray[np.uint8]:
    """How many pages of each leaf are in ``runs``: shape (``leaf_count``,).

    Told from where they begin and end: it takes some bytes a leaf, and none a page.
    """
    counts = np.zeros(leaf_count, np.uint8)
    turns = np.zeros(leaf_count + 1, np.int8)
    """1 where leaves begin that are in a run as a whole, between its first and its last; -1 where
    they end. No two runs have one of those in common.
    """
    for block in blocks(runs):
        start, count = block.T
        first, begin = np.divmod(start, LEAF_PAGES)
        last, end = np.divmod(start + count - 1, LEAF_PAGES)
        goes_on = last > first
        np.add.at(counts, first, np.where(goes_on, LEAF_PAGES - begin, count).astype(np.uint8))
        np.add.at(counts, last[goes_on], (end[goes_on] + 1).astype(np.uint8))
        is_long = last > first + 1
        turns[first[is_long] + 1] = 1
        turns[last[is_long]] = -1
    np.cumsum(turns, dtype=np.int8, out=turns)
    counts += LEAF_PAGES * turns[:-1].view(np.uint8)
    return counts


def _nothing(page_count: int) -> Digests:
    return np.zeros((-(-page_count // LEAF_PAGES), SUMS), np.uint64)
