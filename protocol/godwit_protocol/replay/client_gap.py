"""How long a machine's clients heard nothing while it was moved: from when its replies were stored.

The log server's clock takes both, replies and the migration's events. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from ..events.migration import MigrationEnded, PrecopyStarted
from ..stored import Stored

AFTERWARDS_NS: Final = 1_000_000_000
"""So long after the end a reply still tells of the migration."""


class ClientGap(msgspec.Struct, frozen=True, kw_only=True):
    """The longest time between two replies while the machine was moved, and how many there were."""

    gap_ns: int
    replies: int


def window_of(messages: Iterable[Stored]) -> tuple[int, int] | None:
    """From its first round to a little after its end; None if it had none or has not ended."""
    begun = ended = 0
    for message in messages:
        if message.subject.endswith(f".{PrecopyStarted.TYPE}"):
            begun = message.time_ns
        elif message.subject.endswith(f".{MigrationEnded.TYPE}"):
            ended = message.time_ns
    return (begun, ended + AFTERWARDS_NS) if begun and ended else None


class Gaps:
    """Takes when each of a machine's replies was stored, in their order."""

    def __init__(self, window: tuple[int, int]) -> None:
        self._begun, self._ended = window
        self._last_ns = 0
        self._longest_ns = 0
        self._replies = 0

    def take(self, time_ns: int) -> None:
        """The next reply. The last before the window is where the first gap begins."""
        if time_ns > self._ended:
            return
        if time_ns >= self._begun:
            self._replies += 1
            if self._last_ns:
                self._longest_ns = max(self._longest_ns, time_ns - self._last_ns)
        self._last_ns = time_ns

    def found(self) -> ClientGap | None:
        """What came of it; None if there were no two replies to measure between."""
        if not self._longest_ns:
            return None
        return ClientGap(gap_ns=self._longest_ns, replies=self._replies)
