"""The decisions that wait for a service of this host, in the log's order.

How far it has come is kept by a cursor on the disk: the last decision before which all are done. If
that is lost, or the service dies in the middle of a decision, decisions come
again: whoever carries one out must find that it is done already.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import structlog

from godwit.runtime.event_log import EventLog
from godwit_protocol import codec, subjects
from godwit_protocol.errors import CorruptError
from godwit_protocol.events import Recorded

from .disk import Cursor

_log = structlog.get_logger(__name__)


class Inbox:
    """One service's inbox."""

    def __init__(self, log: EventLog, host: str, service: str, cursor: Cursor) -> None:
        self._event_log = log
        self._filter = subjects.inbox(host, service)
        self._cursor = cursor
        self._seen = 0
        self._unfinished: set[int] = set()

    async def decisions(self) -> AsyncIterator[Recorded]:
        """Decisions, for ever. Say ``finish`` of each when it has been carried out."""
        async for stored in self._event_log.tail(
            [self._filter], after_sequence=self._cursor.read()
        ):
            self._seen = stored.sequence
            try:
                recorded = codec.decode(stored.data, stored.sequence)
            except CorruptError as error:
                _log.error("decision_unreadable", subject=stored.subject, error=error.message)
                continue
            self._unfinished.add(stored.sequence)
            yield recorded

    def finish(self, decision: Recorded) -> None:
        """This decision has been carried out, or need not be."""
        self._unfinished.discard(decision.sequence)
        try:
            self._cursor.write(min(self._unfinished, default=self._seen + 1) - 1)
        except OSError as error:  # an older one does: decisions only come again
            _log.warning("cursor_not_written", error=error.strerror)
