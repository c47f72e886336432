"""The first page of a guest's region: named 64-bit counters. Knows no guest in particular.

A guest keeps its counters here, and its checkpoint is a copy of this page's beginning. So ``load``
finds everything in the region, and a region whose first page is stale is found at once.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numpy as np

from godwit_protocol.errors import CorruptError, GuestError
from godwit_protocol.machine import PAGE_BYTES

WORDS: Final = 32
HEADER_BYTES: Final = PAGE_BYTES
_MAGIC: Final = 0


class Header:
    """Counters in the first page of ``memory``, addressed by the members of an ``IntEnum``.

    Word 0 is the guest's magic number, so a guest's members begin at 1. Raises ``GuestError`` if
    ``memory`` is shorter than a page.
    """

    def __init__(self, memory: memoryview, magic: bytes) -> None:
        if len(memory) < HEADER_BYTES:
            raise GuestError(f"the region has {len(memory)} bytes, less than one page")
        self._words = np.frombuffer(memory, np.uint64, WORDS)
        self._magic = int.from_bytes(magic, "little")

    def __getitem__(self, word: IntEnum) -> int:
        return int(self._words[word])

    def __setitem__(self, word: IntEnum, value: int) -> None:
        self._words[word] = value

    def begin(self) -> None:
        """Mark the region as this guest's: the last act of a boot."""
        self._words[_MAGIC] = self._magic

    def checkpoint(self) -> bytes:
        """Return a copy of the counters, ``8 * WORDS`` bytes."""
        return self._words.tobytes()

    def verify(self, checkpoint: bytes) -> None:
        """Raise ``CorruptError`` unless the region is this guest's, as of ``checkpoint``."""
        if int(self._words[_MAGIC]) != self._magic:
            raise CorruptError(
                "the region was not written by this guest, or its first page is lost"
            )
        if self._words.tobytes() != checkpoint:
            raise CorruptError("the region's first page is not the one that the checkpoint was of")
