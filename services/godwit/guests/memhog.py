"""``memhog``: writes memory at a chosen rate and pattern, and finds lost or stale pages by itself.

One region (RAM, or the first vGPU's framebuffer) holds a header page with settings and counters,
a table of generations, and the pages. Requests: ``status``, ``set``, ``check``; docs/guests.md has
them. Time decides only how much is written, never what: that follows from seed and counter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from enum import IntEnum, StrEnum
from typing import Annotated, Any, Final

import msgspec
import numpy as np

from godwit_protocol.errors import GuestError
from godwit_protocol.machine import PAGE_BYTES

from .counter_random import random_words
from .header import HEADER_BYTES, Header
from .protocol import Machine
from .requests import Request, answered
from .settings import choice, whole_number
from .stamped_pages import PageNumbers, StampedPages, pages_that_fit

CHECK_PAGES_MAX: Final = 65_536
"""Pages (256 MiB) that one ``check`` covers: about 0.2 s in one step."""

BAD_PAGES_MAX: Final = 64
"""Bad pages that one reply describes; it counts all of them."""

_MAGIC: Final = b"GWHOG001"
_STEP_PAGES_MAX: Final = 1024
_CATCH_UP_NS_MAX: Final = 50_000_000
"""After a pause a memhog makes up for so much of it and no more, or a stun would be followed by a
burst that no undisturbed guest would have written."""
_NAP_NS_MAX: Final = 1_000_000
_RATE_MAX: Final = 1 << 40


class Pattern(StrEnum):
    """Which pages are written, and with what."""

    UNIFORM = "uniform"
    """Any page, by chance."""
    HOT = "hot"
    """Pages of the hot set (the first ``hot_bytes``), by chance."""
    SEQUENTIAL = "sequential"
    """One after the other, round and round."""
    SILENT = "silent"
    """Any page, by chance, with the bytes that it holds already."""
    ZERO = "zero"
    """Any page, by chance, with zeros."""


_PATTERNS: Final = tuple(Pattern)


class Region(StrEnum):
    """Where the pages lie."""

    RAM = "ram"
    FRAMEBUFFER = "framebuffer"


class Word(IntEnum):
    """The memhog's words in its header."""

    PAGES = 1
    SEED = 2
    RATE = 3
    PATTERN = 4
    HOT_PAGES = 5
    WRITES = 6
    """Pages written since the boot; also the counter of the random choice."""
    GENERATIONS = 7
    """What the table's entries must add up to."""


class Status(Request, frozen=True, tag="status"):
    """Asks for settings and counters."""


class Set(Request, frozen=True, tag="set"):
    """Changes what is given: ``rate`` in bytes a second, ``pattern``, ``hot_bytes``."""

    rate: Annotated[int, msgspec.Meta(ge=0, le=_RATE_MAX)] | None = None
    pattern: Pattern | None = None
    hot_bytes: Annotated[int, msgspec.Meta(ge=1, le=2**62)] | None = None


class Check(Request, frozen=True, tag="check"):
    """Asks for the bad ones of ``pages`` pages from ``first`` on."""

    first: Annotated[int, msgspec.Meta(ge=0, le=2**62)] = 0
    pages: Annotated[int, msgspec.Meta(ge=1, le=CHECK_PAGES_MAX)] = CHECK_PAGES_MAX


class Memhog:
    """The guest. Settings: GODWIT_MEMHOG_{RATE,PATTERN,HOT,SEED,REGION,FILL}.

    ``clock`` returns monotonic ns; ``nap`` waits for seconds. Tests give their own.
    """

    def __init__(
        self,
        clock: Callable[[], int] = time.monotonic_ns,
        nap: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock = clock
        self._nap = nap
        self._decoder = msgspec.json.Decoder(Status | Set | Check)
        self._region = choice("GODWIT_MEMHOG_REGION", Region.RAM)
        self._rate = whole_number("GODWIT_MEMHOG_RATE", 10 << 20, maximum=_RATE_MAX)
        self._pattern = choice("GODWIT_MEMHOG_PATTERN", Pattern.UNIFORM)
        self._hot_bytes = whole_number("GODWIT_MEMHOG_HOT", 64 << 20, minimum=1)
        self._seed = whole_number("GODWIT_MEMHOG_SEED", 1)
        self._fill = bool(whole_number("GODWIT_MEMHOG_FILL", 0, maximum=1))
        self.idle = True

    def boot(self, machine: Machine) -> None:
        """Begin with untouched pages, or with all of them stamped if GODWIT_MEMHOG_FILL is 1.

        Raises ``GuestError`` if the region is missing or has no room for a page.
        """
        memory = self._memory(machine)
        header = Header(memory, _MAGIC)
        header[Word.PAGES] = pages_that_fit(len(memory) - HEADER_BYTES)
        if not header[Word.PAGES]:
            raise GuestError(f"{len(memory)} bytes of {self._region} have no room for a page")
        header[Word.SEED] = self._seed
        self._build(memory, header)
        self._set(Set(self._rate, self._pattern, self._hot_bytes))
        if self._fill:
            self._stamp_all()
        header.begin()

    def step(self, requests: Sequence[bytes]) -> Sequence[bytes]:
        """Answer the requests; then write what is due, or wait for at most a millisecond."""
        replies = [answered(self._decoder, self._answer, request) for request in requests]
        due = self._due_pages()
        if due:
            self._write(due)
        elif not requests and not self.idle:
            # Stepping on without a pause would burn a core to write a page now and then.
            self._nap(_NAP_NS_MAX / 1e9)
        return replies

    def save(self) -> bytes:
        """Return the header: everything is in the region."""
        return self._header.checkpoint()

    def load(self, machine: Machine, checkpoint: bytes) -> None:
        """Build the views. Raises ``CorruptError`` if the region is not the checkpoint's."""
        memory = self._memory(machine)
        header = Header(memory, _MAGIC)
        header.verify(checkpoint)
        self._build(memory, header)

    def _memory(self, machine: Machine) -> memoryview:
        if self._region is Region.RAM:
            return machine.ram
        if not machine.vgpus:
            raise GuestError(
                f"machine {machine.name} has no vGPU for GODWIT_MEMHOG_REGION={self._region}",
                hint="start it with --vgpu PROFILE",
            )
        return machine.vgpus[0].framebuffer

    def _build(self, memory: memoryview, header: Header) -> None:
        self._header = header
        self._pages = StampedPages(memory, HEADER_BYTES, header[Word.PAGES])
        self._paid_ns = self._clock()
        self.idle = not header[Word.RATE]

    def _due_pages(self) -> int:
        """Return how many pages are to be written now, and count their time as used."""
        rate, now = self._header[Word.RATE], self._clock()
        self._paid_ns = max(self._paid_ns, now - _CATCH_UP_NS_MAX)
        due = min((now - self._paid_ns) * rate // (PAGE_BYTES * 10**9), _STEP_PAGES_MAX)
        if due:
            self._paid_ns += due * PAGE_BYTES * 10**9 // rate
        return due

    def _write(self, count: int) -> None:
        pages = self._chosen(count)
        match self._pattern_now():
            case Pattern.SILENT:
                self._pages.rewrite(pages)
            case Pattern.ZERO:
                self._pages.clear(pages)
                self._header[Word.GENERATIONS] += len(pages)
            case _:
                self._pages.stamp(pages)
                self._header[Word.GENERATIONS] += len(pages)
        self._header[Word.WRITES] += count

    def _chosen(self, count: int) -> PageNumbers:
        """Return the next pages of the pattern, at most ``count``, each of them once."""
        begin, pattern = self._header[Word.WRITES], self._pattern_now()
        if pattern is Pattern.SEQUENTIAL:
            count = min(count, self._pages.count)
            return (np.arange(begin, begin + count) % self._pages.count).astype(np.int64)
        among = self._header[Word.HOT_PAGES] if pattern is Pattern.HOT else self._pages.count
        chosen = random_words(self._header[Word.SEED], begin, count) % np.uint64(among)
        return np.unique(chosen).astype(np.int64)

    def _stamp_all(self) -> None:
        for begin in range(0, self._pages.count, _STEP_PAGES_MAX):
            pages = np.arange(begin, min(self._pages.count, begin + _STEP_PAGES_MAX))
            self._pages.stamp(pages)
        self._header[Word.GENERATIONS] = self._pages.count

    def _pattern_now(self) -> Pattern:
        return _PATTERNS[self._header[Word.PATTERN]]

    def _answer(self, request: Status | Set | Check) -> dict[str, Any]:
        match request:
            case Status():
                return self._status()
            case Set():
                return self._set(request)
            case Check(first, pages):
                return self._check(first, min(first + pages, self._pages.count))

    def _set(self, request: Set) -> dict[str, Any]:
        if request.rate is not None:
            self._header[Word.RATE] = request.rate
            self._paid_ns = self._clock()
        if request.pattern is not None:
            self._header[Word.PATTERN] = _PATTERNS.index(request.pattern)
        if request.hot_bytes is not None:
            hot_pages = -(-request.hot_bytes // PAGE_BYTES)
            self._header[Word.HOT_PAGES] = min(hot_pages, self._pages.count)
        self.idle = not self._header[Word.RATE]
        return self._status()

    def _status(self) -> dict[str, Any]:
        return {
            "rate": self._header[Word.RATE],
            "pattern": self._pattern_now(),
            "hot_bytes": self._header[Word.HOT_PAGES] * PAGE_BYTES,
            "region": self._region,
            "pages": self._pages.count,
            "pages_written": self._header[Word.WRITES],
            "seed": self._header[Word.SEED],
        }

    def _check(self, first: int, end: int) -> dict[str, Any]:
        bad = self._pages.bad_pages(first, end)
        return {
            "checked": max(0, end - first),
            "bad": len(bad),
            "bad_pages": bad[:BAD_PAGES_MAX],
            "table_whole": self._pages.generations() == self._header[Word.GENERATIONS],
            "next": end if end < self._pages.count else None,
        }
