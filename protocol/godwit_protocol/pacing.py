"""How fast pages may leave: the shares that migrations have of a link, each a bucket of tokens.
Pure: it is told the time, and never waits.

What a link carries is poured into the buckets of those that send, in equal parts. A bucket that is
full takes nothing, nor does one more than its operator's cap: what they leave goes to the others,
from one instant to the next. So a share that is not used (in a pause between rounds, behind a slow
disk, under a cap) is lent, without anybody having to know what anybody wants; and whoever needs its
share again finds its bucket full, and has it from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .errors import InvalidInputError
from .quantities import format_rate, parse_rate

BANDWIDTH_MIN: Final = 125_000
"""The least that may be asked for, in bytes a second (1 Mbit/s): a frame then waits for 17 s."""
BURST_BYTES: Final = 2 * 1024**2 + 64 * 1024
"""What may leave at once after a pause: the largest frame."""
SPAN_NS: Final = 250_000_000
"""What others use is looked at over so long, to say what is left of the link."""
_SECOND_NS: Final = 1_000_000_000


def parse_bandwidth(text: str) -> int:
    """Return the bytes a second that a limit such as ``5Gbit`` says; 0 for ``none``.

    Raises ``InvalidInputError``, also for less than ``BANDWIDTH_MIN``.
    """
    if text == "none":
        return 0
    bytes_per_second = parse_rate(text)
    if bytes_per_second < BANDWIDTH_MIN:
        raise InvalidInputError(
            f"a bandwidth of {text!r} is too little to move a machine with",
            hint=f"give at least {format_rate(BANDWIDTH_MIN)}, or 'none' for no limit",
        )
    return bytes_per_second


def format_bandwidth(bytes_per_second: int) -> str:
    """Write a limit as ``parse_bandwidth`` reads it."""
    return format_rate(bytes_per_second) if bytes_per_second else "none"


class Share:
    """What one migration may have of a link, and what it has saved up of that.

    Counts in bytes times a second's nanoseconds, so that hardly anything is ever rounded.
    """

    def __init__(self, cap: int) -> None:
        """``cap``: bytes a second at most; 0: any. Only a ``Link`` changes what is in here."""
        self.cap = cap
        self.filled = BURST_BYTES * _SECOND_NS
        self.taken_bytes = 0
        """In this span."""
        self.used: int | None = None
        """Bytes a second, in the last span; None: it has not had one yet."""
        self.least = cap

    @property
    def room(self) -> int:
        """What would fill it up."""
        return BURST_BYTES * _SECOND_NS - self.filled


class Link:
    """The way out of a host, with the shares of those that send: max-min fair at every instant.

    In any time all together are let through no more than the link's rate times time and a burst
    each, and each no more than its cap times time and a burst.
    """

    def __init__(self, bytes_per_second: int, now_ns: int) -> None:
        """``bytes_per_second``: for all together; 0: any. ``now_ns``: of any clock that never goes
        back, as everywhere here.
        """
        self.bytes_per_second = bytes_per_second
        self._shares: list[Share] = []
        self._filled_ns = self._span_ns = now_ns

    def join(self, share: Share, now_ns: int) -> None:
        """Count a share in. It begins with a burst saved up."""
        self._fill(now_ns)
        self._shares.append(share)
        share.least = self.allowed(share)
        self._note()

    def leave(self, share: Share, now_ns: int) -> None:
        """Count a share out. Idempotent."""
        self._fill(now_ns)
        if share in self._shares:
            self._shares.remove(share)

    def set_cap(self, share: Share, cap: int, now_ns: int) -> None:
        """From now on give it so much at most; what it had saved up stays."""
        self._fill(now_ns)
        share.cap = cap
        self._note()

    def take(self, share: Share, byte_count: int, now_ns: int) -> int:
        """Let ``byte_count`` through and return 0; or return after how many ns to ask again, which
        is when so much will have come, or before that.

        More than ``BURST_BYTES`` go through once the bucket is full, and what follows waits for it.
        """
        self._fill(now_ns)
        lacking = min(byte_count, BURST_BYTES) * _SECOND_NS - share.filled
        if lacking > 0 and self._limit(share):
            return self._wait_ns(share, lacking)
        share.filled -= byte_count * _SECOND_NS if self._limit(share) else 0
        share.taken_bytes += byte_count
        return 0

    def allowed(self, share: Share) -> int:
        """Bytes a second that it may have as things are: its fair share, or all that the others
        have left lately; 0: any. Of one that has not had a span yet, its fair share is expected.
        """
        if not self.bytes_per_second or share not in self._shares:
            return share.cap
        fair = fair_shares([each.cap for each in self._shares], self.bytes_per_second)
        index = self._shares.index(share)
        used = [
            part if each.used is None else each.used
            for each, part in zip(self._shares, fair, strict=True)
        ]
        left = self.bytes_per_second - (sum(used) - used[index])
        return min(max(fair[index], left), self._limit(share))

    def _limit(self, share: Share) -> int:
        """What it can have at most; 0: any."""
        return _lower(share.cap, self.bytes_per_second)

    def _wait_ns(self, share: Share, lacking: int) -> int:
        """Until it has what it lacks, or another bucket is full: then it gets more."""
        if not self.bytes_per_second:
            return -(-lacking // share.cap)
        open_ = [each for each in self._shares if each.room]
        rates = fair_shares([each.cap for each in open_], self.bytes_per_second)
        return min(
            -(-(lacking if each is share else each.room) // rate)
            for each, rate in zip(open_, rates, strict=True)
        )

    def _fill(self, now_ns: int) -> None:
        """Pour in what the link has carried since."""
        passed_ns, self._filled_ns = now_ns - self._filled_ns, now_ns
        rooms = [
            min(share.room, share.cap * passed_ns) if share.cap else share.room
            for share in self._shares
        ]
        link = self.bytes_per_second
        parts = poured(rooms, link * passed_ns) if link else rooms
        for share, part in zip(self._shares, parts, strict=True):
            share.filled += part
        if now_ns - self._span_ns >= SPAN_NS:
            self._end_span(now_ns)

    def _end_span(self, now_ns: int) -> None:
        passed_ns, self._span_ns = now_ns - self._span_ns, now_ns
        for share in self._shares:
            share.used = share.taken_bytes * _SECOND_NS // passed_ns
            share.taken_bytes = 0
        self._note()

    def _note(self) -> None:
        for share in self._shares:
            share.least = _lower(share.least, self.allowed(share))


def fair_shares(caps: Sequence[int], link: int) -> list[int]:
    """Share ``link`` among migrations that may each take ``caps``: max-min fair, bytes a second.

    0 is no limit: of the link, of a migration, or of a share. Nobody is given more than its cap,
    and what one leaves is shared equally by the others.
    """
    if link == 0:
        return list(caps)
    return [max(share, 1) for share in poured([cap or link for cap in caps], link)]


def poured(rooms: Sequence[int], amount: int) -> list[int]:
    """Pour ``amount`` into vessels with so much room, in equal parts: none could have more without
    one that has less having less still. Less than one a vessel is lost by rounding.
    """
    parts, left = [0] * len(rooms), amount
    by_room = sorted(range(len(rooms)), key=rooms.__getitem__)
    for served, index in enumerate(by_room):
        parts[index] = min(rooms[index], left // (len(rooms) - served))
        left -= parts[index]
    return parts


def _lower(one: int, other: int) -> int:
    """The lower of two limits, where 0 is none."""
    return min(one, other) if one and other else one or other
