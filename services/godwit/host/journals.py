"""Journals of migrations: one file each, found again after a restart.

The first record is the decision that began the migration, as the log holds it; the others are the
facts of this host's lane, sealed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from godwit.runtime.journal import JournalFullError
from godwit.runtime.lane import (
    ChainPosition,
    LaneWriter,
    Scope,
    Sealed,
    position_after,
    position_in_log,
)
from godwit_protocol import codec
from godwit_protocol.events import Lane, Recorded
from godwit_protocol.events.signed import LaneSigned

from .context import HostContext
from .disk import OpenJournal
from .facts import FactWriter, decode_record

NOT_BEGUN: Final = ChainPosition()


@dataclass(frozen=True, slots=True)
class OpenMigration:
    """A migration's journal, opened, with what it held."""

    migration: str
    decision: Recorded
    facts: FactWriter
    past: tuple[Sealed, ...]
    journal: OpenJournal
    disk_full: str = ""
    """Why there is no room for the journal of another migration: then this one is to be refused."""

    @property
    def past_types(self) -> frozenset[str]:
        """The types of the facts that the journal held."""
        return frozenset(codec.decode(sealed.data).envelope.type for sealed in self.past)


class Journals:
    """All journals of one service of a host."""

    def __init__(self, host: HostContext, service: str, lane: Lane) -> None:
        self._host = host
        self._lane = lane
        self._folder = host.disk.journals(service)

    def leftovers(self) -> list[str]:
        """Migrations whose journals a former life of this service left."""
        return self._folder.names()

    def exists(self, migration: str) -> bool:
        """Whether the migration has a journal."""
        return self._folder.exists(migration)

    def keep_blank(self) -> str:
        """See that another journal can be begun, also if the disk fills up; else return why not."""
        try:
            self._folder.keep_blank()
        except JournalFullError as error:
            return error.message
        return ""

    def create(self, migration: str, machine: str, decision: bytes) -> OpenMigration:
        """Begin a journal with the decision's stored bytes.

        On a full disk it is the last that can be begun: what is left is to be kept for refusals,
        which are journaled like everything else. Raises ``JournalFullError`` if none is left.
        """
        journal = self._folder.begin(migration)
        journal.append(decision, sync=True)
        writer = self._writer(Scope.of_migration(migration, machine))
        decided = codec.decode(decision)
        facts = FactWriter(writer, journal, self._host.outbox, decided.envelope.id)
        return OpenMigration(migration, decided, facts, (), journal, self.keep_blank())

    async def reopen(self, migration: str) -> OpenMigration | None:
        """Open a leftover, and hand to the outbox what the log has not got of it.

        None if it has not even the decision; it is removed then. Raises ``UnreachableError``,
        ``CorruptError``.
        """
        journal = self._folder.open(migration)
        if not journal.records:
            journal.remove()
            return None
        decision = codec.decode(journal.records[0])
        past = tuple(decode_record(record) for record in journal.records[1:])
        machine = decision.envelope.machine
        scope = Scope.of_migration(migration, machine)
        stored = await position_in_log(self._host.log, self._lane, self._host.name, scope)
        writer = self._writer(scope, past, stored)
        facts = FactWriter(writer, journal, self._host.outbox)
        for sealed in past:
            if codec.decode(sealed.data).envelope.lane_sequence > stored.sequence:
                facts.hand_over(sealed)
        return OpenMigration(migration, decision, facts, past, journal)

    async def settle(self, opened: OpenMigration) -> None:
        """Sign the lane, wait until the log has every fact, then remove the journal."""
        signer = self._host.signer
        if signer is not None and LaneSigned.TYPE not in opened.past_types:
            opened.facts.sign(signer)
        await opened.facts.stored()
        await asyncio.to_thread(self._folder.end, opened.migration, opened.journal)

    def _writer(
        self,
        scope: Scope,
        past: tuple[Sealed, ...] = (),
        stored: ChainPosition = NOT_BEGUN,
    ) -> LaneWriter:
        """Go on after what the journal holds, or after what the log does: a host that loses its
        power forgets records that were not flushed, also those that the log has got.
        """
        own = position_after(self._lane, self._host.name, [sealed.data for sealed in past])
        position = max(own, stored, key=lambda end: end.sequence)
        return LaneWriter(self._host.clock, self._lane, self._host.name, scope, position)
