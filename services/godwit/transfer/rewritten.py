"""Pages that were written again with what they held: found, so that they need not travel.

From the second round on a digest is kept of every page as it was sent last. A page that is dirty
and whose bytes have that digest is left out: the destination has it. The digest is taken of the
very copy that goes out, never of the memory before or after: a guest may write B over A between
digest and copy, so that B goes out, and then A again, which would pass for what was sent.

Whether looking pays is measured, and given up for good as soon as it does not. Knows nothing of
frames or connections.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from godwit_protocol.bulk import FIRST_ROUND

from .keyed_digest import KEY_BYTES, SUMS, Digests, KeyedDigest
from .partition import PageView

TELLING_PAGES: Final = 256
"""A round that sent fewer tells little of what sending a page takes."""


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
        self._is_known = False
        self._has_paid: bool | None = None

    def is_sought(self, round_number: int, *, in_stun: bool) -> bool:
        """Whether pages are to be looked at in a round: not in the first, which would digest the
        whole machine; and in the stun only if it paid before.
        """
        if in_stun:
            return self._has_paid is True
        return round_number > FIRST_ROUND and self._has_paid is not False

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

    def judge(self, *, sent: int, omitted: int, sending_ns: int, looking_ns: int) -> None:
        """A round has ended: so many pages were sent and left out, and sending and looking took so
        long of the sending threads' time, together. Decides whether the next one is looked at.
        """
        if sent >= TELLING_PAGES:
            self._page_ns = sending_ns / sent
        if not looking_ns:
            return
        if not self._is_known:
            self._is_known = True  # there was nothing yet to compare with
            return
        self._has_paid = omitted * self._page_ns > looking_ns
        if not self._has_paid:
            self._sent.clear()
