"""What each fact says in figures, taken by the service that wrote it, once it is in the log.

Whoever else reads the fact does not count it: so the figures of all services add up. Must not know
how a fact came to be written or stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from godwit_protocol.events import Recorded
from godwit_protocol.events import estimate as est
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.events import reservation as rev

from . import definitions as metrics
from .definitions import Own
from .figures import Figures, Reading

MOVES_MAX: Final = 1_000
"""Migrations away from a host whose last round is remembered, the newest."""
_NS: Final = 1e9
_ANSWERS: Final = {
    rev.ReservationGranted: "granted",
    rev.ReservationRefused: "refused",
    rev.ReservationConfirmed: "confirmed",
    rev.ReservationReleased: "released",
    rev.ReservationExpired: "expired",
}


class Facts:
    """Turns the facts that a service writes into its figures."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._last_rounds: dict[str, ev.RoundCompleted] = {}
        """By migration, while it is in pre-copy."""
        if metrics.ROUNDS in figures.metrics:
            figures.ask(self._rounds_now)

    def learn(self, recorded: Recorded) -> None:
        """Take a fact. One that says nothing in figures is passed over."""
        event = recorded.event
        match event:
            case ev.RoundCompleted():
                self._round(recorded.envelope.migration, event)
            case ev.FinalCopySent():
                self._figures.add(metrics.SENT_BYTES, "stun", amount=event.sent_bytes)
            case ev.MachineReleased() | ev.MigrationAbandoned():
                self._last_rounds.pop(recorded.envelope.migration, None)
            case (
                ev.DoubtRaised()
                | ev.MemoryLeft()
                | mev.StaleMachineFrozen()
                | mev.RegisterWentBack()
            ):
                self._figures.add(metrics.ALARMS_RAISED, event.TYPE)
            case mev.MachineFailed():
                self._figures.add(metrics.MACHINES_FAILED)
            case est.EstimateCompared():
                self._figures.add(metrics.ESTIMATES, str(event.within).lower())
            case _ if answer := _ANSWERS.get(type(event)):
                self._figures.add(metrics.RESERVATIONS, answer)
            case _:
                self._owned(recorded)
        if isinstance(event, ev.MachineTakenBack):
            self._last_rounds.pop(recorded.envelope.migration, None)

    def _round(self, migration: str, done: ev.RoundCompleted) -> None:
        figures = done.figures
        self._figures.add(metrics.ROUNDS, done.decision)
        self._figures.observe(metrics.ROUND_SECONDS, figures.duration_ns / _NS)
        self._figures.add(metrics.SENT_BYTES, "precopy", amount=figures.sent_bytes)
        self._figures.add(metrics.WIRE_BYTES, amount=figures.wire_bytes)
        self._last_rounds.pop(migration, None)
        self._last_rounds[migration] = done
        if len(self._last_rounds) > MOVES_MAX:
            del self._last_rounds[next(iter(self._last_rounds))]

    def _owned(self, recorded: Recorded) -> None:
        """Count a change of owner, if the fact is one."""
        event = recorded.event
        match event:
            case mev.MachineStarted():
                by, epoch = Own.STARTED, event.register_epoch
            case mev.RegisterRestored():
                by, epoch = Own.RESTORED, event.register_epoch
            case ev.MachineActivated():
                by, epoch = Own.ACTIVATED, recorded.envelope.epoch
            case ev.MachineTakenBack():
                by, epoch = Own.TAKEN_BACK, recorded.envelope.epoch
            case _:
                return
        self._figures.add(metrics.OWNERSHIP_CHANGES, by)
        self._figures.raise_to(metrics.OWNERSHIP_EPOCH, epoch)

    def _rounds_now(self) -> Iterator[Reading]:
        rounds = self._last_rounds.values()
        transfer = sum(done.bandwidth_bytes_per_second for done in rounds)
        dirty = sum(done.dirty_bytes_per_second for done in rounds)
        remaining = sum(done.figures.remaining_bytes for done in rounds)
        longest_ns = max((done.predicted_stun_ns for done in rounds), default=0)
        slowest = max((done.slow_percent for done in rounds), default=0)
        yield Reading(metrics.TRANSFER_RATE, transfer)
        yield Reading(metrics.DIRTY_RATE, dirty)
        yield Reading(metrics.REMAINING_BYTES, remaining)
        yield Reading(metrics.PREDICTED_STUN_SECONDS, longest_ns / _NS)
        yield Reading(metrics.THROTTLE_RATIO, slowest / 100)
