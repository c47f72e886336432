"""Which reservation each machine sits under, and which reservations are over, as the events say.

A fold of events alone: it must not know the ledger, whose lines come in an order of their own. So
it can be asked at any time what became of a reservation, whichever of the two was read first.
"""

from __future__ import annotations

from typing import Final

from godwit.runtime.event_log import EventLog
from godwit_protocol import codec, register, subjects
from godwit_protocol.events import Recorded
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import Outcome
from godwit_protocol.ledger import Holding
from godwit_protocol.roles.tracker import ReservationOver, ReservationUsed

FATES_MAX: Final = 100_000
"""Reservations whose fate is remembered, the newest. It matters until the ledger says the same."""
_SETTLED: Final = (Outcome.COMPLETED, Outcome.ABORTED)

Fate = ReservationUsed | ReservationOver


class Occupancy:
    """Folds events in the log's order."""

    def __init__(self) -> None:
        self._seats: dict[str, str] = {}
        """By machine: the reservation that it sits under."""
        self._left: dict[str, int] = {}
        """By machine: the epoch up to which it has left every seat, for it was stopped, lost or
        started anew.
        """
        self._arrivals: dict[str, int] = {}
        """By migration that has not ended: the first epoch in which its machine can have run at its
        new host.
        """
        self._fates: dict[str, Fate] = {}
        self._open: set[str] = set()

    def fate_of(self, reservation: str) -> Fate | None:
        """What became of a reservation; None if nothing yet."""
        return self._fates.get(reservation)

    def is_open(self, migration: str) -> bool:
        """Whether a migration runs, as far as is known, or ended so that nobody knows where."""
        return migration in self._open

    def learn(self, recorded: Recorded) -> tuple[Fate, ...]:
        """Take one event; return what it says of reservations."""
        envelope, event = recorded.envelope, recorded.event
        if isinstance(event, ev.MigrationRequested):
            self._open.add(envelope.migration)
        elif isinstance(event, ev.MigrationEnded) and event.outcome in _SETTLED:
            self._open.discard(envelope.migration)
        fates: tuple[Fate, ...] = ()
        match event:
            case ev.PreparationOrdered(register_epoch=epoch):
                self._arrivals[envelope.migration] = epoch + 1
            case ev.MigrationEnded(outcome=Outcome.COMPLETED):
                fates = self._arrive(envelope.machine, envelope.migration)
            case ev.MigrationEnded(outcome=Outcome.ABORTED):
                self._arrivals.pop(envelope.migration, None)
                why = f"the migration was aborted: {event.reason}"
                fates = (ReservationOver(reservation=envelope.migration, why=why),)
                if event.lost_epoch and not self._is_late(envelope.machine, event.lost_epoch):
                    self._has_left(envelope.machine, event.lost_epoch)
                    fates += self._leave(envelope.machine, f"machine {envelope.machine} is lost")
            case mev.MachineStarted():
                self._has_left(envelope.machine, event.register_epoch - 1)
                why = f"machine {envelope.machine} was started again"
                fates = self._seat(envelope.machine, event.start, why)
            case mev.MachineStartRefused():
                why = f"the start was refused: {event.code}"
                fates = (ReservationOver(reservation=event.start, why=why),)
            case mev.MachineStopped() if self._is_late(envelope.machine, event.register_epoch):
                pass
            case mev.MachineStopped():
                self._has_left(envelope.machine, event.register_epoch)
                fates = self._leave(envelope.machine, f"machine {envelope.machine} was stopped")
            case _:
                pass
        for fate in fates:
            self._remember(fate)
        return fates

    def _arrive(self, machine: str, migration: str) -> tuple[Fate, ...]:
        """A migration's end can come when its machine has been stopped at the new host since."""
        if self._is_late(machine, self._arrivals.pop(migration, 0)):
            why = f"machine {machine} has left since"
            return (ReservationOver(reservation=migration, why=why),)
        return self._seat(machine, migration, f"machine {machine} moved away")

    def _has_left(self, machine: str, epoch: int) -> None:
        self._left[machine] = max(epoch, self._left.get(machine, 0))

    def _is_late(self, machine: str, epoch: int) -> bool:
        """Whether a machine that was owned in ``epoch`` has been stopped or started anew since."""
        return 0 < epoch <= self._left.get(machine, 0)

    def _seat(self, machine: str, reservation: str, why_left: str) -> tuple[Fate, ...]:
        if self._seats.get(machine) == reservation:
            return ()
        left = self._leave(machine, why_left)
        self._seats[machine] = reservation
        return (*left, ReservationUsed(reservation=reservation))

    def _leave(self, machine: str, why: str) -> tuple[Fate, ...]:
        reservation = self._seats.pop(machine, None)
        return () if reservation is None else (ReservationOver(reservation=reservation, why=why),)

    def _remember(self, fate: Fate) -> None:
        self._fates.pop(fate.reservation, None)
        self._fates[fate.reservation] = fate
        if len(self._fates) > FATES_MAX:
            del self._fates[next(iter(self._fates))]


async def is_unused(log: EventLog, host: str, held: Holding) -> bool:
    """Whether nothing in the log, as it is now, says that a reservation on ``host`` is used, will
    be, or is over: neither its migration's events nor its machine's, nor the machine's register.

    Raises ``UnreachableError``, ``CorruptError``.
    """
    names = (held.reservation, held.machine)
    if not all(subjects.NAME_PATTERN.fullmatch(name) for name in names):
        return True  # no event can be about it
    occupancy = Occupancy()
    for filters in (
        subjects.whole_migration(held.reservation),
        subjects.whole_machine(held.machine),
    ):
        async for stored in log.read(filters):
            occupancy.learn(codec.decode(stored.data, stored.sequence))
    known = occupancy.fate_of(held.reservation) is not None
    if known or occupancy.is_open(held.reservation):
        return False
    standing = await log.last(subjects.register(held.machine))
    return standing is None or not register.may_run(register.decode(standing.data), host)
