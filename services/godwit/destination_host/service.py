"""The destination host's service: its inbox, its listener, and its arrivals.

At its start it goes on with every migration that a former life of it left in a journal.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from godwit.content.store import ContentStore
from godwit.host.context import HostContext
from godwit.host.inbox import Inbox
from godwit.host.journals import Journals, OpenMigration
from godwit.host.orders import answer_order
from godwit.host.orphans import NEVER_RAN, Orphans
from godwit.hypervisor.port import VmmState
from godwit.runtime import telemetry
from godwit.runtime.health import Health
from godwit.runtime.lane import LaneWriter, Scope, position_in_log
from godwit.runtime.patience import DECISION_S_MAX, patiently
from godwit.transfer.port import Acceptor
from godwit_protocol import codec
from godwit_protocol.errors import GodwitError
from godwit_protocol.events import Event, Lane, Recorded
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.roles import destination, succession
from godwit_protocol.roles import inputs as inp
from godwit_protocol.roles.destination import DestinationState
from godwit_protocol.roles.effects import Effect
from godwit_protocol.roles.recovery import recover_destination

from .arrival import Arrival

SERVICE: Final = "destination_host"

_log = structlog.get_logger(__name__)


class DestinationHost:
    """The service of one host that receives machines."""

    def __init__(
        self, host: HostContext, tasks: asyncio.TaskGroup, health: Health, listener: Acceptor
    ) -> None:
        self._host = host
        self._tasks = tasks
        self._health = health
        self._listener = listener
        self._inbox = Inbox(host.log, host.name, SERVICE, host.disk.cursor(SERVICE))
        self._journals = Journals(host, SERVICE, Lane.DESTINATION)
        self._arrivals: dict[str, Arrival] = {}
        self._answering = asyncio.Lock()
        self._content = ContentStore(
            host.hypervisor, host.config.content_directory, enabled=host.config.content_store
        )
        self._orphans = Orphans(host, NEVER_RAN, self._is_arriving, self._tell_log)

    @property
    def open(self) -> tuple[str, ...]:
        """The migrations that this service has a part in now."""
        return tuple(self._arrivals)

    async def run(self) -> None:
        """Serve until cancelled."""
        for migration in reversed(self._journals.leftovers()):  # the newest may have an image here
            await self._recover(migration)
        self._journals.keep_blank()
        self._tasks.create_task(self._orphans.watch())
        self._health.ready = True
        async for decision in self._inbox.decisions():
            with telemetry.bound(
                migration=decision.envelope.migration, machine=decision.envelope.machine
            ):
                if self._is_late_order(decision):
                    self._tasks.create_task(self._answer(decision))
                else:
                    await self._take(decision)
                    self._inbox.finish(decision)

    def _is_late_order(self, decision: Recorded) -> bool:
        """Whether an operator orders what no role here can obey; the answer may take a minute."""
        return (
            isinstance(decision.event, ev.RunOrdered)
            and decision.envelope.migration not in self._arrivals
        )

    async def _answer(self, order: Recorded) -> None:
        async with self._answering:
            try:
                await patiently(
                    lambda: answer_order(self._host, Lane.DESTINATION, order),
                    patience_s=DECISION_S_MAX,
                )
            except GodwitError as error:
                _log.error("order_not_answered", error=error.message, code=error.code)
            else:
                self._inbox.finish(order)

    async def _take(self, decision: Recorded, *, is_new: bool = True) -> None:
        migration = decision.envelope.migration
        if migration in self._arrivals:
            self._arrivals[migration].note(decision)
        match decision.event:
            case ev.PreparationOrdered():
                await self._receive(decision, decision.event)
            case ev.AbortOrdered(reason=reason, message=message):
                self._tell(migration, inp.AbortWanted(reason=reason, message=message))
            case ev.AbortIntended(reason=reason):
                self._tell(migration, inp.PeerAbort(reason=reason))
            case ev.MigrationAbandoned():
                self._tell(migration, inp.PeerRuns())
            case mev.MachineFailed() | ev.HostFenced():
                self._tell(migration, inp.PeerFenced())
            case ev.RunOrdered() as ordered if arrival := self._arrivals.get(migration):
                arrival.order(decision.envelope.id, ordered, is_new=is_new)
            case _:
                _log.debug("decision_without_effect", type=decision.envelope.type)

    def _is_arriving(self, machine: str) -> bool:
        return any(arrival.machine == machine for arrival in self._arrivals.values())

    async def _tell_log(self, machine: str, event: Event) -> None:
        """Write an event of a machine's life. Only ``Orphans`` does, one after the other."""
        scope = Scope.of_machine(machine)
        position = await position_in_log(self._host.log, Lane.DESTINATION, self._host.name, scope)
        writer = LaneWriter(self._host.clock, Lane.DESTINATION, self._host.name, scope, position)
        sealed = writer.seal(event)
        await self._host.log.append(sealed.subject, sealed.data, message_id=sealed.message_id)

    def _tell(self, migration: str, given: inp.Input) -> None:
        arrival = self._arrivals.get(migration)
        if arrival is not None:
            arrival.tell(given)

    async def _receive(self, decision: Recorded, ordered: ev.PreparationOrdered) -> None:
        migration, machine = decision.envelope.migration, decision.envelope.machine
        if self._journals.exists(migration) or await self._is_known(migration):
            return
        opened = self._journals.create(migration, machine, codec.encode(decision.envelope))
        arriving = self._run(opened, ordered, *await self._begin(opened, ordered))
        if opened.disk_full:
            await asyncio.wait({arriving})  # its journal is for the next one that is refused

    async def _is_known(self, migration: str) -> bool:
        scope = Scope.of_migration(migration)
        position = await patiently(
            lambda: position_in_log(self._host.log, Lane.DESTINATION, self._host.name, scope)
        )
        return position.sequence > 0

    async def _begin(
        self, opened: OpenMigration, ordered: ev.PreparationOrdered
    ) -> tuple[DestinationState, tuple[Effect, ...]]:
        register = await patiently(lambda: self._host.registers.known(ordered.spec.name))
        return destination.begin(
            ordered,
            register,
            migration=opened.migration,
            now_ns=self._host.clock.monotonic_ns(),
            disk_full=opened.disk_full,
        )

    async def _recover(self, migration: str) -> None:
        opened = await self._journals.reopen(migration)
        if opened is None:
            return
        ordered = opened.decision.event
        assert isinstance(ordered, ev.PreparationOrdered)
        state, _ = await self._begin(opened, ordered)
        now_ns = self._host.clock.monotonic_ns()
        if state.has_gone_on(state.register):
            left = await self._is_image_left(state.machine)
            state, effects = succession.destination_after(state, opened.past_types, image_left=left)
        else:
            found = await self._vmm_state(state.machine)
            is_its_own = not self._is_arriving(state.machine) and _has_prepared(opened)
            state, effects = recover_destination(
                state,
                opened.past_types,
                now_ns,
                machine_runs=found is VmmState.RUNNING,
                image_loaded=found is VmmState.LOADED and is_its_own,
            )
        _log.warning("migration_recovered", migration=migration, phase=state.phase)
        self._run(opened, ordered, state, effects)
        await self._tell_again(migration)

    async def _vmm_state(self, machine: str) -> VmmState | None:
        """What the VMM does; None if there is none. It answers in the order in which it was asked:
        what a former life of this service ordered has been done by now.
        """
        vmm = await self._host.hypervisor.find(machine)
        return None if vmm is None else (await vmm.status()).state

    async def _is_image_left(self, machine: str) -> bool:
        """Whether an image that never ran is here, and is no later migration's."""
        if self._is_arriving(machine):
            return False
        return await self._vmm_state(machine) in (VmmState.GATED, VmmState.LOADED)

    async def _tell_again(self, migration: str) -> None:
        """What was addressed to this migration before the restart may not have been heard."""
        scope = Scope.of_migration(migration)
        async for stored in self._host.log.read(scope.filters()):
            if f".{self._host.name}.{SERVICE}." in stored.subject:
                decision = codec.decode(stored.data, stored.sequence)
                await self._take(decision, is_new=False)

    def _run(
        self,
        opened: OpenMigration,
        ordered: ev.PreparationOrdered,
        state: DestinationState,
        effects: tuple[Effect, ...],
    ) -> asyncio.Task[None]:
        arrival = Arrival(
            self._host,
            opened.migration,
            ordered.spec,
            opened.facts,
            self._listener,
            ordered.source,
            self._content,
        )
        arrival.begin(state)
        self._arrivals[opened.migration] = arrival

        async def run() -> None:
            try:
                with telemetry.bound(migration=opened.migration, machine=state.machine):
                    last = await arrival.run(state, effects)
                    _log.info("arrival_ended", phase=last.phase, reason=last.abort_reason)
                    await self._journals.settle(opened)
            finally:
                del self._arrivals[opened.migration]

        return self._tasks.create_task(run())


def _has_prepared(opened: OpenMigration) -> bool:
    """Whether a VMM that never ran here is the migration's: while there is another's, none is
    prepared. What was written outlives a service; a loss of power takes the VMM, too.
    """
    return ev.DestinationPrepared.TYPE in opened.past_types
