"""An event log in memory, for tests of a shell of which nothing else is real."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

from godwit.runtime.clock import SystemClock
from godwit.runtime.event_log import AppendConflictError
from godwit.runtime.lane import LaneWriter, Scope, position_in_log
from godwit_protocol import codec
from godwit_protocol.events import Event, Lane, Recorded
from godwit_protocol.roles.effects import Address
from godwit_protocol.stored import MESSAGE_ID_HEADER, Stored
from godwit_protocol.subjects import filter_of


class MemoryLog:
    """``EventLog`` of one stream."""

    def __init__(self) -> None:
        self.stored: list[Stored] = []
        self._came = asyncio.Event()

    async def last(self, subject: str, *, timeout_s: float = 5.0) -> Stored | None:
        """As ``EventLog.last``."""
        found = [stored for stored in self.stored if stored.subject == subject]
        return found[-1] if found else None

    async def read(
        self, subjects: Sequence[str], *, after_sequence: int = 0
    ) -> AsyncIterator[Stored]:
        """As ``EventLog.read``."""
        is_wanted = filter_of(subjects)
        for stored in self.stored[after_sequence:]:
            if is_wanted(stored.subject):
                yield stored

    async def tail(
        self, subjects: Sequence[str], *, after_sequence: int = 0
    ) -> AsyncIterator[Stored]:
        """As ``EventLog.tail``."""
        while True:
            self._came.clear()
            end = len(self.stored)
            async for stored in self.read(subjects, after_sequence=after_sequence):
                yield stored
            after_sequence = end
            if len(self.stored) == end:
                await self._came.wait()

    async def append(
        self,
        subject: str,
        data: bytes,
        *,
        message_id: str,
        expected_last_sequence: int | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,
    ) -> int:
        """As ``EventLog.append``."""
        last = await self.last(subject)
        if expected_last_sequence not in (None, last.sequence if last else 0):
            raise AppendConflictError(subject)
        sequence = len(self.stored) + 1
        self.stored.append(Stored(subject, sequence, 0, data, {MESSAGE_ID_HEADER: message_id}))
        self._came.set()
        return sequence

    async def say(
        self, lane: Lane, host: str, scope: Scope, event: Event, to: Address | None = None
    ) -> str:
        """Append an event of a lane, and return its id."""
        position = await position_in_log(self, lane, host, scope)  # type: ignore[arg-type]
        sealed = LaneWriter(SystemClock(), lane, host, scope, position).seal(event, to=to)
        await self.append(sealed.subject, sealed.data, message_id=sealed.message_id)
        return sealed.message_id

    def told(self, lane: Lane) -> list[Recorded]:
        """What was said in a lane."""
        parts = [stored for stored in self.stored if f".{lane}." in stored.subject]
        return [codec.decode(stored.data, stored.sequence) for stored in parts]
