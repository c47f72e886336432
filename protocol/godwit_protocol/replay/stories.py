"""A log's messages put together by migration, each handed on when it is over. Pure.

A migration is handed on some events after its end, because hosts may flush their last facts later;
so memory holds the open migrations and those that ended lately, however long the log is, and of all
others their ids. What is written into one later still (the tracker does, when the machine moves on,
perhaps weeks after) cannot be put to it any more: that migration is named, to be read again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

from ..events.migration import MigrationEnded
from ..stored import Stored

LATE_EVENTS_MAX: Final = 20_000
"""So many events of other migrations may stand between a migration's end and its last fact, if it
is to be read only once.
"""


class Story(NamedTuple):
    """All messages of one migration, in the log's order."""

    migration: str
    messages: list[Stored]


def migration_of(subject: str) -> str:
    """The migration whose event stands at ``subject``; nothing if it is none's."""
    tokens = subject.split(".")
    place = 5 if tokens[2:3] == ["host"] else 2
    return tokens[place + 1] if tokens[place : place + 1] == ["migration"] else ""


class Stories:
    """Takes a log's messages in its order."""

    def __init__(self, late_events_max: int = LATE_EVENTS_MAX) -> None:
        self._late_events_max = late_events_max
        self._taken = 0
        self._open: dict[str, Story] = {}
        self._ended: deque[tuple[int, str]] = deque()
        self._given: set[str] = set()
        self._late: dict[str, None] = {}

    @property
    def late(self) -> tuple[str, ...]:
        """Migrations that something was written into after they had been given: they were not
        whole.
        """
        return tuple(self._late)

    def take(self, message: Stored) -> Iterator[Story]:
        """The next message; gives the migrations that are over by now."""
        migration = migration_of(message.subject)
        if not migration:
            return
        self._taken += 1
        if migration in self._given:
            self._late[migration] = None
            return
        self._open.setdefault(migration, Story(migration, [])).messages.append(message)
        if message.subject.endswith(_END):
            self._ended.append((self._taken, migration))
        while self._ended and self._ended[0][0] + self._late_events_max < self._taken:
            story = self._open.pop(self._ended.popleft()[1], None)
            if story is not None:
                self._given.add(story.migration)
                yield story

    def rest(self) -> Iterator[Story]:
        """What was not given yet, when there is no more to be taken."""
        yield from self._open.values()
        self._open = {}


_END: Final = f".{MigrationEnded.TYPE}"
