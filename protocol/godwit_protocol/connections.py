"""How many bulk connections carry a migration's pages: chosen, and changed by measurement. Pure.

A connection is a thread on each host. It begins with as many as both hosts have cores for, and as
the bandwidth that is allowed can keep busy, if need be with compressing what goes out. From the
second round on, which is of scattered pages as all that follow, each round tells what its number
carries: twice and half as many are tried, one round each, and are kept if that was faster by
``GAIN_MIN``. Each number is tried once: it ends. Where each round is much smaller than the one
before, nothing is tried: it would gain nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

GAIN_MIN: Final = 1.1
"""So much faster another number must be: less is chance."""
BUSY_BYTES_PER_SECOND: Final = 1_000_000_000
"""What one connection carries with ease, on one core of each host."""
COMPRESSING_BYTES_PER_SECOND: Final = 50_000_000
"""What goes out over one that compresses as it sends, with room: 100 to 150 MB of pages in half."""
OPENED_MIN: Final = 2
OPENED_MAX: Final = 8
TELLING_BYTES: Final = 16 * 1024**2
"""A round of fewer says nothing of the number of connections."""
SHRINKING: Final = 0.5
"""If rounds become less than this share of the one before, all that are still to come are less than
the one in which another number would be tried, and may be twice as slow."""


class Carried(NamedTuple):
    """A round that told: how many connections carried it, and how fast."""

    connections: int
    bytes_per_second: float


def opened(cores: int) -> int:
    """How many connections to open on a host with so many cores; some may stay idle."""
    return max(OPENED_MIN, min(cores, OPENED_MAX))


def first_number(
    number_max: int,
    cores_here: int,
    cores_there: int,
    bytes_per_second: int,
    *,
    may_compress: bool = False,
) -> int:
    """How many of ``number_max`` carry the first round. ``bytes_per_second``: what is allowed; 0:
    as much as the link carries. 0 if ``cores_there`` is: such a destination takes no change.
    """
    if not cores_there:
        return 0
    each = COMPRESSING_BYTES_PER_SECOND if may_compress else BUSY_BYTES_PER_SECOND
    busy = -(-bytes_per_second // each) or number_max
    return max(1, min(number_max, cores_here, cores_there, busy))


def may_try(pages: int, pages_before: int) -> bool:
    """Whether a round of so many pages may try another number, after one of ``pages_before``."""
    return pages >= SHRINKING * pages_before


def next_number(rounds: Sequence[Carried], number_max: int, *, trying: bool = True) -> int:
    """How many carry the next round, after ``rounds`` (at least one), of up to ``number_max``: the
    best that is known, or if ``trying`` one that is not.
    """
    best, rates = rounds[0].connections, dict[int, float]()
    for number, rate in rounds:
        rates[number] = rate
        fastest = max(rates, key=rates.__getitem__)
        if rates[fastest] >= GAIN_MIN * rates[best]:
            best = fastest
    if not trying:
        return best
    untried = (n for n in (2 * best, best // 2) if 1 <= n <= number_max and n not in rates)
    return next(untried, best)
