"""Puts migrations back from an archive into a log, whole: one of its own, where no host listens.

In a cluster's log they would be orders: hosts carry out what stands there for them. So a log in
which anything stands but migrations is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Final, NamedTuple

from godwit.runtime.event_log import EventLog
from godwit_protocol import subjects
from godwit_protocol.errors import CorruptError, RefusedError
from godwit_protocol.replay.signatures import Trust
from godwit_protocol.replay.verification import verify
from godwit_protocol.stored import Stored

from .store import Store, said

OF_A_CLUSTER: Final = (
    subjects.inventory("*"),
    *subjects.whole_machine("*"),
    subjects.register("*"),
    subjects.claim("*"),
    subjects.ledger("*"),
)
"""What stands in a log that services live on."""


class Restored(NamedTuple):
    """A migration that is in the log, and how many of its events were put there just now."""

    migration: str
    events: int
    appended: int


class Restoring:
    """One run. Used by one task."""

    def __init__(self, log: EventLog, store: Store, trust: Trust) -> None:
        self._log = log
        self._store = store
        self._trust = trust

    async def run(self, migrations: Iterable[str]) -> AsyncIterator[Restored]:
        """Restore them, one after the other. What a run that died has begun is gone on with.

        Raises ``NotFoundError``, ``CorruptError`` if the archive does not hold one whole,
        ``RefusedError`` if the log is a cluster's or holds one otherwise, ``UnreachableError``.
        """
        for subject in OF_A_CLUSTER:
            if (stored := await self._log.last(subject)) is not None:
                raise RefusedError(
                    f"this is the log of a cluster: {stored.subject} stands in it",
                    hint="hosts would carry out a restored migration's orders again: restore it"
                    " into a server of its own, or read it where it lies with --from DIRECTORY",
                )
        for migration in migrations:
            yield await self._restore(migration)

    async def _restore(self, migration: str) -> Restored:
        messages = await asyncio.to_thread(self._whole, migration)
        here = await self._read(migration)
        if here != said(messages[: len(here)]):
            raise RefusedError(f"the log holds another story of migration {migration}")
        for message in messages[len(here) :]:
            message_id, headers = message.for_another_log(f"restored-{message.sequence}")
            await self._log.append(
                message.subject, message.data, message_id=message_id, headers=headers
            )
        if await self._read(migration) != said(messages):
            raise RefusedError(
                f"the server has not taken all of migration {migration}",
                hint="it takes for repeats what it has had in the last two minutes: try again then",
            )
        return Restored(migration, len(messages), len(messages) - len(here))

    def _whole(self, migration: str) -> list[Stored]:
        messages = self._store.read(migration)
        found = verify(migration, messages, trust=self._trust)
        if found.faults:
            raise CorruptError(f"migration {migration} does not verify: {found.faults[0]}")
        return messages

    async def _read(self, migration: str) -> list[tuple[str, bytes]]:
        filters = subjects.whole_migration(migration)
        return said([stored async for stored in self._log.read(filters)])
