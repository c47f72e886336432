"""Whether a round's pages are compressed, and how: chosen from what was measured. Pure.

Compressing pays where the link is slower than the compressor. A byte that goes out as it is takes
1/link; one that is compressed takes its share of that, and the time of a thread on both hosts. The
two are added up here, although they overlap: so the choice is never too hopeful. What is chosen
must take ``WORTH_SHARE`` of the time at most, because it takes cores from the guest; and whether it
did is judged by what was spent, as soon as that is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

WORTH_SHARE: Final = 0.8
"""Of the time without it: less of a gain is not worth the cores."""


class Compression(StrEnum):
    """How pages are compressed."""

    NONE = "none"
    LZ4 = "lz4"
    ZSTD = "zstd"


METHODS: Final = (Compression.LZ4, Compression.ZSTD)
"""Those that compress, the fastest first."""


class CompressionPolicy(StrEnum):
    """Which methods an operator lets a host use. None is used where it does not pay."""

    AUTO = "auto"
    OFF = "off"
    ZSTD = "zstd"
    LZ4 = "lz4"

    @property
    def methods(self) -> tuple[Compression, ...]:
        """The fastest first."""
        if self is CompressionPolicy.AUTO:
            return METHODS
        return tuple(method for method in METHODS if method.value == self.value)


class Sample(NamedTuple):
    """What a method made of some of a round's pages."""

    method: Compression
    raw_bytes: int
    packed_bytes: int
    work_ns: int
    """Of one thread: compressing them, and the reverse."""


class Spent(NamedTuple):
    """What the connections of a link carried, and what that took of their threads together."""

    wire_bytes: int = 0
    saved_bytes: int = 0
    """What compression left out."""
    sending_ns: int = 0
    """In the sockets."""
    paced_ns: int = 0
    """Waiting for the bandwidth cap."""
    packing_ns: int = 0
    """Compressing."""

    def less(self, earlier: Spent) -> Spent:
        """Since then."""
        return Spent(*(now - then for now, then in zip(self, earlier, strict=True)))

    @classmethod
    def sum(cls, parts: Iterable[Sequence[int]]) -> Spent:
        """All together."""
        return cls(*(sum(column) for column in zip(*parts, strict=True)))


def agreed(policy: CompressionPolicy, offered: Iterable[str]) -> tuple[Compression, ...]:
    """What may be used towards a destination that takes the methods of these names, the fastest
    first. Names that are unknown here are passed over.
    """
    names = set(offered)
    return tuple(method for method in policy.methods if method.value in names)


def time_share(sample: Sample, link: float, threads: int) -> float:
    """What sending such pages compressed takes of what it takes as they are, at most.

    ``link``: bytes a second; ``threads``: those that compress at the same time, at least 1.
    """
    packed_share = sample.packed_bytes / sample.raw_bytes
    return packed_share + _work_share(sample, link, threads)


def is_hopeless(sample: Sample, link: float, threads: int) -> bool:
    """Whether no slower method can pay either, however small it makes the pages."""
    return _work_share(sample, link, threads) > WORTH_SHARE


def choose(samples: Iterable[Sample], link: float, threads: int) -> Compression:
    """The method by which such pages are through first, as ``time_share`` has it."""
    shares = {sample.method: time_share(sample, link, threads) for sample in samples}
    best = min(shares, key=shares.__getitem__, default=Compression.NONE)
    return best if shares.get(best, 1.0) <= WORTH_SHARE else Compression.NONE


def link_rate(spent: Spent, connections: int) -> float:
    """What the link carries, in bytes a second, by the time in the sockets; 0.0 if none was spent.

    Where the sockets were not kept full, because of a cap or of compressing, it may carry less than
    this: their buffers take what comes. A link that has become slower is seen all the same.
    """
    return connections * spent.wire_bytes / spent.sending_ns * 1e9 if spent.sending_ns else 0.0


def has_paid(spent: Spent, link: float, connections: int) -> bool:
    """Whether ``spent``, with compression, is no more than the same pages would have taken as they
    are. ``link``: what they would have gone out at, bytes a second.
    """
    plain_ns = connections * (spent.wire_bytes + spent.saved_bytes) / link * 1e9
    return spent.sending_ns + spent.paced_ns + spent.packing_ns <= plain_ns


def _work_share(sample: Sample, link: float, threads: int) -> float:
    return sample.work_ns / sample.raw_bytes * link / threads / 1e9
