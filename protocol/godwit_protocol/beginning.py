"""Where a coordinator that starts may begin to read, so that its start does not grow with the log.
Pure.

A coordinator has nothing more to do with a migration that ended a day ago. A beginning names the
oldest migration of which that is not so, and of those before it the end that stands last in the
log. Whoever uses one looks for both first: a log that has lost either, or is another one, is read
from its start. So a beginning can be late or missing, and is never the truth of anything.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec

from . import subjects
from .errors import CorruptError
from .events import Lane, Recorded
from .events.migration import MigrationEnded, MigrationRequested
from .unpacking import unpack

DONE_WITH_NS: Final = 24 * 3600 * 1_000_000_000
"""So long after its end nobody does anything more for a migration: not even sign it."""
FOLLOWED_MAX: Final = 100_000
"""Migrations that are open, or ended within that time. Of more, no beginning is told."""
BEGINNING_BYTES_MAX: Final = 4096


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where one event of a migration stands."""

    migration: str
    sequence: int


class Beginning(msgspec.Struct, frozen=True, kw_only=True):
    """All migrations that were asked for before ``request`` ended at ``end`` or before it."""

    request: Place
    end: Place

    @property
    def after_sequence(self) -> int:
        """The last place that need not be read."""
        return self.request.sequence - 1

    @property
    def standing(self) -> dict[str, int]:
        """What must stand where for it to be true, by subject."""
        requested = subjects.migration(
            self.request.migration, Lane.OPERATOR, MigrationRequested.TYPE
        )
        return {requested: self.request.sequence, _end_of(self.end.migration): self.end.sequence}


def encode(beginning: Beginning) -> bytes:
    """Return it as MessagePack."""
    return msgspec.msgpack.encode(beginning)


def decode(data: bytes) -> Beginning:
    """Return what a message holds. Raises ``CorruptError``."""
    found: Beginning = unpack(_decoder, data, "a beginning", bytes_max=BEGINNING_BYTES_MAX)
    if not found.request.sequence > 0 or not found.end.sequence > 0:
        raise CorruptError("a beginning names a place before the log's first")
    return found


_decoder: Final = msgspec.msgpack.Decoder(Beginning)


class _Migration(msgspec.Struct):
    requested: Place
    ended: Place | None = None
    ended_ns: int = 0


class Followed:
    """The migrations that a coordinator has not done with, in the order of their requests."""

    def __init__(self, begun: Beginning | None = None) -> None:
        """``begun``: where reading began; None: at the log's start."""
        self._migrations: OrderedDict[str, _Migration] = OrderedDict()
        self._last_end = None if begun is None else begun.end
        self._are_too_many = False

    def learn(self, subject: str, recorded: Recorded, time_ns: int) -> None:
        """Take the next event of any migration, which the log stored at ``time_ns``."""
        migration, event = recorded.envelope.migration, recorded.event
        place = Place(migration=migration, sequence=recorded.sequence)
        if isinstance(event, MigrationRequested):
            self._migrations.setdefault(migration, _Migration(place))
            self._leave_done_ones(time_ns)
            self._are_too_many |= len(self._migrations) > FOLLOWED_MAX
        elif isinstance(event, MigrationEnded) and subject == _end_of(migration):
            followed = self._migrations.get(migration)
            if followed is not None and followed.ended is None:
                followed.ended, followed.ended_ns = place, time_ns
        if self._are_too_many:
            self._migrations.clear()

    def beginning(self, now_ns: int) -> Beginning | None:
        """The furthest one that is true at ``now_ns``; None if there is none yet."""
        self._leave_done_ones(now_ns)
        if self._last_end is None or self._are_too_many or not self._migrations:
            return None
        oldest = next(iter(self._migrations.values()))
        return Beginning(request=oldest.requested, end=self._last_end)

    def _leave_done_ones(self, now_ns: int) -> None:
        """From the oldest on, but for one: a beginning names a migration."""
        while len(self._migrations) > 1:
            oldest = next(iter(self._migrations.values()))
            if oldest.ended is None or oldest.ended_ns + DONE_WITH_NS > now_ns:
                return
            del self._migrations[oldest.requested.migration]
            if self._last_end is None or self._last_end.sequence < oldest.ended.sequence:
                self._last_end = oldest.ended


def _end_of(migration: str) -> str:
    return subjects.migration(migration, Lane.COORDINATOR, MigrationEnded.TYPE)
