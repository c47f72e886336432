"""The decisions that wait for a service of this host, in the log's order.

How far it has come is kept in a small file, replaced atomically: the last decision before which all
are done. If that file is lost, or the service dies in the middle of a decision, decisions come
again: whoever carries one out must find that it is done already.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import structlog

from godwit.runtime.event_log import EventLog
from godwit_protocol import codec, subjects
from godwit_protocol.errors import CorruptError
from godwit_protocol.events import Recorded

_CURSOR_FILE: Final = "inbox.cursor"

_log = structlog.get_logger(__name__)


class Inbox:
    """One service's inbox."""

    def __init__(self, log: EventLog, host: str, service: str, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._event_log = log
        self._filter = subjects.inbox(host, service)
        self._cursor = directory / _CURSOR_FILE
        self._seen = 0
        self._unfinished: set[int] = set()

    async def decisions(self) -> AsyncIterator[Recorded]:
        """Decisions, for ever. Say ``finish`` of each when it has been carried out."""
        async for stored in self._event_log.tail([self._filter], after_sequence=self._finished()):
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
        all_before = min(self._unfinished, default=self._seen + 1) - 1
        fresh = self._cursor.with_suffix(".new")
        fresh.write_text(str(all_before), encoding="ascii")
        os.replace(fresh, self._cursor)  # noqa: PTH105  # atomic, and says so

    def _finished(self) -> int:
        try:
            return int(self._cursor.read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return 0
