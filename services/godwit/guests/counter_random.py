"""Random numbers from a key and a counter: nothing to save but the two. Knows nothing of guests.

SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014):
number ``i`` of a key is the mixed sum of the key and ``i + 1`` golden-ratio steps. It is integer
arithmetic only, so it gives the same bits on every processor and with every version of numpy.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MASK: Final = 2**64 - 1


def mixed(words: Words) -> Words:
    """Return the finalizer's image of each word: a one-to-one map that flips half of the bits."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def random_words(key: int, first: int, count: int) -> Words:
    """Return numbers ``first`` to ``first + count`` of ``key``'s sequence, 64 random bits each."""
    steps = np.arange(count, dtype=np.uint64) + np.uint64((first + 1) & _MASK)
    return mixed(steps * _GOLDEN + np.uint64(key & _MASK))


def random_floats(key: int, first: int, count: int) -> NDArray[np.float32]:
    """Return ``count`` numbers from number ``first`` on, uniform in [-1, 1), steps of 2**-23."""
    top_bits = (random_words(key, first, count) >> np.uint64(40)).astype(np.float32)
    return top_bits * np.float32(2.0**-23) - np.float32(1)
