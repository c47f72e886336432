"""What the monitor knows: the fold of events, ledgers and telemetry, and what of it has changed.

Each look at what has changed is given the place in the log up to which it is true; who was told up
to there needs only what came later.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any, Final

import msgspec

from godwit.pictures.board import Board, Row, matching, told_progress
from godwit.pictures.hosts import Hosts
from godwit_protocol import codec, subjects
from godwit_protocol.catalogue import Catalogue
from godwit_protocol.errors import CorruptError, NotFoundError
from godwit_protocol.events import Recorded
from godwit_protocol.stored import Stored

PAGE_ROWS: Final = 100
"""Migrations that have ended are told so many at a time."""


class News(msgspec.Struct, frozen=True, kw_only=True):
    """What changed, as the page takes it. ``place``: of the last event that is in it.

    ``fresh``: what was told before is not to be relied on. ``known``: how many migrations can be
    asked for; ``left_out``: how many more the log has. ``connected``: whether the log answers; if
    not, all of this is what it said last.
    """

    place: int
    migrations: list[dict[str, Any]] = []
    cluster: dict[str, Any] | None = None
    fresh: bool = False
    known: int = 0
    left_out: int = 0
    connected: bool = True


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the list. ``more``: how many of it follow; ``left_out`` as above."""

    migrations: list[dict[str, Any]]
    more: int
    left_out: int


class Picture:
    """The state that all who look share."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.board = Board()
        self.place = 0
        self._not_read = 0
        self._first_place = 0
        self._hosts = Hosts()
        self._catalogue = catalogue
        self._changed: dict[str, None] = {}
        self._cluster_changed = False
        self._connected = True
        self._connection_changed = False
        self._silent_hosts: frozenset[str] = frozenset()

    @property
    def left_out(self) -> int:
        """How many migrations of the log are not here."""
        return self._not_read + self.board.forgotten

    def begin(self, place: int, left_out: int) -> None:
        """The log was read up to a place, without so many older migrations."""
        self.place = self._first_place = place
        self._not_read = left_out

    def learn(self, stored: Stored) -> None:
        """Take the next message of the events or the ledgers; unreadable ones are passed over."""
        if subjects.stream_of(stored.subject) == subjects.EVENTS:
            self.place = max(self.place, stored.sequence)
            if not stored.subject.startswith(subjects.inventory("")):
                with suppress(CorruptError):
                    self.learn_event(codec.decode(stored.data, stored.sequence), time.time_ns())
                return
        self._hosts.learn(stored)
        self._cluster_changed = True

    def learn_event(self, recorded: Recorded, now_ns: int = 0) -> None:
        """Take the next event of a migration; ``now_ns`` as in ``Board.learn``."""
        row = self.board.learn(recorded, now_ns)
        if row is not None:
            self._changed[row.summary.id] = None

    def hear(self, subject: str, data: bytes) -> None:
        """Take telemetry."""
        told = told_progress(subject, data) if ".migration." in subject else None
        if told is not None:
            if self.board.hear(*told, time.time_ns()) is not None:
                self._changed[told[0]] = None
        elif ".host." in subject:
            self._hosts.learn(Stored(subject, 0, time.time_ns(), data))
            self._cluster_changed = True

    def note_connection(self, connected: bool) -> None:
        """Whether the log answers now."""
        self._connection_changed |= connected is not self._connected
        self._connected = connected

    def whole(self, after: int = 0) -> News:
        """What changed after a place; the first page, if that is not known any more."""
        known_from = max(self._first_place, self.board.forgotten_place, 1)
        if not known_from <= after <= self.place:
            return self._news(self.page().migrations, self.cluster(), fresh=True)
        rows = [row for row in self.board.rows() if row.place > after]
        return self._news(_told(rows), self.cluster())

    def take_news(self) -> News | None:
        """What has changed since this was last asked; None if nothing has."""
        silent = self._hosts.silent(time.time_ns())
        self._cluster_changed |= silent != self._silent_hosts
        self._silent_hosts = silent
        if not (self._changed or self._cluster_changed or self._connection_changed):
            return None
        rows = [self.board.row(migration) for migration in self._changed]
        told = _told([row for row in rows if row is not None])
        news = self._news(told, self.cluster() if self._cluster_changed else None)
        self._changed, self._cluster_changed, self._connection_changed = {}, False, False
        return news

    def page(self, words: str = "", before: str = "", rows_max: int = PAGE_ROWS) -> Page:
        """Those that run, and ``rows_max`` of those that have ended, the newest, of all that have
        each of the ``words``; or as many that follow the migration ``before`` in the list. Raises
        ``NotFoundError`` if that one is not in it.
        """
        rows = matching(self.board.rows(), words)
        if before:
            ids = [row.summary.id for row in rows]
            if before not in ids:
                raise NotFoundError(f"migration {before!r} is not in the list")
            rows = rows[ids.index(before) + 1 :]
        told = rows[: rows_max + sum(row.is_running for row in rows)]
        more = len(rows) - len(told)
        return Page(migrations=_told(told), more=more, left_out=self.left_out)

    def cluster(self) -> dict[str, Any]:
        """The hosts that have announced themselves, their GPUs, and what sits on those."""
        pictures = self._hosts.pictures()
        gpus = self._hosts.gpus(pictures, self._catalogue, time.time_ns())
        return {
            "hosts": [picture.host for picture in pictures],
            "gpus": [gpu.as_json() for gpu in gpus],
        }

    def _news(
        self, migrations: list[dict[str, Any]], cluster: dict[str, Any] | None, fresh: bool = False
    ) -> News:
        return News(
            place=self.place,
            migrations=migrations,
            cluster=cluster,
            fresh=fresh,
            known=len(self.board.rows()),
            left_out=self.left_out,
            connected=self._connected,
        )


def _told(rows: list[Row]) -> list[dict[str, Any]]:
    now_ns = time.time_ns()
    return [row.as_json(now_ns) for row in rows]
