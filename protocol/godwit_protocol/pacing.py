"""How fast pages may leave: a bucket of tokens, and the fair share of a link. Pure: it is told the
time, and never waits.
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


class TokenBucket:
    """Lets bytes through at a rate: in any time no more than rate times time, and one burst.

    Counts in bytes times a second's nanoseconds, so that nothing is ever rounded.
    """

    def __init__(self, bytes_per_second: int, now_ns: int) -> None:
        """``bytes_per_second`` 0: any. ``now_ns``: of any clock that never goes back."""
        self.bytes_per_second = bytes_per_second
        self._filled = BURST_BYTES * _SECOND_NS
        self._filled_ns = now_ns

    def set_rate(self, bytes_per_second: int, now_ns: int) -> None:
        """From now on let through so many; what had been saved up stays."""
        self._fill(now_ns)
        self.bytes_per_second = bytes_per_second

    def take(self, byte_count: int, now_ns: int) -> int:
        """Let ``byte_count`` through and return 0, or return how many ns it lacks at this rate.

        More than ``BURST_BYTES`` go through once the bucket is full, and what follows waits for it.
        """
        if self.bytes_per_second == 0:
            return 0
        self._fill(now_ns)
        lacking = min(byte_count, BURST_BYTES) * _SECOND_NS - self._filled
        if lacking > 0:
            return -(-lacking // self.bytes_per_second)
        self._filled -= byte_count * _SECOND_NS
        return 0

    def _fill(self, now_ns: int) -> None:
        came = (now_ns - self._filled_ns) * self.bytes_per_second
        self._filled = min(self._filled + came, BURST_BYTES * _SECOND_NS)
        self._filled_ns = now_ns


def fair_shares(caps: Sequence[int], link: int) -> list[int]:
    """Share ``link`` among migrations that may each take ``caps``: max-min fair, bytes a second.

    0 is no limit: of the link, of a migration, or of a share. Nobody is given more than its cap,
    and what one leaves is shared equally by the others.
    """
    if link == 0:
        return list(caps)
    shares = [0] * len(caps)
    left = link
    by_cap = sorted(range(len(caps)), key=lambda index: caps[index] or link)
    for served, index in enumerate(by_cap):
        equal = left // (len(caps) - served)
        shares[index] = min(caps[index] or link, max(equal, 1))
        left -= shares[index]
    return shares
