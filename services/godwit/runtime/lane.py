"""A lane: one writer's chain of events about one migration or machine.

Seals events into envelopes (id, sequence in the lane, hash of the one before) and knows the subject
that each goes to. How a sealed event is stored (at once, through a journal, through the outbox) is
the caller's matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import msgspec

from godwit.runtime.clock import Clock
from godwit.runtime.event_log import EventLog
from godwit.runtime.signing import Signer
from godwit_protocol import cloudevents, codec, subjects
from godwit_protocol.events import CHAIN_START, Envelope, Event, Lane, stored_hash
from godwit_protocol.events.signed import LaneSigned, signed_part, with_signature
from godwit_protocol.replay.chains import Noted
from godwit_protocol.roles.effects import Address
from godwit_protocol.spans import with_traceparent

LIFE_CHARACTERS: Final = 8


class ScopeKind(StrEnum):
    """What a lane is about."""

    MIGRATION = "migration"
    MACHINE = "machine"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Scope:
    """What a lane is about. ``machine`` is the machine's name, for a migration's lane too."""

    kind: ScopeKind
    id: str
    machine: str

    @classmethod
    def of_migration(cls, migration: str, machine: str = "") -> Scope:
        """The scope of one migration."""
        return cls(ScopeKind.MIGRATION, migration, machine)

    @classmethod
    def of_machine(cls, name: str) -> Scope:
        """The scope of one machine's life."""
        return cls(ScopeKind.MACHINE, name, name)

    @classmethod
    def of_host(cls, host: str) -> Scope:
        """The scope of a host's inventory."""
        return cls(ScopeKind.HOST, host, "")

    def filters(self) -> tuple[str, ...]:
        """Subject filters that give all events of the scope."""
        match self.kind:
            case ScopeKind.MIGRATION:
                return subjects.whole_migration(self.id)
            case ScopeKind.MACHINE:
                return subjects.whole_machine(self.id)
            case ScopeKind.HOST:
                return (subjects.inventory(self.id),)


@dataclass(frozen=True, slots=True)
class Sealed:
    """An event ready to be stored: these bytes, and no others, are it."""

    subject: str
    message_id: str
    data: bytes

    async def append_to(
        self,
        log: EventLog,
        *,
        expected_last_sequence: int | None = None,
        message_id: str = "",
        is_traced: bool = False,
    ) -> int:
        """Store it now, under another message id if one is given. ``is_traced``: its headers tell
        where it belongs in the trace of its migration. Raises as ``EventLog.append``.
        """
        headers = self.headers()
        return await log.append(
            self.subject,
            self.data,
            message_id=message_id or self.message_id,
            expected_last_sequence=expected_last_sequence,
            headers=with_traceparent(headers) if is_traced else headers,
        )

    def headers(self) -> Mapping[str, str]:
        """What tools that know CloudEvents, and not Godwit, read of it."""
        return cloudevents.headers_of(self.data)


@dataclass(frozen=True, slots=True)
class ChainPosition:
    """How far a lane has come: the last event's sequence in it, and the hash of its bytes."""

    sequence: int = 0
    last_hash: bytes = CHAIN_START


class LaneWriter:
    """Seals events in order. Not thread-safe: one task writes a lane.

    A writer without a journal names its ``life``, and begins a chain of its own in each.
    """

    def __init__(
        self,
        clock: Clock,
        lane: Lane,
        host: str,
        scope: Scope,
        position: ChainPosition | None = None,
        *,
        life: str = "",
    ) -> None:
        self.scope = scope
        self.epoch = 0
        self._clock = clock
        self._lane = lane
        self._host = host
        self._life = life
        self._position = position or ChainPosition()

    def seal(
        self, event: Event, *, to: Address | None = None, causation: str = "", event_id: str = ""
    ) -> Sealed:
        """Seal the next event, by default under a fresh id. It is in the chain only after
        ``advance``.
        """
        is_migration = self.scope.kind is ScopeKind.MIGRATION
        envelope = Envelope(
            id=event_id or self._clock.new_id(),
            type=event.TYPE,
            migration=self.scope.id if is_migration else "",
            machine=self.scope.machine,
            lane=self._lane,
            lane_sequence=self._position.sequence + 1,
            host=self._host,
            epoch=self.epoch,
            correlation=self.scope.id,
            causation=causation,
            wall_ns=self._clock.wall_ns(),
            monotonic_ns=self._clock.monotonic_ns(),
            boot=self._clock.boot(),
            life=self._life,
            prev_hash=self._position.last_hash,
            body=codec.encode_body(event),
        )
        return Sealed(self._subject(event, to), envelope.id, codec.encode(envelope))

    def new_id(self) -> str:
        """An id for an event that is told of before it is sealed."""
        return self._clock.new_id()

    def sign(self, signer: Signer, seen: Noted | None = None) -> Sealed:
        """Seal the event that signs the lane up to here. ``seen``: what was read of all lanes."""
        signed = LaneSigned(public_key=signer.public_key)
        if seen is not None:
            signed = msgspec.structs.replace(
                signed, seen_events=seen.events, seen_digest=seen.digest
            )
        sealed = self.seal(signed)
        signature = signer.sign(signed_part(sealed.data))
        return replace(sealed, data=with_signature(sealed.data, signature))

    def advance(self, sealed: Sealed) -> None:
        """The sealed event is (or certainly will be) stored: the chain goes on after it."""
        self._position = ChainPosition(self._position.sequence + 1, stored_hash(sealed.data))

    @property
    def place(self) -> str:
        """The next event's place in the lane. As a message id it lets one event take it."""
        next_sequence = self._position.sequence + 1
        return f"{self.scope.kind}/{self.scope.id}/{self._lane}/{self._host}/{next_sequence}"

    async def find_place(self, log: EventLog) -> bytes:
        """Go on after what the log holds of the lane; return its last event's hash.

        Raises ``UnreachableError``.
        """
        self._position = await position_in_log(
            log, self._lane, self._host, self.scope, life=self._life
        )
        return self._position.last_hash

    def _subject(self, event: Event, to: Address | None) -> str:
        kind, scope_id, lane = self.scope.kind, self.scope.id, self._lane
        if to is not None:
            return subjects.addressed(to.host, to.service, kind, scope_id, lane, event.TYPE)
        match kind:
            case ScopeKind.MIGRATION:
                return subjects.migration(scope_id, lane, event.TYPE)
            case ScopeKind.MACHINE:
                return subjects.machine(scope_id, lane, event.TYPE)
            case ScopeKind.HOST:
                return subjects.inventory(scope_id)


def new_life(clock: Clock) -> str:
    """A name for the life of a writer that keeps no journal."""
    return clock.new_id()[-LIFE_CHARACTERS:]


def position_after(
    lane: Lane, host: str, stored: Iterable[bytes], *, life: str = ""
) -> ChainPosition:
    """How far that writer's lane has come in ``stored``, a scope's events."""
    position = ChainPosition()
    for data in stored:
        envelope = codec.decode(data).envelope
        if (envelope.lane, envelope.host, envelope.life) == (lane, host, life):
            position = ChainPosition(envelope.lane_sequence, stored_hash(data))
    return position


async def position_in_log(
    log: EventLog, lane: Lane, host: str, scope: Scope, *, life: str = ""
) -> ChainPosition:
    """As ``position_after``, read from the log. Raises ``UnreachableError``."""
    stored = [message.data async for message in log.read(scope.filters())]
    return position_after(lane, host, stored, life=life)
