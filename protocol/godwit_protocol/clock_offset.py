"""How far another host's clock is ahead of ours, from questions that it answered. Pure.

As NTP does it (RFC 5905, section 8): four stamps of a round trip bound the offset, however unequal
its two ways are, and of several the one that says most is kept.
"""

from __future__ import annotations

from typing import Final

import msgspec

DRIFT_NS_PER_S: Final = 15_000
"""By how much two clocks may come apart in a second: what NTP assumes (RFC 5905, PHI)."""


class ClockOffset(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The other clock less ours: what it truly was, at ``at_ns`` of ours, is within the error."""

    offset_ns: int
    error_ns: int
    at_ns: int = 0

    def error_at_ns(self, now_ns: int) -> int:
        """The error at a later time."""
        return self.error_ns + max(now_ns - self.at_ns, 0) * DRIFT_NS_PER_S // 1_000_000_000

    def narrowed(self, least_ns: int | None, most_ns: int | None) -> ClockOffset | None:
        """The same, knowing that it is not less or not more than that; None if it cannot be so."""
        least = self.offset_ns - self.error_ns
        most = self.offset_ns + self.error_ns
        least = least if least_ns is None else max(least, least_ns)
        most = most if most_ns is None else min(most, most_ns)
        return None if least > most else _between(least, most, self.at_ns)


def of_round_trip(asked_ns: int, heard_ns: int, said_ns: int, told_ns: int) -> ClockOffset | None:
    """What one question tells: asked and told by our clock, heard and answered by the other.

    None if these are no stamps of a round trip: an answer takes no less than no time.
    """
    least_ns, most_ns = said_ns - told_ns, heard_ns - asked_ns
    if not asked_ns <= told_ns or not heard_ns <= said_ns or least_ns > most_ns:
        return None
    return _between(least_ns, most_ns, told_ns)


def better(known: ClockOffset | None, found: ClockOffset | None) -> ClockOffset | None:
    """Which of the two says more, now that ``found`` was found; None if neither says anything."""
    if known is None or found is None:
        return found or known
    return found if found.error_ns <= known.error_at_ns(found.at_ns) else known


def _between(least_ns: int, most_ns: int, at_ns: int) -> ClockOffset:
    return ClockOffset(
        offset_ns=(least_ns + most_ns) // 2, error_ns=(most_ns - least_ns + 1) // 2, at_ns=at_ns
    )
