"""Facts of a host service: through the journal, into the outbox, to the log.

An event's bytes are sealed once. They stand in the journal's file before they are put into the
outbox, so that a service that dies in between can put them there again, byte for byte.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Final

import msgspec

from godwit.runtime.journal import JournalFailedError, Room
from godwit.runtime.lane import LaneWriter, Sealed
from godwit.runtime.outbox import Outbox
from godwit.runtime.signing import Signer
from godwit_protocol import link
from godwit_protocol.cloudevents import CAUSE
from godwit_protocol.errors import CorruptError, GodwitError, UnreachableError
from godwit_protocol.events import Event
from godwit_protocol.framing import encode_control
from godwit_protocol.roles.effects import Address, Append, Durability, Effect, Say

from .causes import CausesHeard, FactIds
from .disk import OpenJournal

HOLD_S_MAX: Final = 0.1
"""How long a fact that is held waits for one of its lane that is not."""
_NO_ID: Final = "00000000-0000-7000-8000-000000000000"


class JournaledEvent(msgspec.Struct, frozen=True):
    """One record of a migration's journal: a sealed event, and where it goes."""

    subject: str
    message_id: str
    data: bytes


def encode_record(sealed: Sealed) -> bytes:
    """Return a journal record."""
    record = JournaledEvent(sealed.subject, sealed.message_id, sealed.data)
    return msgspec.msgpack.encode(record)


def decode_record(payload: bytes) -> Sealed:
    """Return what a journal record holds. Raises ``CorruptError``."""
    try:
        record = msgspec.msgpack.decode(payload, type=JournaledEvent)
    except msgspec.MsgspecError as error:
        raise CorruptError(f"a journal record cannot be read: {error}") from error
    return Sealed(record.subject, record.message_id, record.data)


class FactWriter:
    """Writes one lane of one migration. Not thread-safe."""

    def __init__(
        self, writer: LaneWriter, journal: OpenJournal, outbox: Outbox, cause: str = ""
    ) -> None:
        """``cause``: the id of the decision that the lane's first fact answers."""
        self.writer = writer
        self._journal = journal
        self._outbox = outbox
        self._last: asyncio.Future[bool] | None = None
        self._held: list[tuple[Sealed, str]] = []
        """Each with what it came of. They go out with the next that is not held, or a little later:
        so they neither take a stun's time nor compete with what is more urgent.
        """
        self._cause = cause
        self._ids = FactIds()
        self.causes = CausesHeard()
        """Where what was heard is noted, so that facts say what they came of."""

    def telling(self, message: link.LinkMessage) -> link.LinkMessage:
        """The message with the id of the fact that says the same."""
        return self._ids.told_by(message, self.writer.new_id())

    def write(
        self, event: Event, durability: Durability, to: Address | None = None
    ) -> asyncio.Future[bool]:
        """As ``append``, of what no role wanted."""
        stored = self.append(Append(event=event, durability=durability, to=to))
        assert stored is not None
        return stored

    def append(self, wanted: Append) -> asyncio.Future[bool] | None:
        """Journal an event and hand it to the outbox; the future tells when the log has it. None if
        the event is held: it is handed over later.

        With ``JOURNALED`` it is on disk when this returns (less than a millisecond). Raises
        ``JournalFullError`` or ``JournalFailedError`` if the journal does not take it: then nothing
        was handed on.
        """
        kind, cause = type(wanted.event), self.causes.of(type(wanted.event))
        causation = self._cause or (cause.event_id if cause.is_logged else "")
        sealed = self.writer.seal(
            wanted.event, to=wanted.to, causation=causation, event_id=self._ids.promised(kind)
        )
        sync = wanted.durability is Durability.JOURNALED
        self._journal.append(encode_record(sealed), sync=sync, room=_room_for(wanted))
        self._ids.wrote(kind, sealed.message_id)
        self._cause = ""
        if wanted.durability is Durability.FLUSHING:
            # Not in this turn of the loop, nor the next: what the role wants done beside the flush
            # begins first, in threads that need no more of this one.
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._flush_beside)
        self.writer.advance(sealed)
        if wanted.held:
            self._hold(sealed, cause.event_id)
            return None
        return self.hand_over(sealed, cause=cause.event_id)

    def sign(self, signer: Signer) -> asyncio.Future[bool]:
        """Sign the lane, once its part in the migration is over; else as ``write``, lagging."""
        sealed = self.writer.sign(signer)
        self._journal.append(encode_record(sealed), sync=False)
        self.writer.advance(sealed)
        return self.hand_over(sealed)

    def rehearse(self, effect: Effect) -> None:
        """Go through the motions of an effect and leave nothing: see ``RoleRunner.rehearse``."""
        match effect:
            case Append():
                record = encode_record(
                    self.writer.seal(effect.event, to=effect.to, event_id=_NO_ID)
                )
                self._journal.rehearse(record)
            case Say():
                encode_control(link.encode(effect.message))
            case _:
                pass

    def await_flush(self) -> None:
        """Wait until all that was written is on the disk. Raises ``JournalFailedError``."""
        self._journal.flush()

    def _flush_beside(self) -> None:
        with contextlib.suppress(JournalFailedError):  # ``await_flush`` raises it again
            self._journal.flush()

    def hand_over(self, sealed: Sealed, *, cause: str = "") -> asyncio.Future[bool]:
        """Put what the journal holds into the outbox. ``cause``: what it came of, if the event does
        not say so.
        """
        self._hand_over_held()
        return self._put(sealed, cause)

    def _hold(self, sealed: Sealed, cause: str) -> None:
        if not self._held:
            asyncio.get_running_loop().call_later(HOLD_S_MAX, self._hand_over_late)
        self._held.append((sealed, cause))

    def _hand_over_held(self) -> None:
        while self._held:
            self._put(*self._held[0])
            del self._held[0]  # not before the outbox has it: a full one refuses

    def _hand_over_late(self) -> None:
        with contextlib.suppress(GodwitError):  # whoever writes next is told; the journal keeps it
            self._hand_over_held()

    def _put(self, sealed: Sealed, cause: str) -> asyncio.Future[bool]:
        def headers() -> Mapping[str, str]:
            return {**({CAUSE: cause} if cause else {}), **sealed.headers()}

        scope = self.writer.scope
        lane = f"{scope.kind}/{scope.id}"
        self._last = self._outbox.put(
            sealed.subject, sealed.data, sealed.message_id, headers, lane=lane
        )
        return self._last

    async def stored(self) -> None:
        """Wait until the log has every fact of the lane, which is stored in order."""
        self._hand_over_held()
        if self._last is not None:
            await asyncio.shield(self._last)

    async def told(self, at_most_s: float) -> None:
        """As ``stored``, for so long at most, and whatever becomes of it."""
        with contextlib.suppress(GodwitError):
            self._hand_over_held()
        if self._last is not None:
            await asyncio.wait({self._last}, timeout=at_most_s)


def _room_for(wanted: Append) -> Room:
    """What of its journal's room the event may take."""
    if wanted.held:
        return Room.TAKE
    return Room.LEAVE if wanted.refusable else Room.NEED


async def acknowledged(stored: asyncio.Future[bool], timeout_s: float) -> None:
    """Wait until the log has acknowledged a fact. Raises ``UnreachableError``."""
    try:
        async with asyncio.timeout(timeout_s):
            taken = await asyncio.shield(stored)
    except TimeoutError as error:
        raise UnreachableError(f"the event log did not answer within {timeout_s:g} s") from error
    if not taken:
        raise UnreachableError("the event log refused the event")
