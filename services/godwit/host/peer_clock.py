"""How far the destination's clock is ahead of the source's: asked over the link, never in a stun.

Decides nothing, and nothing waits for it. A destination that does not know the question leaves it
unanswered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from godwit_protocol import link
from godwit_protocol.clock_offset import ClockOffset, better, of_round_trip

QUESTIONS: Final = 4
"""One after the other, whenever it is asked: what comes between makes an answer late, and only
rarely all of them.
"""


def answer(ping: link.Ping, heard_ns: int, now_ns: Callable[[], int]) -> link.Pong:
    """The destination's, to a question that it heard at that time of its clock."""
    return link.Pong(asked_ns=ping.asked_ns, heard_ns=heard_ns, said_ns=now_ns())


class PeerClock:
    """The destination's clock, as the source knows it."""

    def __init__(self, now_ns: Callable[[], int], say: Callable[[link.Ping], None]) -> None:
        self._now_ns = now_ns
        self._say = say
        self._asked_ns = 0
        self._questions = 0
        self._is_over = False
        self._known: ClockOffset | None = None

    def ask(self) -> None:
        """Begin to ask, unless the stun is near."""
        if not self._is_over:
            self._questions = QUESTIONS
            self._ask_once()

    def stop(self) -> None:
        """The stun is near: from now on nothing is asked."""
        self._is_over = True

    def take(self, pong: link.Pong, heard_ns: int) -> None:
        """Take an answer."""
        if pong.asked_ns != self._asked_ns:
            return  # it answers none that was not answered yet
        self._asked_ns = 0
        found = of_round_trip(pong.asked_ns, pong.heard_ns, pong.said_ns, heard_ns)
        self._known = better(self._known, found)
        if self._questions and not self._is_over:
            self._ask_once()

    def offset_ns(self) -> int | None:
        """The destination's clock less this host's; None if it is not known."""
        return None if self._known is None else self._known.offset_ns

    def error_ns(self) -> int:
        """How far that may be from the truth by now; 0 if nothing is known."""
        return 0 if self._known is None else self._known.error_at_ns(self._now_ns())

    def _ask_once(self) -> None:
        self._questions -= 1
        self._asked_ns = self._now_ns()
        self._say(link.Ping(asked_ns=self._asked_ns))
