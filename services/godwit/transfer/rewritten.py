"""Pages that were written again with what they held: found, so that they need not travel.

From the second round on a digest is kept of every page as it was sent last. A page that is dirty
and whose bytes have that digest is left out: the destination has it. The digest is taken of the
very copy that goes out, never of the memory before or after: a guest may write B over A between
digest and copy, so that B goes out, and then A again, which would pass for what was sent.

Whether looking pays is measured here; what is looked at then, ``godwit_protocol.rewriting`` says.
Knows nothing of frames or connections.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from godwit_protocol.bulk import CHUNK_PAGES, FIRST_ROUND
from godwit_protocol.rewriting import SAMPLED_CHUNKS, Looked, Search, Searching, after

from .keyed_digest import KEY_BYTES, SUMS, Digests, KeyedDigest
from .partition import NO_RUNS, PageView, Runs

TELLING_PAGES: Final = 256
"""A round that sent fewer tells little of what sending a page takes."""
_GOLDEN: Final = 0x9E3779B1


class RewrittenPages:
    """What was sent of each page, and whether it pays to know. 16 bytes a page that was sent twice.

    ``changed`` may be called by several threads, each for pages that no other has.
    """

    def __init__(self, region_pages: Sequence[int], key: bytes | None = None) -> None:
        """``region_pages``: size of each region in pages. ``key``: drawn anew if not given."""
        self._digest = KeyedDigest(os.urandom(KEY_BYTES) if key is None else key, 1)
        # Zeros cost no memory until they are written. They are the digest of a page that was not
        # sent yet, or as zeros.
        self._sent: list[Digests] = [np.zeros((pages, SUMS), np.uint64) for pages in region_pages]
        self._page_ns = 0.0
        self._searching = Searching()

    def is_sought(self, round_number: int, *, in_stun: bool) -> bool:
        """Whether pages are to be looked at in a round: not in the first, which would digest the
        whole machine; and in the stun only if it paid before.
        """
        if in_stun:
            return self._searching.has_paid
        return round_number > FIRST_ROUND and self._searching.search is not Search.NOTHING

    def parted(self, pieces: Runs) -> tuple[Runs, Runs]:
        """``pieces`` that cross no chunk's border, in two: to be looked at, and not."""
        if self._searching.search is Search.EVERYTHING:
            return pieces, NO_RUNS
        chosen = is_sampled(pieces[:, 0] // CHUNK_PAGES)
        return pieces[chosen], pieces[~chosen]

    def changed(
        self, region: int, numbers: NDArray[np.int64], copies: PageView
    ) -> NDArray[np.bool_]:
        """Which pages must go out: bool, shape (n,). These bytes of them will.

        ``numbers``: their places in the region; ``copies``: their bytes, which nobody writes.
        """
        sent, digests = self._sent[region], self._digest.of_pages(numbers, copies)
        is_same = (sent[numbers] == digests).all(axis=1) & digests.any(axis=1)
        sent[numbers] = digests
        changed: NDArray[np.bool_] = ~is_same
        return changed

    def sent_as_zeros(self, region: int, numbers: NDArray[np.int64]) -> None:
        """These pages were named as zero."""
        self._sent[region][numbers] = 0

    def judge(
        self, *, sent: int, looked: int, omitted: int, sending_ns: int, looking_ns: int
    ) -> None:
        """A round has ended: so many pages were sent, looked at and left out, and sending and
        looking took so long of the sending threads' time, together.
        """
        if sent >= TELLING_PAGES:
            self._page_ns = sending_ns / sent
        if looked:
            seen = Looked(looked, omitted, looking_ns, self._page_ns)
            self._searching = after(self._searching, seen)
        if self._searching.search is Search.NOTHING:
            self._sent.clear()


def is_sampled(chunks: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which chunks are in the sample: one of each ``SAMPLED_CHUNKS`` in a row, the first of the
    first. Which one is as if by chance, so that no stride of a guest's falls in with it.
    """
    blocks = chunks // SAMPLED_CHUNKS
    mixed = ((blocks * _GOLDEN) & 0xFFFFFFFF) >> 16  # Knuth's multiplicative hash
    sampled: NDArray[np.bool_] = mixed % SAMPLED_CHUNKS == chunks % SAMPLED_CHUNKS
    return sampled
