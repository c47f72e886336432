"""The source host's service: its inbox, its machines, and its departures.

Machines outlive it. At its start it announces what the host has, finds the machines that run here,
and goes on with every migration that a former life of it left in a journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

import structlog
from msgspec.structs import replace

from godwit.gpus.port import GpuSource
from godwit.host.context import HostContext
from godwit.host.inbox import Inbox
from godwit.host.journals import Journals, OpenMigration
from godwit.host.orders import answer_order
from godwit.host.orphans import RAN, Orphans
from godwit.runtime import telemetry
from godwit.runtime.health import Health
from godwit.runtime.lane import Scope, position_in_log
from godwit.runtime.patience import DECISION_S_MAX, patiently
from godwit.transfer.pacing import SharedLink
from godwit_protocol import codec, subjects
from godwit_protocol.errors import GodwitError
from godwit_protocol.events import Lane, Recorded
from godwit_protocol.events import bandwidth as bev
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.events import reservation as rev
from godwit_protocol.events.migration import AbortReason
from godwit_protocol.register import NO_REGISTER, UNOWNED, RegisterView
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles import source, succession
from godwit_protocol.roles.effects import Effect
from godwit_protocol.roles.recovery import recover_source
from godwit_protocol.roles.source_state import SourceState

from .departure import Departure
from .inventory import Inventory
from .machines import Machines, is_failed

SERVICE: Final = "source_host"
WATCH_S: Final = 2.0
LET_GO_S_MAX: Final = 10.0
"""How long a migration that is over may still hold its machine before a stop is refused for it."""

_log = structlog.get_logger(__name__)


class SourceHost:
    """The service of one host that runs its machines and sends them away."""

    def __init__(
        self, host: HostContext, tasks: asyncio.TaskGroup, health: Health, gpus: GpuSource
    ) -> None:
        self._host = host
        self._tasks = tasks
        self._health = health
        self._inbox = Inbox(host.log, host.name, SERVICE, host.disk.cursor(SERVICE))
        self._journals = Journals(host, SERVICE, Lane.SOURCE)
        self._departures: dict[str, Departure] = {}
        self._beginning = ""
        """The machine whose departure is about to be among them."""
        self._hopeless: set[str] = set()
        """Migrations that came while their machine was being started or stopped: they are given up
        without a touch of it, and keep nothing from being done to it.
        """
        self._departing: dict[str, asyncio.Task[None]] = {}
        self._machines = Machines(host, self._is_moving, self._until_let_go)
        self._inventory = Inventory(host, gpus)
        self._link = SharedLink(host.config.link_bandwidth)
        self._orphans = Orphans(host, RAN, self._is_busy, self._machines.tell)
        self._answering = asyncio.Lock()
        self._reported: dict[str, int] = {}
        """Machines that failed, and the register's epoch in which the log says so."""

    @property
    def open(self) -> tuple[str, ...]:
        """The migrations that this service has a part in now."""
        return tuple(self._departures)

    async def run(self) -> None:
        """Serve until cancelled."""
        await self._inventory.announce()
        for vmm in await self._host.hypervisor.find_all():
            _log.info("machine_found", machine=vmm.name)
        for migration in self._journals.leftovers():
            await self._recover(migration)
        self._journals.keep_blank()
        self._tasks.create_task(self._inventory.follow())
        self._tasks.create_task(self._watch_machines())
        self._tasks.create_task(self._orphans.watch())
        self._health.ready = True
        async for decision in self._inbox.decisions():
            with telemetry.bound(
                migration=decision.envelope.migration, machine=decision.envelope.machine
            ):
                await self._take(decision)

    async def _take(self, decision: Recorded) -> None:
        event, migration = decision.event, decision.envelope.migration
        match event:
            case mev.MachineStartRequested():
                self._carry_out(decision, self._machines.start(event))
            case mev.MachineStopRequested():
                machine = decision.envelope.machine
                self._carry_out(decision, self._machines.stop(machine, event))
            case mev.MachinePauseRequested() | mev.MachineResumeRequested():
                machine = decision.envelope.machine
                self._carry_out(decision, self._machines.pause(machine, event))
            case ev.MigrationStarted():
                await self._depart(decision, event)
                self._inbox.finish(decision)
            case ev.RunOrdered() if departure := self._departures.get(migration):
                departure.note(decision)
                departure.order(decision.envelope.id, event, is_new=True)
                self._inbox.finish(decision)
            case ev.RunOrdered():
                self._carry_out(decision, self._answer(decision))
            case _:
                self._tell(decision)
                self._inbox.finish(decision)

    async def _answer(self, order: Recorded) -> None:
        async with self._answering:
            await patiently(
                lambda: answer_order(self._host, Lane.SOURCE, order), patience_s=DECISION_S_MAX
            )

    def _tell(self, decision: Recorded) -> None:
        event, migration = decision.event, decision.envelope.migration
        self._note(decision)
        match event:
            case ev.RunOrdered() if departure := self._departures.get(migration):
                departure.order(decision.envelope.id, event, is_new=False)
            case ev.HostFenced():
                self._tell_departure(migration, inp.PeerFenced())
            case rev.ReservationGranted() | rev.ReservationRefused():
                self._machines.answer_reservation(event)
            case ev.AbortOrdered():
                wanted = inp.AbortWanted(reason=event.reason, message=event.message)
                self._tell_departure(migration, wanted)
            case bev.BandwidthOrdered():
                self._tell_departure(migration, _bandwidth(event))
            case ev.ImageQuarantined():
                self._tell_departure(migration, inp.PeerQuarantined())
            case ev.MachineActivated():
                self._tell_departure(migration, inp.PeerActive(epoch=decision.envelope.epoch))
            case mev.MachineFailed():
                self._tell_departure(migration, inp.PeerFenced())
            case _:
                _log.debug("decision_without_effect", type=type(event).__name__)

    def _note(self, decision: Recorded) -> None:
        departure = self._departures.get(decision.envelope.migration)
        if departure is not None:
            departure.note(decision)

    def _tell_departure(self, migration: str, given: inp.Input) -> None:
        departure = self._departures.get(migration)
        if departure is not None:
            departure.tell(given)

    def _carry_out(self, decision: Recorded, work: Coroutine[Any, Any, None]) -> None:
        """Do what takes its time beside the inbox, which must go on being read."""

        async def run() -> None:
            try:
                await work
            except GodwitError as error:
                _log.error("decision_failed", error=error.message, code=error.code)
            else:
                self._inbox.finish(decision)

        self._tasks.create_task(run())

    # Departures.

    async def _depart(self, decision: Recorded, started: ev.MigrationStarted) -> None:
        migration, machine = decision.envelope.migration, decision.envelope.machine
        if self._journals.exists(migration) or await self._is_known(migration):
            return
        if self._machines.is_changing(machine):
            self._hopeless.add(migration)
        else:
            self._beginning = machine
        try:
            opened = self._journals.create(migration, machine, codec.encode(decision.envelope))
            ran_in = await self._epoch_of(machine)
            departing = self._run(opened, *await self._begin(opened, started, ran_in))
        finally:
            self._beginning = ""
        if opened.disk_full:
            await asyncio.wait({departing})  # its journal is for the next one that is refused

    async def _is_known(self, migration: str) -> bool:
        scope = Scope.of_migration(migration)
        position = await patiently(
            lambda: position_in_log(self._host.log, Lane.SOURCE, self._host.name, scope)
        )
        return position.sequence > 0

    async def _epoch_of(self, machine: str) -> int:
        """The epoch in which its VMM here runs; 0 if nobody knows."""
        try:
            vmm = await self._host.hypervisor.find(machine)
            return 0 if vmm is None else (await vmm.status()).epoch
        except GodwitError as error:
            _log.warning("epoch_not_known", machine=machine, error=error.message)
            return 0

    async def _begin(
        self, opened: OpenMigration, started: ev.MigrationStarted, ran_in: int = 0
    ) -> tuple[SourceState, tuple[Effect, ...]]:
        """Begin from what the register says; of a machine that is being started or stopped, nothing
        can be said, and the migration is abandoned; as it is if the machine runs here in a later
        epoch, ``ran_in``, which the register has lost, until it is written again.
        """
        if opened.migration in self._hopeless:
            return self._begin_from(NO_REGISTER, opened, started)
        machine = opened.decision.envelope.machine
        register = await patiently(lambda: self._host.registers.known(machine))
        if (record := register.record) is not None and record.epoch < ran_in:
            register = RegisterView(replace(record, epoch=ran_in), register.sequence)
        return self._begin_from(register, opened, started)

    def _begin_from(
        self, register: RegisterView, opened: OpenMigration, started: ev.MigrationStarted
    ) -> tuple[SourceState, tuple[Effect, ...]]:
        return source.begin(
            started,
            opened.decision.envelope.machine,
            register,
            migration=opened.migration,
            now_ns=self._host.clock.monotonic_ns(),
            disk_full=opened.disk_full,
        )

    async def _recover(self, migration: str) -> None:
        opened = await self._journals.reopen(migration)
        if opened is None:
            return
        started = opened.decision.event
        assert isinstance(started, ev.MigrationStarted)
        state, _ = await self._begin(opened, started)
        now_ns = self._host.clock.monotonic_ns()
        if state.has_gone_on(state.register):
            state, effects = succession.source_after(state, opened.past_types)
        else:
            left = await self._host.hypervisor.find(state.machine) is not None
            state, effects = recover_source(state, opened.past_types, now_ns, image_left=left)
        _log.warning("migration_recovered", migration=migration, phase=state.phase)
        self._run(opened, state, effects)
        await self._tell_again(migration)

    async def _tell_again(self, migration: str) -> None:
        """What was addressed to this migration before the restart may not have been heard."""
        scope = Scope.of_migration(migration)
        async for stored in self._host.log.read(scope.filters()):
            if f".{self._host.name}.{SERVICE}." in stored.subject:
                self._tell(codec.decode(stored.data, stored.sequence))

    def _run(
        self, opened: OpenMigration, state: SourceState, effects: tuple[Effect, ...]
    ) -> asyncio.Task[None]:
        started = opened.decision.event
        assert isinstance(started, ev.MigrationStarted)
        epoch = started.register_epoch
        pace = self._link.pace(started.limits.bandwidth_bytes_per_second)
        departure = Departure(
            *(self._host, opened.migration, state.machine, epoch),
            *(opened.facts, started.destination, pace),
        )
        departure.begin(state)
        self._departures[opened.migration] = departure

        async def run() -> None:
            try:
                with telemetry.bound(migration=opened.migration, machine=state.machine):
                    last = await departure.run(state, effects)
                    _log.info("departure_ended", phase=last.phase, reason=last.abort_reason)
                    await self._journals.settle(opened)
            finally:
                del self._departures[opened.migration]
                del self._departing[opened.migration]
                self._hopeless.discard(opened.migration)

        departing = self._departing[opened.migration] = self._tasks.create_task(run())
        return departing

    def _is_moving(self, machine: str) -> bool:
        if machine == self._beginning:
            return True
        return any(
            departure.machine == machine and migration not in self._hopeless
            for migration, departure in self._departures.items()
        )

    async def _until_let_go(self, machine: str) -> None:
        """Wait until a departure that is over, as all have heard, has let go of its machine."""
        ending = {
            self._departing[migration]
            for migration, departure in self._departures.items()
            if departure.machine == machine and departure.is_over
        }
        if ending:
            await asyncio.wait(ending, timeout=LET_GO_S_MAX)

    def _is_busy(self, machine: str) -> bool:
        return self._is_moving(machine) or self._machines.is_changing(machine)

    # The machines.

    async def _watch_machines(self) -> None:
        """Report a machine that fails, or whose VMM is proven to be dead: also one that died while
        this service was down. One that was stopped or has moved is not missed.
        """
        while True:
            await asyncio.sleep(WATCH_S)
            dead = await self._host.hypervisor.find_dead()
            failed = dict.fromkeys(dead, "the VMM died") | await self._find_failed()
            self._reported = {name: self._reported.get(name, 0) for name in failed}
            for name, why in failed.items():
                await self._report_if_owned(name, why)
            for migration, departure in list(self._departures.items()):
                if departure.machine in failed:
                    await self._tell_if_lost(migration)
            for name in dead:
                await self._forget_if_not_owned(name)

    async def _tell_if_lost(self, migration: str) -> None:
        """A migration whose machine failed ends by the word of both hosts. A source that has given
        its own is still in doubt, for the destination's may have been addressed to nobody: it
        discarded its image before there was a doubt.
        """
        subject = subjects.migration(migration, Lane.COORDINATOR, ev.MigrationEnded.TYPE)
        try:
            stored = await self._host.log.last(subject)
            ended = None if stored is None else codec.decode(stored.data, stored.sequence).event
        except GodwitError as error:
            _log.warning("end_not_read", migration=migration, error=error.message)
            return
        if isinstance(ended, ev.MigrationEnded) and ended.reason is AbortReason.MACHINE_FAILED:
            self._tell_departure(migration, inp.PeerFenced())

    async def _find_failed(self) -> dict[str, str]:
        """Machines that stand still for ever, and why. Whoever looked hangs up: no handle stays."""
        vmms = await self._host.hypervisor.find_all()
        found = [(vmm.name, await is_failed(vmm)) for vmm in vmms]
        return {name: why for name, why in found if why}

    async def _forget_if_not_owned(self, name: str) -> None:
        """Remove what a dead VMM left here of a machine that is another host's, or was stopped."""
        if self._is_moving(name) or self._machines.is_changing(name):
            return
        try:
            record = (await self._host.registers.read(name)).record
            if record is None:
                return
            if record.owner != self._host.name or record.value in UNOWNED:
                await self._host.hypervisor.forget(name)
        except GodwitError as error:
            _log.warning("dead_vmm_not_forgotten", machine=name, error=error.message)

    async def _report_if_owned(self, name: str, why: str) -> None:
        """A dead VMM that the machine had left may be followed by another, dead as well."""
        if self._is_busy(name):
            return
        said_in = self._reported[name]
        try:
            self._reported[name] = await self._machines.report_failure(name, why, said_in=said_in)
        except GodwitError as error:
            _log.warning("failure_not_reported", machine=name, error=error.message)


def _bandwidth(ordered: bev.BandwidthOrdered) -> inp.BandwidthOrdered:
    return inp.BandwidthOrdered(
        change=ordered.change, bytes_per_second=ordered.bandwidth_bytes_per_second
    )
