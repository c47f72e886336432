"""A guest that writes a word into so many pages a second, anywhere: what ``qemu_guest.s`` does.

Its memory is filled with what does not compress. A request is JSON: ``{}`` asks, and
``{"rate": BYTES_A_SECOND}`` sets, where a page counts as all of its bytes; both are answered with
``pages_written``. It sleeps in between.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Sequence

import numpy as np

from godwit.guests.counter_random import random_words
from godwit.guests.protocol import Machine

PAGE_BYTES = 4096
PAGE_WORDS = PAGE_BYTES // 8
BLOCK_PAGES = 4096
AT_ONCE_MAX = 1024
CATCH_UP_S = 0.05
"""What it was kept from writing for longer than that, it never writes."""
TICK_S = 0.001
SEED = 1
CHECKPOINT = struct.Struct("<QQ")


class Words:
    """The guest."""

    def boot(self, machine: Machine) -> None:
        self._begin(machine, 0, 0)
        block = random_words(SEED, 0, BLOCK_PAGES * PAGE_WORDS).reshape(-1, PAGE_WORDS)
        for start in range(0, len(self._words), BLOCK_PAGES):
            part = self._words[start : start + BLOCK_PAGES]
            part[:] = block[: len(part)] + np.uint64(start)

    def step(self, requests: Sequence[bytes]) -> Sequence[bytes]:
        replies = [self._answered(json.loads(request)) for request in requests]
        if due := self._due():
            chosen = random_words(SEED, self._written, due)
            self._words[chosen % np.uint64(len(self._words)), 0] = chosen
            self._written += due
        elif not requests and not self.idle:
            time.sleep(TICK_S)
        return replies

    def save(self) -> bytes:
        return CHECKPOINT.pack(self._rate, self._written)

    def load(self, machine: Machine, checkpoint: bytes) -> None:
        self._begin(machine, *CHECKPOINT.unpack(checkpoint))

    def _begin(self, machine: Machine, rate: int, written: int) -> None:
        self._words = np.frombuffer(machine.ram, np.uint64).reshape(-1, PAGE_WORDS)
        self._rate, self._written = rate, written
        self._paid_s = time.monotonic()
        self.idle = not rate

    def _due(self) -> int:
        """Pages; their time counts as used."""
        if self.idle:
            return 0
        now = time.monotonic()
        self._paid_s = max(self._paid_s, now - CATCH_UP_S)
        due = min(int((now - self._paid_s) * self._rate / PAGE_BYTES), AT_ONCE_MAX)
        self._paid_s += due * PAGE_BYTES / self._rate
        return due

    def _answered(self, request: dict[str, int]) -> bytes:
        self._rate = request.get("rate", self._rate)
        self.idle = not self._rate
        return json.dumps({"pages_written": self._written}).encode()
