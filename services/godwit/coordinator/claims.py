"""Claims: which migration may move a machine, one exact subject a machine, written by CAS.

A claim whose migration has ended is as good as free: the coordinator that ended it may have died
before it could free it. The next one to start does.
"""

from __future__ import annotations

from typing import Final

import structlog

from godwit.runtime.clock import Clock
from godwit.runtime.event_log import AppendConflictError, EventLog
from godwit_protocol import subjects
from godwit_protocol.errors import ConflictError, CorruptError
from godwit_protocol.events import Lane
from godwit_protocol.events.migration import MigrationEnded
from godwit_protocol.register import Claim, decode_claim, encode_claim

ATTEMPTS_MAX: Final = 100
"""Each lost attempt means that another coordinator's has won."""
_log: Final = structlog.get_logger(__name__)


class Claims:
    """Takes and frees claims for migrations."""

    def __init__(self, log: EventLog, clock: Clock) -> None:
        self._event_log = log
        self._clock = clock

    async def take(self, machine: str, migration: str) -> str:
        """Claim the machine if it is free. Returns whose it is: ``migration``'s or another's.

        Idempotent. Raises ``UnreachableError`` (it may or may not be claimed), ``CorruptError``.
        """
        for _ in range(ATTEMPTS_MAX):
            holder, sequence = await self._standing(machine)
            if holder and (holder == migration or not await self.has_ended(holder)):
                return holder
            if await self._write(Claim(machine=machine, migration=migration), sequence):
                return migration
        raise ConflictError(f"the claim on machine {machine} changes all the time")

    async def release(self, machine: str, migration: str) -> None:
        """Free the claim if it is ``migration``'s. Idempotent. Raises as ``take``."""
        if not subjects.NAME_PATTERN.fullmatch(machine):
            return  # nobody can have claimed it
        for _ in range(ATTEMPTS_MAX):
            holder, sequence = await self._standing(machine)
            if holder != migration:
                return
            if await self._write(Claim(machine=machine, migration=""), sequence):
                return
        raise ConflictError(f"the claim on machine {machine} changes all the time")

    async def release_ended(self) -> None:
        """Free what migrations hold that have ended. A claim that cannot be read is passed over.

        Raises as ``release``.
        """
        held: dict[str, str] = {}
        async for stored in self._event_log.read([subjects.claim("*")]):
            try:
                claim = decode_claim(stored.data)
            except CorruptError as error:
                _log.error("unreadable claim", subject=stored.subject, error=error.message)
                continue
            held[claim.machine] = claim.migration
        for machine, migration in held.items():
            if migration and await self.has_ended(migration):
                await self.release(machine, migration)

    async def has_ended(self, migration: str) -> bool:
        """Whether the migration's end stands in the log. Raises ``UnreachableError``."""
        ended = subjects.migration(migration, Lane.COORDINATOR, MigrationEnded.TYPE)
        return await self._event_log.last(ended) is not None

    async def _standing(self, machine: str) -> tuple[str, int]:
        """Whose the claim is (nobody's: empty), and the sequence of its record."""
        stored = await self._event_log.last(subjects.claim(machine))
        if stored is None:
            return "", 0
        return decode_claim(stored.data).migration, stored.sequence

    async def _write(self, claim: Claim, expected_sequence: int) -> bool:
        try:
            await self._event_log.append(
                subjects.claim(claim.machine),
                encode_claim(claim),
                message_id=self._clock.new_id(),
                expected_last_sequence=expected_sequence,
            )
        except AppendConflictError:
            return False
        return True
