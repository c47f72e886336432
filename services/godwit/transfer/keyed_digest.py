"""A keyed digest of pages in exact integer arithmetic: the same in numpy as on a GPU.

A block of memory, one page or more, is a row of 64-bit words w. Its digest is two sums modulo
2**64, with secret keys k and m, one for each place in the block:

    sum of k * w          sum of m * swapped(w)

``swapped`` reverses the eight bytes of a word. A sum has no order, so that neither how a GPU adds
up nor how a block is cut into pages matters: a block's digest is that of its pages, added up. A
zero page adds nothing, and a block of zeros has the digest (0, 0).

How likely is it that two different contents have the same digest, whoever chose them without
knowing the keys? Let bit r of byte b be the lowest at which any of their words differ. The first
sum loses what lies above bit 63: it is the same for at most one in 2**(64 - 8b - r) of all keys. In
the second that word differs at bit 8(7 - b) + r or below it, so it is the same for one in
2**(8 + 8b - r). The keys are independent: both are the same for one in 2**(72 - 2r), which is at
worst one in 2**58. One sum alone would not do: half of all keys miss the change of a highest bit,
such as a float's sign.

The keys are made from a key that each migration draws anew, so that a guest cannot write two
contents that pass for the same. Knows nothing of what was sent, or to where.
"""

from __future__ import annotations

import hashlib
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from godwit_protocol.machine import PAGE_BYTES

from .partition import PageView

KEY_BYTES: Final = 32
SUMS: Final = 2
WORD_BYTES: Final = 8
PAGE_WORDS: Final = PAGE_BYTES // WORD_BYTES

Digests: TypeAlias = NDArray[np.uint64]
"""Digests of n pages or blocks: uint64, shape (n, ``SUMS``)."""


class KeyedDigest:
    """Digests of pages as parts of blocks of ``block_pages``. May be used by several threads."""

    def __init__(self, key: bytes, block_pages: int) -> None:
        """``key``: ``KEY_BYTES`` that nobody can guess. The blocks begin at page 0 of a region."""
        assert len(key) == KEY_BYTES
        self.block_pages = block_pages
        words = SUMS * block_pages * PAGE_WORDS
        stream = hashlib.shake_256(key).digest(words * WORD_BYTES)
        self._keys = np.frombuffer(stream, "<u8").reshape(SUMS, block_pages, PAGE_WORDS)

    def of_pages(self, numbers: NDArray[np.int64], pages: PageView) -> Digests:
        """What each of ``pages`` adds to the digest of its block.

        ``numbers``: the pages' places in their region, int64, shape (n,); ``pages``: their bytes,
        uint8, shape (n, page bytes), contiguous.
        """
        if self.block_pages == 1:
            return self._sums("pw,w->p", pages, self._keys[:, 0])
        return self._sums("pw,pw->p", pages, self._keys[:, numbers % self.block_pages])

    def of_blocks(self, pages: PageView) -> Digests:
        """The digest of each block of ``pages``, which are whole blocks one after the other."""
        blocks = pages.reshape(-1, self.block_pages * PAGE_BYTES)
        return self._sums("bw,w->b", blocks, self._keys.reshape(SUMS, -1))

    def _sums(self, product: str, rows: NDArray[np.uint8], keys: NDArray[np.uint64]) -> Digests:
        sums = np.empty((len(rows), SUMS), np.uint64)
        sums[:, 0] = np.einsum(product, rows.view("<u8"), keys[0])
        sums[:, 1] = np.einsum(product, rows.view(">u8"), keys[1])
        return sums
