"""A guest whose memory is English words in no order: it compresses as text does, and not better.

Each request is answered with a digest of all memory, so that who moved it can see that it is whole.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from godwit.guests.corpus import sentences
from godwit.guests.protocol import Machine

BLOCK_BYTES = 16 << 20
"""Repeated over the memory: so far apart that no compressor sees it."""


class Text:
    """The guest. It writes nothing."""

    idle = True

    def boot(self, machine: Machine) -> None:
        self._ram = machine.ram
        block = words(min(BLOCK_BYTES, len(self._ram)))
        for start in range(0, len(self._ram), len(block)):
            part = self._ram[start : start + len(block)]
            part[:] = block[: len(part)]

    def step(self, requests: Sequence[bytes]) -> Sequence[bytes]:
        return [hashlib.sha256(self._ram).hexdigest().encode() for _ in requests]

    def save(self) -> bytes:
        return b""

    def load(self, machine: Machine, checkpoint: bytes) -> None:
        self._ram = machine.ram


def words(byte_count: int) -> bytes:
    """So many bytes of words, as often as they are in the corpus."""
    known = " ".join(sentences()).split()
    drawn = random.Random(1).choices(known, k=byte_count // 2)
    return " ".join(drawn).encode()[:byte_count]
