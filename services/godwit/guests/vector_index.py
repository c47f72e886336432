"""A growing index of vectors and their texts, wholly inside one block of memory. Knows no model.

``vectors`` (float32, a row a text), ``ends`` (where each text's bytes end) and the texts' UTF-8
bytes lie one after the other; the counters lie in the guest's header.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np

from godwit_protocol.errors import RefusedError

from .header import Header
from .minilm import DIMENSIONS, Floats

TEXT_BYTES_MEAN: Final = 512
"""Room for text, in bytes an entry; entries of less leave the rest to longer ones."""

ENTRY_BYTES: Final = 4 * DIMENSIONS + 8 + TEXT_BYTES_MEAN


@dataclass(frozen=True, slots=True)
class Hit:
    """One result of a search."""

    index: int
    score: float
    """Cosine of the angle between query and entry, -1 to 1, rounded to 6 digits."""
    text: str


class IndexWord(IntEnum):
    """The index's words in the guest's header."""

    CAPACITY = 1
    COUNT = 2
    TEXT_USED = 3


class VectorIndex:
    """The index in ``memory`` from byte ``offset`` on; its counters in ``header``.

    It holds ``header[CAPACITY]`` entries and as many times ``TEXT_BYTES_MEAN`` bytes of text.
    """

    def __init__(self, memory: memoryview, offset: int, header: Header) -> None:
        self._header = header
        self.capacity = header[IndexWord.CAPACITY]
        cells = self.capacity * DIMENSIONS
        vectors = np.frombuffer(memory, np.float32, cells, offset)
        self._vectors = vectors.reshape(self.capacity, DIMENSIONS)
        self._ends = np.frombuffer(memory, np.uint64, self.capacity, offset + 4 * cells)
        texts = offset + 4 * cells + 8 * self.capacity
        self._texts = memory[texts : texts + self.capacity * TEXT_BYTES_MEAN]

    @property
    def count(self) -> int:
        """How many entries there are."""
        return self._header[IndexWord.COUNT]

    @property
    def text_bytes_free(self) -> int:
        """How many bytes of text still fit."""
        return len(self._texts) - self._header[IndexWord.TEXT_USED]

    def require_room(self, entries: int, text_bytes: int) -> None:
        """Raise ``RefusedError`` unless so many more entries with so much text fit."""
        if self.count + entries > self.capacity or text_bytes > self.text_bytes_free:
            raise RefusedError(
                f"the index is full: {self.count} of {self.capacity} entries are taken and"
                f" {self.text_bytes_free} bytes are left for text;"
                f" {entries} more with {text_bytes} bytes do not fit",
                hint="start the machine with a vGPU of a larger framebuffer, or a larger"
                " GODWIT_EMBEDDER_CAPACITY",
            )

    def add(self, vector: Floats, text: bytes) -> int:
        """Append one entry (``vector`` of length one, ``text`` in UTF-8) and return its index.

        Raises ``RefusedError`` if it is full.
        """
        self.require_room(1, len(text))
        index, begin = self.count, self._header[IndexWord.TEXT_USED]
        end = begin + len(text)
        self._vectors[index] = vector
        self._texts[begin:end] = text
        self._ends[index] = end
        self._header[IndexWord.TEXT_USED] = end
        self._header[IndexWord.COUNT] = index + 1
        return index

    def search(self, vector: Floats, k: int) -> list[Hit]:
        """Return the ``k`` entries nearest to ``vector``, best first; of equals, the older."""
        scores = self._vectors[: self.count] @ vector
        best = np.argsort(-scores, kind="stable")[:k]
        return [Hit(int(i), round(float(scores[i]), 6), self._text(int(i))) for i in best]

    def _text(self, index: int) -> str:
        begin = int(self._ends[index - 1]) if index else 0
        return bytes(self._texts[begin : int(self._ends[index])]).decode()
