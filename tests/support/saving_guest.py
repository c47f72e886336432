"""A machine of which much need not travel: all that it has in common with others of its kind, zero
pages, and pages that it writes again and again with what they hold. The rest is half random.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from godwit.guests.protocol import Machine

CHUNK_BYTES = 2 << 20
SHARED, ZEROS, OWN = slice(0, 10), slice(10, 14), slice(14, 24)
"""Chunks. The last one is in the sample that is looked at for pages that were rewritten."""
RAM_BYTES = OWN.stop * CHUNK_BYTES
PAGE_WORDS = 512


class Resident:
    """It writes nothing once it has booted."""

    idle = True

    def boot(self, machine: Machine) -> None:
        self._attach(machine)
        self._fill(SHARED, 0)
        self._chunks[ZEROS] = 0
        self._fill(OWN, int.from_bytes(machine.name.encode(), "little"))

    def load(self, machine: Machine, checkpoint: bytes) -> None:
        self._attach(machine)

    def save(self) -> bytes:
        return b""

    def step(self, requests: Sequence[bytes]) -> Sequence[bytes]:
        return [b"here"] * len(requests)

    def _attach(self, machine: Machine) -> None:
        words = np.frombuffer(machine.ram, np.uint64)
        self._chunks = words.reshape(-1, CHUNK_BYTES // 4096, PAGE_WORDS)

    def _fill(self, chunks: slice, seed: int) -> None:
        """Each page's first half random, its other half one word."""
        pages = self._chunks[chunks]
        random = np.random.default_rng(seed)
        drawn = random.integers(1, 1 << 63, (*pages.shape[:2], PAGE_WORDS // 2), np.uint64)
        pages[..., : PAGE_WORDS // 2] = drawn
        pages[..., PAGE_WORDS // 2 :] = drawn[..., :1]


class Rewriting(Resident):
    """It writes its own pages again at each step, as they are."""

    idle = False

    def step(self, requests: Sequence[bytes]) -> Sequence[bytes]:
        first_words = self._chunks[OWN][..., 0]
        first_words[...] = first_words.copy()
        time.sleep(0.005)
        return super().step(requests)
