"""Slowing a guest: its steps are spaced, so that it writes less. Pure arithmetic over given times.

Knows nothing of why a guest is slowed, and lets go by itself when nobody asks for it any more.
"""

from __future__ import annotations

from typing import Final

PERCENT_MAX: Final = 99
WAIT_NS_MAX: Final = 1_000_000_000
"""Between two steps, however long the last one took."""


class Slowing:
    """How much of a guest's time is taken from it, and until when. Times: CLOCK_MONOTONIC, ns."""

    def __init__(self) -> None:
        self._percent = 0
        self._until_ns = 0
        self._next_step_ns = 0

    def ask(self, percent: int, until_ns: int) -> None:
        """Take ``percent`` of the time until then; 0 lets go at once."""
        self._percent = min(max(percent, 0), PERCENT_MAX)
        self._until_ns = until_ns
        if self._percent == 0:
            self._next_step_ns = 0

    def stepped(self, began_ns: int, ended_ns: int) -> None:
        """A step was done: the next one comes so much later as its share of time demands."""
        if ended_ns < self._until_ns:
            wait_ns = (ended_ns - began_ns) * self._percent // (100 - self._percent)
            self._next_step_ns = ended_ns + min(wait_ns, WAIT_NS_MAX)

    def wait_ns(self, now_ns: int) -> int:
        """How long the next step has to wait; 0: it need not."""
        return max(min(self._next_step_ns, self._until_ns) - now_ns, 0)
