"""Tell whoever asked for capacity what became of it, once, whichever replica comes first.

An answer goes to the lane of the scope that was asked from: a migration's for all to see, a
machine's addressed to the host that is starting it. It is written by compare-and-set on its exact
subject, so that two trackers never answer twice.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import structlog

from godwit.runtime.clock import Clock
from godwit.runtime.event_log import AppendConflictError, EventLog
from godwit.runtime.lane import LaneWriter, Scope, Sealed, new_life, position_in_log
from godwit.runtime.patience import append_patiently, patiently
from godwit.runtime.signing import Signer
from godwit_protocol import codec
from godwit_protocol.errors import ConflictError, CorruptError
from godwit_protocol.events import Envelope, Event, Lane
from godwit_protocol.events.reservation import (
    ReservationConfirmed,
    ReservationExpired,
    ReservationGranted,
    ReservationRefused,
    ReservationReleased,
    ReservationRequested,
)
from godwit_protocol.roles.effects import Address, Service
from godwit_protocol.stored import Stored
from godwit_protocol.subjects import NAME_PATTERN

AnswerEvent = (
    ReservationGranted
    | ReservationRefused
    | ReservationConfirmed
    | ReservationReleased
    | ReservationExpired
)

ATTEMPTS_MAX: Final = 100
"""Each lost attempt means that another tracker has answered on the same subject."""
LANES_MAX: Final = 1_000
"""Lanes whose position is kept; of others it is read from the log again."""

_log: Final = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for capacity: who asks, in which scope, by which event, where that stands in the
    log, and since when (wall clock of the log, ns).
    """

    request: ReservationRequested
    scope: Scope
    to: Address | None
    cause: str
    sequence: int
    time_ns: int

    @classmethod
    def by(cls, envelope: Envelope, request: ReservationRequested, stored: Stored) -> Asked:
        """What a stored request says of who asks. Raises ``CorruptError``."""
        if envelope.migration:
            scope = Scope.of_migration(envelope.migration, request.machine)
            return cls(request, scope, None, envelope.id, stored.sequence, stored.time_ns)
        if not NAME_PATTERN.fullmatch(envelope.host):
            raise CorruptError(f"no host can be called {envelope.host!r}")
        to = Address(envelope.host, Service.SOURCE_HOST)
        scope = Scope.of_machine(envelope.machine)
        return cls(request, scope, to, envelope.id, stored.sequence, stored.time_ns)


class Answers:
    """Writes the tracker's lanes. Used by one task."""

    def __init__(
        self, log: EventLog, clock: Clock, name: str, signer: Signer | None = None
    ) -> None:
        self._event_log = log
        self._clock = clock
        self._name = name
        self._signer = signer
        self._life = new_life(clock)
        self._lanes: OrderedDict[Scope, LaneWriter] = OrderedDict()

    async def tell(self, asked: Asked, event: AnswerEvent) -> None:
        """Write an answer unless it has been given since it was asked for.

        A host that died while it waited asks again, and is answered again. Raises
        ``UnreachableError`` once the log has been silent for too long.
        """
        lane = await self._lane(asked.scope)
        for _ in range(ATTEMPTS_MAX):
            sealed = lane.seal(event, to=asked.to, causation=asked.cause)
            standing = await self._last(sealed.subject)
            if standing is not None and self._is_told(standing, asked):
                return
            if await self._write(sealed, 0 if standing is None else standing.sequence):
                lane.advance(sealed)
                _log.info("answered", answer=event.TYPE, reservation=event.reservation)
                if asked.to is None and not isinstance(event, ReservationGranted):
                    await self._sign(lane)
                return
        raise ConflictError(f"{sealed.subject} changes all the time")

    async def _last(self, subject: str) -> Stored | None:
        return await patiently(lambda: self._event_log.last(subject))

    def _is_told(self, standing: Stored, asked: Asked) -> bool:
        recorded = codec.decode(standing.data, standing.sequence)
        is_same = _reservation_of(recorded.event) == asked.request.reservation
        return is_same and standing.sequence >= asked.sequence

    async def _write(self, sealed: Sealed, expected_sequence: int) -> bool:
        try:
            await patiently(
                lambda: sealed.append_to(self._event_log, expected_last_sequence=expected_sequence)
            )
        except AppendConflictError:
            return False
        return True

    async def _sign(self, lane: LaneWriter) -> None:
        """The migration needs no more of its reservation: sign what was said of it."""
        if self._signer is not None:
            signed = lane.sign(self._signer)
            await append_patiently(self._event_log, signed)
            lane.advance(signed)

    async def _lane(self, scope: Scope) -> LaneWriter:
        lane = self._lanes.get(scope)
        if lane is None:
            writer = Lane.TRACKER, self._name
            position = await patiently(
                lambda: position_in_log(self._event_log, *writer, scope, life=self._life)
            )
            lane = LaneWriter(self._clock, *writer, scope, position, life=self._life)
            self._lanes[scope] = lane
        self._lanes.move_to_end(scope)
        if len(self._lanes) > LANES_MAX:
            self._lanes.popitem(last=False)
        return lane


def _reservation_of(event: Event) -> str:
    return event.reservation if isinstance(event, AnswerEvent) else ""
