"""By which method the pages of a round are compressed now: measured while it is sent.

A round goes out as it is at first, unless its bandwidth cap alone makes compression worth it. Then
the link's rate is known, a sample of the round's pages tells of the methods, and
``godwit_protocol.compression`` chooses; again and again, for the link or the cap may change. What
did not pay is left for the rest of the round, and after ``MISSES_MAX`` such rounds for good.

Knows nothing of frames or sockets: each connection counts what it does in a ``Flow``.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Final, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from godwit.runtime.cores import usable_cores
from godwit_protocol.compression import (
    Compression,
    Sample,
    Spent,
    choose,
    has_paid,
    is_hopeless,
    link_rate,
)
from godwit_protocol.machine import PAGE_BYTES

from .packing import Packer
from .partition import PageView, Runs, numbers_in

WARM_NS: Final = 100_000_000
"""The first bytes of a round fill the sockets' buffers, and say nothing of the link."""
SPAN_NS: Final = 200_000_000
"""What is measured at a time, at least."""
SPANS_MAX: Final = 3
"""The link's rate is the middle one of so many spans': in one the sockets' buffers may take twice
as much as in the next. While pages are compressed it is not believed to be slower before that."""
ROUND_PAGES_MIN: Final = 256
"""A round of fewer is sent before anything could be gained."""
MISSES_MAX: Final = 2
SAMPLED_PLACES: Final = 32
SAMPLED_RUN_PAGES: Final = 4
"""In each place; all together half a megabyte, which takes about a millisecond to compress."""
TRIES_MAX: Final = 3
"""Of a method in a round, a span apart."""
TELLING_BYTES: Final = 1 << 20
"""A span in which less was sent says nothing of the link."""
NO_PAGES: Final[PageView] = np.empty((0, PAGE_BYTES), np.uint8)


@dataclass(slots=True)
class Flow:
    """What one connection has sent of a round's pages, and what that took of its thread; as
    ``Spent``. What only names pages is not counted.
    """

    wire_bytes: int = 0
    saved_bytes: int = 0
    sending_ns: int = 0
    paced_ns: int = 0
    packing_ns: int = 0


class Sampled(Protocol):
    """What is read of a round's work in one region; see ``outgoing.RegionWork``."""

    @property
    def pages(self) -> PageView:
        """The whole region."""

    @property
    def runs(self) -> Runs:
        """Those that are to be sent."""


class Rate(Protocol):
    """What may go out now; see ``outgoing.Pacer``."""

    @property
    def bytes_per_second(self) -> int:
        """0: as much as the link carries."""


class Compressing:
    """The choice for one migration's rounds. ``look`` is called by all threads that send, the rest
    by one, when they do not.
    """

    def __init__(self, allowed: Sequence[Compression], pace: Rate) -> None:
        """``allowed``: the methods to choose from, the fastest first."""
        self._allowed = allowed
        self._pace = pace
        self._packer = Packer()
        self._looking = threading.Lock()
        self._misses = 0
        self.method = Compression.NONE
        """For the next frame. Read by the threads that send."""
        self.begin_round((), (), in_stun=True)

    def begin_round(self, work: Sequence[Sampled], flows: Sequence[Flow], *, in_stun: bool) -> None:
        """``flows``: those of the round, one a connection. Nothing is compressed in the stun."""
        pages = sum(int(region.runs[:, 1].sum()) for region in work)
        self._may_choose = (
            bool(self._allowed)
            and not in_stun
            and pages >= ROUND_PAGES_MIN
            and self._misses < MISSES_MAX
        )
        self._work = work
        self._flows = flows
        self._threads = max(1, min(len(flows), usable_cores()))
        self._samples: dict[Compression, Sample] = {}
        self._tries = dict.fromkeys(self._allowed, 0)
        self._measured = math.inf
        self.sampling_ns = 0
        self.used = self.method = Compression.NONE
        self._from = Spent()
        self._is_warm = False
        self._rates: deque[float] = deque(maxlen=SPANS_MAX)
        """Of the last spans with this method."""
        self._look_at_ns = time.monotonic_ns() + WARM_NS
        if self._may_choose:
            self._choose()

    def look(self) -> None:
        """Measure and choose anew, if it is time. Called after each frame."""
        now_ns = time.monotonic_ns()
        if not self._may_choose or now_ns < self._look_at_ns:
            return
        if self._looking.acquire(blocking=False):
            try:
                self._measure(now_ns)
            finally:
                self._looking.release()

    def end_round(self) -> int:
        """What the link carries, in bytes a second, where that round was compressed; else 0."""
        self._work = ()
        if self.used is Compression.NONE:
            return 0
        self._measured = min(self._measured, self._carried(self._spent()))
        link = self._link()
        return int(link) if math.isfinite(link) else 0

    def _measure(self, now_ns: int) -> None:
        if now_ns < self._look_at_ns:  # another thread has just been here
            return
        now = self._spent()
        spent = now.less(self._from)
        is_telling = spent.wire_bytes >= TELLING_BYTES
        if self._is_warm and is_telling:
            self._judge(spent)
        if is_telling or not self._is_warm:
            self._from, self._is_warm = now, True
        self._look_at_ns = time.monotonic_ns() + SPAN_NS

    def _judge(self, spent: Spent) -> None:
        self._rates.append(self._carried(spent))
        carried = sorted(self._rates)[len(self._rates) // 2]
        if self.method is Compression.NONE:
            self._measured = carried
        elif len(self._rates) == SPANS_MAX:
            # The sockets may not have been full: this can only be less than what was known.
            self._measured = min(self._measured, carried)
        link = self._link()
        was_used = self.method
        self._choose()
        if self.method is not was_used:
            self._rates.clear()
        if was_used is Compression.NONE or self.method is Compression.NONE:
            return
        if not has_paid(spent, link, len(self._flows)):
            self._misses += 1
            self._may_choose = False
            self.method = Compression.NONE

    def _choose(self) -> None:
        link = self._link()
        if math.isinf(link):
            self.method = Compression.NONE
            return
        self._sample(link)
        self.method = choose(self._samples.values(), link, self._threads)
        if self.method is not Compression.NONE:
            self.used = self.method

    def _link(self) -> float:
        """As far as it is known, and as much of it as may be used."""
        return min(self._measured, self._pace.bytes_per_second or math.inf)

    def _carried(self, spent: Spent) -> float:
        return link_rate(spent, len(self._flows)) or math.inf

    def _spent(self) -> Spent:
        return Spent.sum(astuple(flow) for flow in self._flows)

    def _sample(self, link: float) -> None:
        """See what each method makes of some of the round's pages, but for those that a faster one
        rules out on this link. Not just once: where cores are busy, one turn of somebody else is
        ten times as long as this takes, and would rule a method out.
        """
        started_ns = time.monotonic_ns()
        for method in self._allowed:
            if self._tries[method] < TRIES_MAX:
                self._try(method)
            if method not in self._samples:
                break
            if is_hopeless(self._samples[method], link, self._threads):
                break
        self.sampling_ns += time.monotonic_ns() - started_ns

    def _try(self, method: Compression) -> None:
        """Keep the sample that took the least."""
        self._tries[method] += 1
        pages = _some_pages(self._work)
        if len(pages):
            known = (self._samples[method],) if method in self._samples else ()
            samples = (*known, self._tried(method, pages))
            self._samples[method] = min(samples, key=lambda sample: sample.work_ns)

    def _tried(self, method: Compression, pages: PageView) -> Sample:
        started_ns = time.monotonic_ns()
        packed = self._packer.packed(method, pages.reshape(-1).data)
        self._packer.unpacked(method, packed, pages.nbytes)
        return Sample(method, pages.nbytes, len(packed), time.monotonic_ns() - started_ns)


def _some_pages(work: Sequence[Sampled]) -> PageView:
    """A copy of short runs of what is to be sent, evenly spaced over it, without zero pages and the
    second of two that are alike: it may be far from the first, where no compressor sees it.
    """
    runs = [region.runs for region in work]
    counts = np.array([int(each[:, 1].sum()) for each in runs])
    places = np.arange(SAMPLED_PLACES) * int(counts.sum()) // SAMPLED_PLACES
    found, begin = [NO_PAGES], 0
    for region, count in zip(work, counts.tolist(), strict=True):
        mine = places[(places >= begin) & (places < begin + count)] - begin
        found.append(region.pages[_numbers_at(region.runs, mine)])
        begin += count
    pages = np.concatenate(found)
    pages = pages[pages.any(axis=1)]
    distinct = {xxhash.xxh3_64_intdigest(page.data): number for number, page in enumerate(pages)}
    return pages[list(distinct.values())]


def _numbers_at(runs: Runs, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers of the pages at these ``places`` of ``runs``, and of some that follow each in its
    run.
    """
    ends = np.cumsum(runs[:, 1])
    which = np.searchsorted(ends, places, side="right")
    first = runs[which, 0] + runs[which, 1] - (ends[which] - places)
    return numbers_in(np.column_stack((first, np.minimum(ends[which] - places, SAMPLED_RUN_PAGES))))
