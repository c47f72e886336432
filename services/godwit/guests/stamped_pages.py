"""Pages whose every word tells whether it is lost or stale. Knows no clock, rate or request.

The generation table holds, for each page, how often it was stamped; the page's words all follow
from its number and that generation. Table and pages lie in different parts of the memory, so an old
copy of either contradicts the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from godwit_protocol.machine import PAGE_BYTES

from .counter_random import Words, mixed, random_words

PageNumbers = NDArray[np.int64]

_PAGE_WORDS: Final = PAGE_BYTES // 8
_ZERO_PAGE: Final = np.uint64(1 << 63)
"""This bit of a table entry says that the page was filled with zeros at that generation."""

# Word j of a page is the page's checksum times an odd number of its own: each word changes with
# each generation, and one multiplication makes it.
_FACTORS: Final = random_words(0x0DD_FAC7, 0, _PAGE_WORDS) | np.uint64(1)
_AT_ONCE: Final = 1024
"""Pages compared at once, so that a check needs 4 MiB besides the machine's memory."""


class Damage(StrEnum):
    """What a bad page looks like."""

    LOST = "lost"
    """All zeros where a stamp should be."""
    STALE = "stale"
    """A whole page of another generation than the table has."""
    MISPLACED = "misplaced"
    """A whole page of another number."""
    CORRUPT = "corrupt"
    """Not whole: a mixture, or foreign bytes."""


@dataclass(frozen=True, slots=True)
class BadPage:
    """A page that is not what the table says, and what its stamp says."""

    page: int
    damage: Damage
    expected_generation: int
    found_page: int
    found_generation: int


def pages_that_fit(size_bytes: int) -> int:
    """Return how many pages fit into ``size_bytes`` beside their table; 0 if none does."""
    return max(0, (size_bytes - PAGE_BYTES) // (PAGE_BYTES + 8))


class StampedPages:
    """``count`` pages after their table, in ``memory`` from byte ``offset`` (page-aligned) on."""

    def __init__(self, memory: memoryview, offset: int, count: int) -> None:
        self.count = count
        self._table = np.frombuffer(memory, np.uint64, count, offset)
        self._offset = offset + -(-8 * count // PAGE_BYTES) * PAGE_BYTES
        words = np.frombuffer(memory, np.uint64, count * _PAGE_WORDS, self._offset)
        self._words = words.reshape(count, _PAGE_WORDS)

    def offset_of(self, page: int) -> int:
        """Return the byte of the memory at which ``page`` begins."""
        return self._offset + page * PAGE_BYTES

    def stamp(self, pages: PageNumbers) -> None:
        """Write a new generation into each of ``pages`` (each of them once)."""
        entries = (self._table[pages] & ~_ZERO_PAGE) + np.uint64(1)
        self._table[pages] = entries
        self._words[pages] = _content(pages, entries)

    def rewrite(self, pages: PageNumbers) -> None:
        """Write into each of ``pages`` what it has to hold already: dirty, and not different."""
        self._words[pages] = _content(pages, self._table[pages])

    def clear(self, pages: PageNumbers) -> None:
        """Fill each of ``pages`` with zeros, as a new generation."""
        self._table[pages] = (self._table[pages] & ~_ZERO_PAGE) + np.uint64(1) | _ZERO_PAGE
        self._words[pages] = 0

    def generations(self) -> int:
        """Return the sum of all pages' generations: how many stamps and clearings there were."""
        return int((self._table & ~_ZERO_PAGE).sum())

    def bad_pages(self, first: int, end: int) -> list[BadPage]:
        """Compare every word of pages ``first`` to ``end`` with what the table says."""
        bad: list[BadPage] = []
        for begin in range(first, end, _AT_ONCE):
            pages = np.arange(begin, min(end, begin + _AT_ONCE))
            same = (self._words[pages] == _content(pages, self._table[pages])).all(axis=1)
            bad.extend(self._judged(int(page)) for page in pages[~same])
        return bad

    def _judged(self, page: int) -> BadPage:
        words = self._words[page]
        generation = int(self._table[page] & ~_ZERO_PAGE)
        found_page, found_generation = int(words[0]), int(words[1])
        return BadPage(page, _damage(words, page), generation, found_page, found_generation)


def _content(pages: PageNumbers, entries: Words) -> Words:
    """Return the words of ``pages`` at the generations of ``entries``, shape (pages, 512)."""
    numbers = pages.astype(np.uint64)
    checksums = mixed(mixed(numbers + np.uint64(1)) ^ entries)
    words: Words = checksums[:, None] * _FACTORS
    words[:, 0], words[:, 1], words[:, 2] = numbers, entries, checksums
    words[(entries == 0) | (entries >= _ZERO_PAGE)] = 0
    return words


def _damage(words: Words, page: int) -> Damage:
    if not words.any():
        return Damage.LOST
    own = _content(words[:1].astype(np.int64), words[1:2])[0]
    if not np.array_equal(words, own):
        return Damage.CORRUPT
    return Damage.STALE if int(words[0]) == page else Damage.MISPLACED
