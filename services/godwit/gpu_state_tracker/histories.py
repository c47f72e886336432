"""What machines write and links carry, as the tracker knows it: folded, kept in the log, compared.

Windows come as telemetry from the hosts, link samples from migrations that have completed. Each
change is written to a stream that holds one message a subject, so a tracker that starts finds the
windows there, and whoever wants an estimate needs no tracker. Knows nothing of GPUs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Final, NamedTuple, TypeVar, cast

import structlog

from godwit.runtime.clock import Clock
from godwit.runtime.event_log import AppendConflictError, EventLog
from godwit.runtime.lane import LaneWriter, Scope
from godwit.runtime.patience import append_patiently, patiently
from godwit.runtime.signing import Signer
from godwit_protocol import codec, subjects
from godwit_protocol.errors import CorruptError, InvalidInputError
from godwit_protocol.estimation import history as hist
from godwit_protocol.estimation import record
from godwit_protocol.estimation.forecast import Estimate
from godwit_protocol.estimation.history import DirtyWindow, LinkHistory, MachineHistory
from godwit_protocol.events import Event, Lane, Recorded
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.events.estimate import EstimateCompared, EstimateMade
from godwit_protocol.projections import MigrationSummary, fold
from godwit_protocol.stored import Stored
from godwit_protocol.subjects import NAME_PATTERN

MACHINES_MAX: Final = 10_000
LINKS_MAX: Final = 10_000
MIGRATIONS_MAX: Final = 10_000
"""Migrations that are followed at a time, the newest."""

_MAYBE_ADDRESSED: Final[tuple[type[Event], ...]] = (ev.PreparationOrdered, ev.MachineActivated)
_OF_MIGRATIONS: Final[tuple[type[Event], ...]] = (
    *_MAYBE_ADDRESSED,
    ev.MigrationRequested,
    ev.RoundCompleted,
    ev.MachineStunned,
    ev.FinalCopySent,
    ev.MigrationEnded,
    EstimateMade,
    EstimateCompared,
)
EVENTS: Final = (
    *(subjects.migration("*", "*", kind.TYPE) for kind in _OF_MIGRATIONS),
    *(subjects.addressed("*", "*", "migration", "*", "*", kind.TYPE) for kind in _MAYBE_ADDRESSED),
    subjects.machine("*", Lane.SOURCE, mev.MachineStarted.TYPE),
)
WINDOWS: Final = (subjects.telemetry("machine", "*", "writes"),)
KEPT: Final = (subjects.machine_history("*"),)
KEPT_LINKS: Final = (subjects.link_history("*", "*"),)
"""They go back before what the events tell: an archived migration has none any more."""

_log: Final = structlog.get_logger(__name__)

K = TypeVar("K")
V = TypeVar("V")


class _Move(NamedTuple):
    """A migration that has not been learned from yet."""

    summary: MigrationSummary
    estimate: Estimate | None = None


class Histories:
    """One replica's. Used on one event loop."""

    def __init__(
        self, log: EventLog, clock: Clock, name: str, signer: Signer | None = None
    ) -> None:
        """``name``: the tracker's; its estimates are a lane writer of their own."""
        self._event_log = log
        self._clock = clock
        self._name = f"{name}-estimates"
        self._signer = signer
        self._machines: dict[str, MachineHistory] = {}
        self._started_epochs: dict[str, int] = {}
        self._links: dict[tuple[str, str], LinkHistory] = {}
        self._moves: dict[str, _Move] = {}
        self._uncompared: dict[str, tuple[str, EstimateCompared]] = {}
        """By migration: its machine, and what nobody has written yet of its estimate."""

    async def run(self) -> None:
        """Fold what the log holds, then follow it until cancelled. Raises ``UnreachableError``."""
        last_sequence = 0
        async for stored in self._event_log.read(KEPT_LINKS):
            self._take_link_back(stored)
        async for stored in self._event_log.read(EVENTS):
            self._learn_event(stored)
            last_sequence = stored.sequence
        async for stored in self._event_log.read(KEPT):
            self._take_back(stored)
        news = await self._learn_kept_windows()
        for machine in {learned.machine for learned in news if learned is not None}:
            await self._keep_machine(self._machines[machine])
        for link in self._links.values():
            await self._keep_link(link)
        await self._tell_compared()
        async with asyncio.TaskGroup() as both:
            both.create_task(self._follow_events(last_sequence))
            both.create_task(self._follow_windows())

    async def _learn_kept_windows(self) -> list[MachineHistory | None]:
        """The windows that came while no tracker listened, if they are still there: telemetry is
        kept in memory, and a server that was restarted has not even the stream.
        """
        try:
            return [
                self._learn_window(stored.subject, stored.data)
                async for stored in self._event_log.read(WINDOWS)
            ]
        except InvalidInputError as error:
            _log.warning("no telemetry kept", error=error.message)
            return []

    async def _follow_events(self, after: int) -> None:
        async for stored in self._event_log.tail(EVENTS, after_sequence=after):
            link = self._learn_event(stored)
            if link is not None:
                await self._keep_link(link)
            await self._tell_compared()

    async def _follow_windows(self) -> None:
        heard = cast("AsyncGenerator[tuple[str, bytes], None]", self._event_log.listen(WINDOWS))
        async with aclosing(heard):
            async for subject, data in heard:
                learned = self._learn_window(subject, data)
                if learned is not None:
                    await self._keep_machine(learned)

    # Windows.

    def _learn_window(self, subject: str, data: bytes) -> MachineHistory | None:
        """The machine's history after a window; None if that is not news, or none at all."""
        try:
            window = hist.decode_window(data)
        except CorruptError as error:
            _log.warning("unreadable window", subject=subject, error=error.message)
            return None
        known = self._machines.get(window.machine, MachineHistory(machine=window.machine))
        if not self._is_news(window, subject, known):
            return None
        return self._with_machine(known.with_window(window))

    def _is_news(self, window: DirtyWindow, subject: str, known: MachineHistory) -> bool:
        newest_ns = known.windows[-1].taken_wall_ns if known.windows else 0
        return (
            subject == subjects.telemetry("machine", window.machine, "writes")
            and NAME_PATTERN.fullmatch(window.machine) is not None
            and window.epoch >= self._started_epochs.get(window.machine, 0)
            and window.taken_wall_ns > newest_ns
        )

    def _take_back(self, stored: Stored) -> None:
        """What a tracker kept before."""
        try:
            machine = hist.decode_machine(stored.data)
        except CorruptError as error:
            _log.warning("unreadable history", subject=stored.subject, error=error.message)
            return
        self._with_machine(machine.since(self._started_epochs.get(machine.machine, 0)))

    def _take_link_back(self, stored: Stored) -> None:
        try:
            link = hist.decode_link(stored.data)
        except CorruptError as error:
            _log.warning("unreadable history", subject=stored.subject, error=error.message)
            return
        _put(self._links, (link.source, link.destination), link, LINKS_MAX)

    def _with_machine(self, machine: MachineHistory) -> MachineHistory:
        _put(self._machines, machine.machine, machine, MACHINES_MAX)
        return machine

    # Migrations.

    def _learn_event(self, stored: Stored) -> LinkHistory | None:
        """The history of the link that the event says more of; None if it says nothing of one."""
        try:
            recorded = codec.decode(stored.data, stored.sequence)
        except CorruptError as error:
            _log.warning("unreadable event", subject=stored.subject, error=error.message)
            return None
        envelope, event = recorded.envelope, recorded.event
        match event:
            case mev.MachineStarted():
                _put(self._started_epochs, envelope.machine, event.register_epoch, MACHINES_MAX)
                known = self._machines.get(envelope.machine)
                if known is not None:
                    self._with_machine(known.since(event.register_epoch))
            case ev.MigrationRequested():
                move = _Move(MigrationSummary(id=envelope.migration))
                _put(self._moves, envelope.migration, move, MIGRATIONS_MAX)
            case EstimateCompared():
                self._uncompared.pop(envelope.migration, None)
            case _:
                pass
        return self._learn_of_move(recorded)

    def _learn_of_move(self, recorded: Recorded) -> LinkHistory | None:
        migration, event = recorded.envelope.migration, recorded.event
        move = self._moves.get(migration)
        if move is None:
            return None
        if isinstance(event, EstimateMade):
            move = move._replace(estimate=event.estimate)
        move = move._replace(summary=fold(move.summary, recorded))
        self._moves[migration] = move
        if not record.is_whole(move.summary):
            return None
        del self._moves[migration]
        return self._learn_from(move)

    def _learn_from(self, move: _Move) -> LinkHistory | None:
        summary = move.summary
        compared = record.compared(summary, move.estimate) if move.estimate else None
        if compared is not None:
            _put(self._uncompared, summary.id, (summary.machine, compared), MIGRATIONS_MAX)
        sample = record.link_sample(summary)
        if sample is None:
            return None
        ends = sample.source, sample.destination
        known = self._links.get(ends, LinkHistory(source=ends[0], destination=ends[1]))
        link = known.with_sample(sample)
        _put(self._links, ends, link, LINKS_MAX)
        return link

    async def _tell_compared(self) -> None:
        """Write what came of the estimates, unless another replica has."""
        while self._uncompared:
            migration, (machine, compared) = next(iter(self._uncompared.items()))
            with suppress(AppendConflictError):  # another replica was first
                await self._write(Scope.of_migration(migration, machine), compared)
                _log.info("estimate compared", migration=migration, within=compared.within)
            self._uncompared.pop(migration, None)

    async def _write(self, scope: Scope, compared: EstimateCompared) -> None:
        lane = LaneWriter(self._clock, Lane.TRACKER, self._name, scope)
        sealed = lane.seal(compared)
        await patiently(lambda: sealed.append_to(self._event_log, expected_last_sequence=0))
        if self._signer is not None:
            lane.advance(sealed)
            signed = lane.sign(self._signer)
            await append_patiently(self._event_log, signed)

    async def _keep_machine(self, machine: MachineHistory) -> None:
        await self._keep(subjects.machine_history(machine.machine), hist.encode(machine))

    async def _keep_link(self, link: LinkHistory) -> None:
        await self._keep(subjects.link_history(link.source, link.destination), hist.encode(link))

    async def _keep(self, subject: str, data: bytes) -> None:
        message_id = self._clock.new_id()
        await patiently(lambda: self._event_log.append(subject, data, message_id=message_id))


def _put(kept: dict[K, V], key: K, value: V, count_max: int) -> None:
    """Put it last, and let the first go if there are too many."""
    kept.pop(key, None)
    kept[key] = value
    if len(kept) > count_max:
        del kept[next(iter(kept))]
