"""The tracker's core with the log around it: lines and events in, lines and answers out.

It must not decide where anything fits: that is ``godwit_protocol.roles.tracker``. The history is
folded first and nothing is written; ``begin`` then does what the history lacks, as after any crash.
"""

from __future__ import annotations

from typing import Final

import structlog

from godwit.gpu_state_tracker.answers import AnswerEvent, Answers, Asked
from godwit.gpu_state_tracker.occupancy import Occupancy, is_unused
from godwit.runtime import telemetry
from godwit.runtime.clock import Clock
from godwit.runtime.event_log import AppendConflictError, EventLog, LogFullError
from godwit.runtime.signing import Signer
from godwit_protocol import codec, ledger, subjects
from godwit_protocol.catalogue import Catalogue
from godwit_protocol.errors import CorruptError, UnreachableError
from godwit_protocol.events import Envelope, Recorded
from godwit_protocol.events.machine import HostAnnounced
from godwit_protocol.events.reservation import (
    ReservationExpired,
    ReservationRefused,
    ReservationReleased,
    ReservationRequested,
)
from godwit_protocol.ledger import EntryKind, Holding, HostPicture, Refusal, RefusalCode
from godwit_protocol.roles import tracker as core
from godwit_protocol.roles.effects import Effect
from godwit_protocol.roles.inputs import Input
from godwit_protocol.stored import Stored

ASKED_MAX: Final = 100_000
"""Requests that are remembered until their reservation is over, the newest."""
_LAST_ANSWERS: Final = (ReservationRefused, ReservationReleased, ReservationExpired)

_log: Final = structlog.get_logger(__name__)


class Tracker:
    """One replica. Used by one task: what it writes is written in order."""

    def __init__(
        self,
        log: EventLog,
        clock: Clock,
        name: str,
        catalogue: Catalogue,
        signer: Signer | None = None,
    ) -> None:
        self.name = name
        self._event_log = log
        self._clock = clock
        self._answers = Answers(log, clock, name, signer)
        self._state = core.TrackerState(catalogue=catalogue)
        self._occupancy = Occupancy()
        self._asked: dict[str, Asked] = {}
        self._unanswered: dict[str, Asked] = {}
        """Of ``_asked``, what the history has not answered."""
        self._untold: dict[str, AnswerEvent] = {}
        """What the ledger says of each reservation, if the events do not say it too."""
        self._overdue: dict[str, AnswerEvent] = {}
        """Of ``_untold``, what was so at the last retry: whoever should have said it is gone."""
        self._own_lines: set[int] = set()
        """Sequences of the lines that this replica wrote, until they come back."""
        self._begun = False

    @property
    def pictures(self) -> dict[str, HostPicture]:
        """Each host's GPUs and what is held on them, as this replica knows it."""
        return self._state.hosts

    async def learn(self, stored: Stored) -> None:
        """Take the next line of a ledger, or the next event. What cannot be read is passed over.

        Raises ``UnreachableError`` once the log has been silent for too long.
        """
        try:
            if subjects.stream_of(stored.subject) == subjects.LEDGER:
                await self._learn_line(stored)
            else:
                await self._learn_event(stored, codec.decode(stored.data, stored.sequence))
        except CorruptError as error:
            _log.error("unreadable", subject=stored.subject, error=error.message)

    async def begin(self) -> None:
        """The history is known: answer what it left open, and end what it left held."""
        self._begun = True
        untold, self._untold = self._untold, {}
        for reservation, answer in untold.items():
            await self._tell(reservation, answer)
        for asked in tuple(self._unanswered.values()):
            await self._want(asked)
        self._unanswered.clear()
        held = [name for picture in self._state.hosts.values() for name in picture.holdings]
        for reservation in held:
            await self._settle(reservation)

    async def retry(self) -> None:
        """Write again what could not be written, and say what another replica should have said by
        now; to be called now and then.
        """
        self._state, effects = core.retry(self._state)
        await self._do(effects)
        overdue, self._overdue, self._untold = self._overdue, self._untold, {}
        for reservation, answer in overdue.items():
            await self._tell(reservation, answer)

    async def end_lapsed(self) -> None:
        """End the reservations whose deadline has passed unused; to be called now and then.

        What this replica has read may be old, so the log is asked again before anything is ended.
        """
        now_wall_ns = self._clock.wall_ns()
        for picture in tuple(self._state.hosts.values()):
            for held in tuple(picture.holdings.values()):
                if held.has_lapsed(now_wall_ns) and await self._is_unused(picture.host, held):
                    lapsed = core.ReservationLapsed(
                        reservation=held.reservation, now_wall_ns=now_wall_ns
                    )
                    await self._step(lapsed)

    async def _is_unused(self, host: str, held: Holding) -> bool:
        """Whether the log shows that nobody uses a reservation or might. What cannot be read counts
        as a use.
        """
        if self._occupancy.is_open(held.reservation):
            return False
        try:
            return await is_unused(self._event_log, host, held)
        except (CorruptError, UnreachableError) as error:
            _log.warning("use unknown", reservation=held.reservation, error=error.message)
            return False

    async def _learn_line(self, stored: Stored) -> None:
        try:
            entry = ledger.line_of(stored)
        except CorruptError as error:
            # It counts all the same: written as if it were not there, every later line would lose.
            _log.error("unreadable line", subject=stored.subject, error=error.message)
            host = stored.subject.rpartition(".")[2]
            await self._step(core.LedgerUnreadable(host=host, sequence=stored.sequence))
            return
        given = core.LedgerStored(entry=entry, sequence=stored.sequence)
        self._state, effects = core.step(self._state, given)
        is_own = stored.sequence in self._own_lines
        self._own_lines.discard(stored.sequence)
        await self._do(effects, leave=None if is_own else entry.reservation)
        if entry.kind is EntryKind.HELD and self._begun:
            await self._settle(entry.reservation)

    async def _learn_event(self, stored: Stored, recorded: Recorded) -> None:
        envelope, event = recorded.envelope, recorded.event
        if f".{_scope_id(envelope)}." not in f"{stored.subject}.":
            raise CorruptError(f"event {envelope.id} is about something else than its subject")
        if isinstance(event, HostAnnounced):
            await self._step(core.HostSeen(host=envelope.host, gpus=event.gpus))
        elif isinstance(event, ReservationRequested):
            await self._learn_request(Asked.by(envelope, event, stored))
        elif isinstance(event, AnswerEvent):
            self._learn_answer(event)
        else:
            for fate in self._occupancy.learn(recorded):
                if self._begun:
                    await self._step(fate)

    async def _learn_request(self, asked: Asked) -> None:
        reservation = asked.request.reservation
        self._asked.pop(reservation, None)
        self._asked[reservation] = asked
        if len(self._asked) > ASKED_MAX:
            del self._asked[next(iter(self._asked))]
        if self._begun:
            await self._want(asked)
        else:
            self._unanswered[reservation] = asked

    def _learn_answer(self, event: AnswerEvent) -> None:
        self._unanswered.pop(event.reservation, None)
        for untold in (self._untold, self._overdue):
            if type(untold.get(event.reservation)) is type(event):
                del untold[event.reservation]
        if isinstance(event, _LAST_ANSWERS):
            self._asked.pop(event.reservation, None)

    async def _want(self, asked: Asked) -> None:
        """Ask the core for capacity, unless whoever asked is gone already."""
        request = asked.request
        if not _is_sound(request):
            _log.error("malformed request", target=request.target[:80])
            return
        if self._occupancy.fate_of(request.reservation) is not None:
            return
        wanted = ledger.wanted(request.profiles, request.framebuffer_bytes, self._state.catalogue)
        if not subjects.NAME_PATTERN.fullmatch(request.target):
            message = f"no host can be called {request.target!r}"
            wanted = Refusal(code=RefusalCode.HOST_UNKNOWN, message=message)
        if isinstance(wanted, Refusal):
            await self._tell(request.reservation, _refused(request, wanted))
            return
        await self._step(
            core.ReservationWanted(
                reservation=request.reservation,
                machine=request.machine,
                host=request.target,
                vgpus=wanted,
                policy=request.placement_policy,
                group=request.device_group,
                expires_wall_ns=asked.time_ns + ledger.RESERVATION_LIFE_NS,
                gpus=request.gpus,
            )
        )

    async def _settle(self, reservation: str) -> None:
        """Say of a reservation in the ledger what the events have said of it before."""
        fate = self._occupancy.fate_of(reservation)
        if fate is not None:
            await self._step(fate)

    async def _step(self, given: Input) -> None:
        self._state, effects = core.step(self._state, given)
        await self._do(effects)

    async def _do(self, effects: tuple[Effect, ...], leave: str | None = None) -> None:
        """Do them. What is to be said of the reservation ``leave`` is left to another replica."""
        for effect in effects:
            match effect:
                case core.WriteLedger():
                    await self._write(effect)
                case core.Answer():
                    answer = effect.append.event
                    assert isinstance(answer, AnswerEvent)
                    if effect.reservation == leave and self._begun:
                        self._leave(effect.reservation, answer)
                    else:
                        await self._tell(effect.reservation, answer)
                case _:
                    raise TypeError(f"not an effect of the tracker: {effect}")

    async def _write(self, effect: core.WriteLedger) -> None:
        """Write a line. The tail brings it, or whichever line was there first."""
        entry = effect.entry
        try:
            sequence = await self._event_log.append(
                subjects.ledger(entry.host),
                ledger.encode_entry(entry),
                message_id=self._clock.new_id(),
                expected_last_sequence=effect.expected_sequence,
            )
        except (AppendConflictError, LogFullError, UnreachableError) as error:
            _log.info("line not written", kind=entry.kind, host=entry.host, error=error.message)
            await self._step(core.LedgerRefused(host=entry.host))
        else:
            self._own_lines.add(sequence)
            _log.info(
                "line written", kind=entry.kind, host=entry.host, reservation=entry.reservation
            )

    def _leave(self, reservation: str, answer: AnswerEvent) -> None:
        """The line's writer says it, at once. If it died before it could, ``retry`` makes good."""
        if reservation in self._asked:
            self._untold[reservation] = answer

    async def _tell(self, reservation: str, answer: AnswerEvent) -> None:
        if not self._begun:
            self._untold[reservation] = answer
            return
        asked = self._asked.get(reservation)
        if asked is None:
            return  # told before: by another replica, or by an earlier life
        with telemetry.bound(migration=_migration_of(asked), machine=asked.request.machine):
            await self._answers.tell(asked, answer)


def _scope_id(envelope: Envelope) -> str:
    return envelope.migration or envelope.machine or envelope.host


def _migration_of(asked: Asked) -> str:
    return asked.scope.id if asked.to is None else ""


def _is_sound(request: ReservationRequested) -> bool:
    """Whether a line of it could be read again: a ledger's line is bounded."""
    short = len(request.reservation) <= ledger.RESERVATION_ID_MAX
    return short and subjects.NAME_PATTERN.fullmatch(request.machine) is not None


def _refused(request: ReservationRequested, refusal: Refusal) -> ReservationRefused:
    return ReservationRefused(
        reservation=request.reservation,
        target=request.target,
        code=refusal.code,
        message=refusal.message,
    )
