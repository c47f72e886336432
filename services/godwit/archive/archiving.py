"""Takes migrations that are over from the server into an archive.

Copied, read back, verified there, and only then purged, subject by subject and up to the last event
that was copied; before that it is written down on the server where it has gone. Whatever it dies
at, the next run goes on: what is in the archive is purged, what is not is copied. Which may leave
is ``replay.retention``'s to say.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import nullcontext
from typing import Final, NamedTuple, Protocol

import structlog

from godwit.runtime.clock import SystemClock
from godwit.runtime.event_log import EventLog
from godwit_protocol import ledger, subjects
from godwit_protocol.errors import CorruptError, RefusedError
from godwit_protocol.events import Lane
from godwit_protocol.events.migration import MigrationEnded
from godwit_protocol.register import decode_claim
from godwit_protocol.replay.archived import archived, encode
from godwit_protocol.replay.retention import Ended, Policy, due, objection
from godwit_protocol.replay.signatures import Trust
from godwit_protocol.replay.stories import migration_of
from godwit_protocol.replay.verification import verify
from godwit_protocol.stored import Stored

from .store import Step, Store, ignore, said

_log: Final = structlog.get_logger(__name__)


class Purger(Protocol):
    """Takes messages from a server (``runtime.purging.NatsPurger``)."""

    async def purge(self, subject: str, *, until_sequence: int) -> int:
        """Remove the messages of a filter up to a sequence of its stream; return how many.

        Idempotent. Raises ``LogRequestError`` if the stream does not allow it, and
        ``UnreachableError``: they may be gone or not.
        """


class Fate(NamedTuple):
    """What became of a migration that the policy wants to leave. ``stays``: why it does not."""

    migration: str
    events: int
    file_bytes: int = 0
    stays: str = ""


class _Users(NamedTuple):
    """What elsewhere on the server needs migrations' events: reservations and claims."""

    holding: frozenset[str] = frozenset()
    """Reservations that stand in any ledger."""
    claiming: frozenset[str] = frozenset()
    """Migrations that any machine's claim names."""
    unknown: frozenset[str] = frozenset()
    """Machines whose claim cannot be read: it may name any of their migrations."""


class Archiving:
    """One run. Used by one task."""

    def __init__(
        self,
        log: EventLog,
        purger: Purger,
        store: Store,
        policy: Policy,
        trust: Trust,
        reached: Callable[[Step], None] = ignore,
    ) -> None:
        self._log = log
        self._purger = purger
        self._store = store
        self._policy = policy
        self._trust = trust
        self._reached = reached

    async def run(self, now_ns: int, *, rehearse: bool = False) -> AsyncIterator[Fate]:
        """Archive all that is due, the oldest first. ``rehearse``: say what would be, and do none.

        Raises ``ConflictError`` if another process archives into the same directory,
        ``UnreachableError``, ``CorruptError``, ``InvalidInputError``, ``LogRequestError``,
        ``RefusedError`` if the archive holds a migration otherwise than the server does.
        """
        with nullcontext() if rehearse else self._store.alone():
            wanted = due(await self._ended(), self._policy, now_ns)
            users = await self._users() if wanted else _Users()
            for migration in wanted:
                yield await self._take(migration, users, rehearse=rehearse)

    async def _ended(self) -> list[Ended]:
        filters = [subjects.migration("*", Lane.COORDINATOR, MigrationEnded.TYPE)]
        return [
            Ended(migration=migration_of(stored.subject), time_ns=stored.time_ns)
            async for stored in self._log.read(filters)
        ]

    async def _users(self) -> _Users:
        claims = await self._claims()
        unknown = frozenset(machine for machine, migration in claims.items() if migration is None)
        claiming = frozenset(migration for migration in claims.values() if migration)
        return _Users(await self._holding(), claiming, unknown)

    async def _holding(self) -> frozenset[str]:
        """Of a line that cannot be read the tracker holds nothing either."""
        pictures: dict[str, ledger.HostPicture] = {}
        async for stored in self._log.read(subjects.STREAM_SUBJECTS[subjects.LEDGER]):
            try:
                entry = ledger.line_of(stored)
            except CorruptError as error:
                _log.error("unreadable line", subject=stored.subject, error=error.message)
                continue
            known = pictures.get(entry.host) or ledger.HostPicture(host=entry.host)
            pictures[entry.host] = ledger.apply(known, entry, stored.sequence)
        return frozenset(name for picture in pictures.values() for name in picture.holdings)

    async def _claims(self) -> dict[str, str | None]:
        """By machine: the migration that its claim names; None if that cannot be read. One that has
        ended keeps it, if its coordinator died before it could free it, until the machine is moved
        again.
        """
        claims: dict[str, str | None] = {}
        async for stored in self._log.read([subjects.claim("*")]):
            machine = stored.subject.removeprefix(subjects.claim(""))
            try:
                claims[machine] = decode_claim(stored.data).migration
            except CorruptError as error:
                _log.error("unreadable claim", subject=stored.subject, error=error.message)
                claims[machine] = None
        return claims

    async def _take(self, migration: str, users: _Users, *, rehearse: bool) -> Fate:
        filters = subjects.whole_migration(migration)
        messages = [stored async for stored in self._log.read(filters)]
        if not messages:
            return Fate(migration, 0, stays="it has left the server meanwhile")
        if await asyncio.to_thread(self._is_kept, migration, messages):
            if not rehearse:
                await self._leave_word(migration)
                await self._purge(filters, messages[-1].sequence)
            size = self._store.described(migration).file_bytes
            return Fate(migration, len(messages), size)
        verified = await asyncio.to_thread(verify, migration, messages, trust=self._trust)
        why = objection(
            messages,
            verified,
            self._policy,
            holds=migration in users.holding,
            claims=migration in users.claiming,
            unknown_claims=users.unknown,
        )
        if why or rehearse:
            return Fate(migration, len(messages), stays=why)
        kept = await asyncio.to_thread(self._store.keep, migration, messages, verified)
        await self._leave_word(migration)
        await self._purge(filters, messages[-1].sequence)
        return Fate(migration, len(messages), kept.file_bytes)

    def _is_kept(self, migration: str, messages: Sequence[Stored]) -> bool:
        """Whether all that the server still has is in the archive: a former run died before it had
        purged all. If it has grown since, it is archived again, whole.
        """
        if not self._store.holds(migration):
            return False
        kept, here = said(self._store.read(migration)), said(messages)
        if all(each in kept for each in here):
            return True
        if all(each in here for each in kept):
            return False
        raise RefusedError(
            f"the archive and the server do not hold the same of migration {migration}",
            hint="keep both, and look at them with 'godwit replay timeline'",
        )

    async def _leave_word(self, migration: str) -> None:
        """Say on the server where it has gone."""
        clock, path = SystemClock(), str(self._store.path(migration))
        described = self._store.described(migration)
        gone = archived(described, clock.wall_ns(), socket.gethostname(), path)
        subject = subjects.archived(migration)
        await self._log.append(subject, encode(gone), message_id=clock.new_id())
        self._reached(Step.WORD_LEFT)

    async def _purge(self, filters: Sequence[str], until_sequence: int) -> None:
        """The coordinator's end is among the first filter's: a migration without it is not found
        again, so that goes last.
        """
        for subject in reversed(filters):
            await self._purger.purge(subject, until_sequence=until_sequence)
            self._reached(Step.PURGED_IN_PART)
        self._reached(Step.PURGED)
