"""An archive as a place to read from: what is asked of the event log, its files answer.

Only the files of migrations that are asked for are opened. Sequences are those that the server
gave; between migrations they need not rise.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence

from godwit_protocol import subjects as names
from godwit_protocol.stored import Stored

from .store import Store

_ANY: tuple[str, ...] = ("*", ">")


class ArchivedLog:
    """Implements ``runtime.event_log.LogReader`` over a directory. Blocking: for commands."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def last(self, subject: str, *, timeout_s: float = 5.0) -> Stored | None:
        """As ``LogReader.last``. Raises as ``read``."""
        del timeout_s
        found = None
        async for stored in self.read((subject,)):
            found = stored
        return found

    async def read(
        self, subjects: Sequence[str], *, after_sequence: int = 0
    ) -> AsyncIterator[Stored]:
        """As ``LogReader.read``, one migration after the other. Raises ``CorruptError``."""
        wanted = [each.split(".") for each in subjects]
        is_wanted = names.filter_of(subjects)
        for migration in self._migrations(wanted):
            await asyncio.sleep(0)  # whoever reads a long archive may be cancelled meanwhile
            for message in self._store.read(migration):
                if message.sequence > after_sequence and is_wanted(message.subject):
                    yield message

    def tail(self, subjects: Sequence[str], *, after_sequence: int = 0) -> AsyncIterator[Stored]:
        """As ``read``: nothing is added to an archive but whole migrations."""
        return self.read(subjects, after_sequence=after_sequence)

    def _migrations(self, wanted: Sequence[Sequence[str]]) -> Iterator[str]:
        named = {_migration_of(each) for each in wanted}
        for migration in self._store.ids():
            if named & {migration, *_ANY}:
                yield migration


def _migration_of(tokens: Sequence[str]) -> str:
    """The migration that a filter names, ``*`` if it may be any, and nothing if it is none."""
    place = 5 if tokens[2:3] == ["host"] else 2
    if len(tokens) <= place + 1:
        return "*"
    return tokens[place + 1] if tokens[place] in ("migration", *_ANY) else ""
