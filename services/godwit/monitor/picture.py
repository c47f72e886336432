"""What the monitor knows: the fold of events, ledgers and telemetry, and what of it has changed.

Each look at what has changed is given the place in the log up to which it is true; who was told up
to there needs only what came later.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from godwit.pictures.board import Board, Row, told_progress
from godwit.pictures.hosts import Hosts
from godwit.runtime.event_log import Stored
from godwit_protocol import codec, subjects
from godwit_protocol.catalogue import Catalogue
from godwit_protocol.errors import CorruptError


class News(msgspec.Struct, frozen=True, kw_only=True):
    """What changed, as the page takes it. ``place``: of the last event that is in it."""

    place: int
    migrations: list[dict[str, Any]] = []
    cluster: dict[str, Any] | None = None


class Picture:
    """The state that all who look share."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.board = Board()
        self.place = 0
        self._hosts = Hosts()
        self._catalogue = catalogue
        self._changed: dict[str, None] = {}
        self._cluster_changed = False

    def learn(self, stored: Stored) -> None:
        """Take the next message of the events or the ledgers; unreadable ones are passed over."""
        if subjects.stream_of(stored.subject) == subjects.EVENTS:
            self.place = max(self.place, stored.sequence)
            if not stored.subject.startswith(subjects.inventory("")):
                self._learn_event(stored)
                return
        self._hosts.learn(stored)
        self._cluster_changed = True

    def hear(self, subject: str, data: bytes) -> None:
        """Take telemetry."""
        told = told_progress(subject, data) if ".migration." in subject else None
        if told is not None:
            if self.board.hear(*told, time.time_ns()) is not None:
                self._changed[told[0]] = None
        elif ".host." in subject:
            self._hosts.learn(Stored(subject, 0, 0, data))
            self._cluster_changed = True

    def whole(self, after: int = 0) -> News:
        """All, or only the migrations of which something was told after a place."""
        rows = [row for row in self.board.rows() if _place(row) > after]
        return News(place=self.place, migrations=_told(rows), cluster=self.cluster())

    def take_news(self) -> News | None:
        """What has changed since this was last asked; None if nothing has."""
        if not self._changed and not self._cluster_changed:
            return None
        rows = [self.board.row(migration) for migration in self._changed]
        news = News(
            place=self.place,
            migrations=_told([row for row in rows if row is not None]),
            cluster=self.cluster() if self._cluster_changed else None,
        )
        self._changed, self._cluster_changed = {}, False
        return news

    def migrations(self) -> list[dict[str, Any]]:
        """Each migration."""
        return _told(self.board.rows())

    def cluster(self) -> dict[str, Any]:
        """The hosts that have announced themselves, their GPUs, and what sits on those."""
        pictures = self._hosts.pictures()
        gpus = self._hosts.gpus(pictures, self._catalogue)
        return {
            "hosts": [picture.host for picture in pictures],
            "gpus": [gpu.as_json() for gpu in gpus],
        }

    def _learn_event(self, stored: Stored) -> None:
        try:
            row = self.board.learn(codec.decode(stored.data, stored.sequence))
        except CorruptError:
            return
        if row is not None:
            self._changed[row.summary.id] = None


def _place(row: Row) -> int:
    return row.recent[-1].sequence if row.recent else 0


def _told(rows: list[Row]) -> list[dict[str, Any]]:
    now_ns = time.time_ns()
    return [row.as_json(now_ns) for row in rows]
