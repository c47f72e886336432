"""One migration in a coordinator: facts into the core, effects out, from the request to the end.

It must not decide anything: that is ``godwit_protocol.roles.coordinator``. What stands in the log
is fed to the core, in order, whether it was there at the start or comes live; what the core then
wants written and is there already, is not written again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec
import structlog

from godwit.coordinator.claims import Claims
from godwit.coordinator.estimates import Estimates
from godwit.coordinator.facts import consider
from godwit.coordinator.links import LookAtLink, not_looked_at
from godwit.coordinator.losses import Losses
from godwit.runtime import telemetry
from godwit.runtime.clock import Clock
from godwit.runtime.event_log import AppendConflictError, EventLog
from godwit.runtime.lane import LaneWriter, Scope, Sealed
from godwit.runtime.patience import append_patiently, patiently
from godwit_protocol import codec
from godwit_protocol.catalogue import Catalogue
from godwit_protocol.errors import ConflictError, InDoubtError
from godwit_protocol.events import Event, Lane, Recorded
from godwit_protocol.events.bandwidth import BandwidthOrdered
from godwit_protocol.events.estimate import EstimateMade
from godwit_protocol.events.loss import LossOrdered
from godwit_protocol.events.migration import MigrationRequested, RunOrderRefused
from godwit_protocol.register import RegisterRecord
from godwit_protocol.roles import coordinator as core
from godwit_protocol.roles import effects as fx
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.coordinator_facts import Facts, input_of
from godwit_protocol.roles.inputs import Input
from godwit_protocol.stored import Stored

ATTEMPTS_MAX: Final = 10
"""To write a decision, each after another coordinator was faster."""
LOSS_ORDERS_MAX: Final = 100
"""So many orders to give the machine up are heard in one migration, and no more."""
_NANOSECONDS: Final = 1_000_000_000
_log: Final = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Fact:
    """An event that means something to the core, and when the log stored it."""

    recorded: Recorded
    time_ns: int


class _Standing(NamedTuple):
    """The last decision of a kind: its place in the log, and its number (see ``_number``)."""

    sequence: int
    number: int


_NOTHING: Final = _Standing(0, 0)


class Conductor:
    """Runs one migration. ``learn`` what is in the log, then ``run``, and go on to ``learn``."""

    def __init__(
        self,
        migration: str,
        requested: MigrationRequested,
        log: EventLog,
        clock: Clock,
        name: str,
        life: str,
        catalogue: Catalogue,
        estimates: Estimates | None,
        look_at_link: LookAtLink,
        losses: Losses,
    ) -> None:
        self.migration = migration
        self._machine = requested.machine
        self._event_log = log
        self._clock = clock
        self._name = name
        self._life = life
        self._catalogue = catalogue
        self._estimates = estimates
        self._look_at_link = look_at_link
        self._losses = losses
        self._claims = Claims(log, clock)
        self._state = core.begin(migration)
        self._facts: deque[_Fact] = deque()
        self._fact_came = asyncio.Event()
        self._known = Facts()
        self._loss_orders = 0
        self._refused: set[str] = set()
        """Orders, by their ids, that were answered by a refusal."""
        self._standing: dict[str, _Standing] = {}
        """The decisions that stand in the log, by subject."""

    def learn(self, stored: Stored, recorded: Recorded) -> None:
        """Take an event of the migration, in the log's order.

        As many wait at most as ``Facts`` lets through, and ``LOSS_ORDERS_MAX``.
        """
        envelope, event = recorded.envelope, recorded.event
        if envelope.lane is Lane.COORDINATOR:
            self._stands(stored.subject, stored.sequence, event)
        if isinstance(event, RunOrderRefused):
            self._refused.add(event.order)
        elif self._means_something(recorded):
            self._facts.append(_Fact(recorded, stored.time_ns))
            self._fact_came.set()

    def _means_something(self, recorded: Recorded) -> bool:
        event, host = recorded.event, recorded.envelope.host
        if isinstance(event, LossOrdered):
            self._loss_orders += 1
            return self._loss_orders <= LOSS_ORDERS_MAX
        known = isinstance(event, MigrationRequested) or input_of(event, host) is not None
        return known and self._known.is_new(event, host)

    async def run(self) -> None:
        """Carry the migration to its end. Raises any ``GodwitError``; all is in the log."""
        scope = Scope.of_migration(self.migration, self._machine)
        lane = LaneWriter(self._clock, Lane.COORDINATOR, self._name, scope, life=self._life)
        with telemetry.bound(migration=self.migration, machine=self._machine):
            if await patiently(lambda: self._claims.has_ended(self.migration)):
                return
            while self._state.phase is not core.Phase.ENDED:
                fact = await self._next_fact()
                if fact is None:
                    await self._step(inp.Tick(), self._clock.wall_ns(), lane)
                elif isinstance(fact.recorded.event, LossOrdered):
                    await self._answer(fact.recorded, fact.recorded.event, lane)
                else:
                    cause = fact.recorded.envelope.id
                    await self._step(await self._input_of(fact), fact.time_ns, lane, cause)

    async def _next_fact(self) -> _Fact | None:
        """The next fact, or None when the state's deadline has come first."""
        while not self._facts:
            self._fact_came.clear()
            try:
                async with asyncio.timeout(self._wait_s()):
                    await self._fact_came.wait()
            except TimeoutError:
                return None
        return self._facts.popleft()

    def _wait_s(self) -> float | None:
        deadline_ns = core.next_deadline_ns(self._state)
        if deadline_ns is None:
            return None
        return max(deadline_ns - self._clock.wall_ns(), 0) / _NANOSECONDS

    async def _input_of(self, fact: _Fact) -> Input:
        event = fact.recorded.event
        if isinstance(event, MigrationRequested):
            return await self._consider(event)
        given = input_of(event, fact.recorded.envelope.host)
        assert given is not None
        return given

    async def _consider(self, requested: MigrationRequested) -> inp.Considered:
        """What is decided already was found compatible then. It stays so: the hosts have changed
        since, if only because the migration takes memory.
        """
        look = not_looked_at if self._standing else self._look_at_link

        async def estimate(record: RegisterRecord | None) -> EstimateMade | None:
            return await self._estimated(requested, record)

        considered = await patiently(
            lambda: consider(self._event_log, self._catalogue, requested, look, estimate)
        )
        refusals = () if self._standing else considered.refusals
        return msgspec.structs.replace(considered, refusals=refusals)

    async def _estimated(
        self, requested: MigrationRequested, record: RegisterRecord | None
    ) -> EstimateMade | None:
        estimates = self._estimates
        if estimates is None or record is None or record.owner == requested.destination:
            return None
        return await estimates.of(self.migration, requested, record.owner)

    async def _step(self, given: Input, now_ns: int, lane: LaneWriter, cause: str = "") -> None:
        """Tell the core, do what it wants, and tell it what came of that."""
        before = self._state.phase
        self._state, effects = core.step(self._state, given, now_ns)
        if self._state.phase is not before:
            _log.info("phase", phase=self._state.phase, on=type(given).__name__)
        for effect in effects:
            result = await self._do(effect, lane, cause)
            if result is not None:
                await self._step(result, self._clock.wall_ns(), lane, cause)

    async def _do(self, effect: fx.Effect, lane: LaneWriter, cause: str) -> Input | None:
        match effect:
            case fx.Append(event=event, to=to):
                await self._append(lane, event, to, cause)
            case fx.TakeClaim(machine=machine):
                holder = await patiently(lambda: self._claims.take(machine, self.migration))
                return inp.ClaimSettled(won=holder == self.migration, holder=holder)
            case fx.ReleaseClaim(machine=machine):
                await patiently(lambda: self._claims.release(machine, self.migration))
                return inp.ClaimReleased()
            case fx.WriteOff(machine=machine, epoch=epoch):
                lost_epoch = await patiently(
                    lambda: self._losses.write_off(machine, self.migration, epoch)
                )
                return inp.WrittenOff(epoch=lost_epoch)
            case fx.Finish():
                pass
            case _:
                raise TypeError(f"not an effect of the coordinator: {effect}")
        return None

    async def _answer(self, order: Recorded, event: LossOrdered, lane: LaneWriter) -> None:
        """Write the proof that an operator's order to give the machine up needs, or why there is
        none. What the proof leads to, the core says when it comes from the log. An order that was
        refused once stays so: a coordinator that starts anew finds it again.
        """
        order_id, hosts = order.envelope.id, core.unproven(self._state)
        if order_id in self._refused:
            return
        try:
            proofs = await patiently(lambda: self._losses.prove_off(hosts, event.requested_by))
        except InDoubtError as error:
            _log.warning("loss_refused", error=error.message)
            await self._say(RunOrderRefused(order=order_id, message=error.message), lane, order_id)
            return
        for proof in proofs:
            _log.warning("host_fenced", host=proof.target, by=proof.program or proof.vouched_by)
            await self._say(proof, lane, order_id)

    async def _say(self, event: Event, lane: LaneWriter, cause: str) -> None:
        """Write what is no decision: another replica may say the same."""
        sealed = lane.seal(event, causation=cause)
        await append_patiently(self._event_log, sealed)
        lane.advance(sealed)

    async def _append(
        self, lane: LaneWriter, event: Event, to: fx.Address | None, cause: str
    ) -> None:
        """Write a decision, unless it stands, or a later one of its kind does. That one goes, and
        comes by itself.
        """
        for _ in range(ATTEMPTS_MAX):
            sealed = lane.seal(event, to=to, causation=cause)
            standing = self._standing.get(sealed.subject, _NOTHING)
            if standing.number >= _number(event):
                return
            if await self._write(sealed, lane, standing.sequence, event):
                return
            await self._adopt(sealed.subject)
        raise ConflictError(f"the decisions {event.TYPE} of {self.migration} change all the time")

    async def _write(
        self, sealed: Sealed, lane: LaneWriter, after_sequence: int, event: Event
    ) -> bool:
        """Whether it stands now. If not, another coordinator was faster."""
        try:
            sequence = await patiently(
                lambda: sealed.append_to(self._event_log, expected_last_sequence=after_sequence)
            )
        except AppendConflictError:
            return False
        _log.info("decided", decision=event.TYPE)
        lane.advance(sealed)
        self._stands(sealed.subject, sequence, event)
        return True

    async def _adopt(self, subject: str) -> None:
        """Take what another coordinator has decided, or an earlier life of this one."""
        stored = await patiently(lambda: self._event_log.last(subject))
        assert stored is not None
        recorded = codec.decode(stored.data, stored.sequence)
        envelope = recorded.envelope
        _log.info("decided elsewhere", decision=envelope.type, by=envelope.host)
        self._stands(subject, stored.sequence, recorded.event)

    def _stands(self, subject: str, sequence: int, event: Event) -> None:
        """Remember a decision that stands in the log; an older one may be heard of later."""
        found = _Standing(sequence, _number(event))
        self._standing[subject] = max(found, self._standing.get(subject, _NOTHING))


def _number(event: Event) -> int:
    """Of a decision among those of its kind: all but one kind are taken once."""
    return event.change if isinstance(event, BandwidthOrdered) else 1
