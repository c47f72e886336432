"""VMMs that were left behind on a host are collected, by epoch; and their registers are watched.

A leftover is ended only if the register and the log prove that its machine is another host's since:
what is missing, unreadable or unreachable keeps it. One that ran all the same is paused, and kept
until an operator ends it. A register that lost the record by which a
machine runs here is written again. The decisions are ``succession.fate_of`` and
``register.restored``; this module finds what they are made from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from godwit.hypervisor.port import Vmm, VmmState, VmmStatus
from godwit.runtime.lane import Scope
from godwit_protocol import codec, subjects
from godwit_protocol.errors import GodwitError
from godwit_protocol.events import Event, Lane
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.events.machine import LeftoverKind
from godwit_protocol.register import RegisterRecord, RegisterView, given, restored
from godwit_protocol.roles.effects import Service
from godwit_protocol.roles.inputs import CasSettled
from godwit_protocol.roles.succession import Fate, Leftover, fate_of

from .context import HostContext
from .registers import RegisterWentBackError

LOOK_S: Final = 10.0

Tell = Callable[[str, Event], Awaitable[None]]
"""Writes an event of a machine's life to the log."""

_KINDS: Final = {
    VmmState.GATED: LeftoverKind.EMPTY,
    VmmState.LOADED: LeftoverKind.STAGED,
    VmmState.PAUSED: LeftoverKind.STUNNED,
    VmmState.FAILED: LeftoverKind.STUNNED,
    VmmState.RUNNING: LeftoverKind.RUNNING,
}
NEVER_RAN: Final = frozenset({LeftoverKind.EMPTY, LeftoverKind.STAGED})
RAN: Final = frozenset({LeftoverKind.STUNNED, LeftoverKind.RUNNING})

_log = structlog.get_logger(__name__)


class Orphans:
    """The VMMs of one host that one of its services is to look after."""

    def __init__(
        self,
        host: HostContext,
        kinds: frozenset[LeftoverKind],
        is_held: Callable[[str], bool],
        tell: Tell,
    ) -> None:
        """``is_held`` tells whether this service is busy with a machine."""
        self._host = host
        self._kinds = kinds
        self._is_held = is_held
        self._tell = tell
        self._alarmed: set[str] = set()
        self._suspected: dict[str, tuple[Fate, Leftover]] = {}
        """What the last look found. Only what the next one finds too is a leftover: what was begun
        or ended meanwhile is not.
        """

    async def watch(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Look at every VMM once. What cannot be looked at is left alone."""
        suspected, self._suspected = self._suspected, {}
        for vmm in await self._host.hypervisor.find_all():
            try:
                await self._look_at(vmm, suspected.get(vmm.name))
            except GodwitError as error:
                _log.warning("vmm_not_looked_at", machine=vmm.name, error=error.message)

    async def _look_at(self, vmm: Vmm, suspected: tuple[Fate, Leftover] | None) -> None:
        status = await vmm.status()
        kind = _KINDS[status.state]
        if kind not in self._kinds or self._is_held(vmm.name):
            return
        try:
            record = (await self._shown(status)).record
        except RegisterWentBackError as error:
            await self._report(error)
            if status.state is VmmState.RUNNING:
                await self._restore(error, status.epoch)
            return
        self._alarmed.discard(vmm.name)
        if record is None or record.owner == self._host.name:
            return
        left, facts = await self._evidence(status, kind, record)
        fate = fate_of(left, record, self._host.name, facts)
        if fate is Fate.KEEP or self._is_held(vmm.name):
            return
        if suspected == (fate, left):
            await self._carry_out(fate, vmm, left, record)
        else:
            self._suspected[vmm.name] = (fate, left)

    async def _shown(self, status: VmmStatus) -> RegisterView:
        """What the register shows. A machine runs in an epoch only by a register that gave it: one
        that shows an older epoch has lost that, though whoever saw it died before it was noted.

        Raises ``UnreachableError``, ``RegisterWentBackError``.
        """
        machine = status.spec.name
        found = await self._host.registers.read(machine)
        record = found.record
        if status.state is not VmmState.RUNNING or record is None or record.epoch >= status.epoch:
            return found
        migration, _ = await self._bringer(machine)
        seen = given(record, self._host.name, status.epoch, migration)
        if seen is None:
            return found
        return await self._host.registers.read(machine, RegisterView(seen, found.sequence))

    async def _carry_out(
        self, fate: Fate, vmm: Vmm, left: Leftover, record: RegisterRecord
    ) -> None:
        _log.warning("leftover", machine=vmm.name, fate=fate.name, kind=left.kind, epoch=left.epoch)
        if fate is Fate.FREEZE:
            await self._freeze(vmm, left, record)
            return
        await vmm.stop()
        told = mev.OrphanCollected(
            kind=left.kind,
            image_epoch=left.epoch,
            owner=record.owner,
            register_epoch=record.epoch,
        )
        await self._tell(vmm.name, told)

    async def _freeze(self, vmm: Vmm, left: Leftover, record: RegisterRecord) -> None:
        """Say so, then pause it: of one that stands still, nothing but the log tells that it ran,
        and a service that dies in between finds it running.
        """
        if not left.was_frozen:
            told = mev.StaleMachineFrozen(
                image_epoch=left.epoch, owner=record.owner, register_epoch=record.epoch
            )
            await self._tell(vmm.name, told)
        found = await self._host.registers.read(vmm.name)
        if found.record == record and not self._is_held(vmm.name):
            await vmm.pause()

    async def _report(self, error: RegisterWentBackError) -> None:
        """Raise the alarm, once."""
        if error.machine in self._alarmed:
            return
        told = mev.RegisterWentBack(
            seen_sequence=error.seen.sequence,
            seen_epoch=error.seen.record.epoch if error.seen.record else 0,
            found_sequence=error.found.sequence,
            found_epoch=error.found.record.epoch if error.found.record else 0,
        )
        _log.error("register_went_back", machine=error.machine, error=error.message)
        await self._tell(error.machine, told)
        self._alarmed.add(error.machine)

    async def _restore(self, error: RegisterWentBackError, running_epoch: int) -> None:
        """Write again by what the machine runs here, unless it is another's by now."""
        record = restored(error.seen, error.found, self._host.name, running_epoch)
        if record is None:
            return
        settled = await self._host.registers.compare_and_set(record, error.found.sequence)
        if isinstance(settled, CasSettled) and settled.won:
            told = mev.RegisterRestored(
                register_epoch=record.epoch, register_sequence=settled.standing.sequence
            )
            await self._tell(error.machine, told)

    async def _evidence(
        self, status: VmmStatus, kind: LeftoverKind, record: RegisterRecord
    ) -> tuple[Leftover, frozenset[str]]:
        """The leftover, and the facts of the migration that tells of its fate."""
        if kind not in NEVER_RAN:
            was_frozen = await self._was_frozen(status.spec.name, status.epoch)
            left = Leftover(kind, status.epoch, was_frozen=was_frozen)
            return left, await self._facts(record.migration)
        migration, epoch = await self._bringer(status.spec.name)
        return Leftover(kind, epoch, migration), await self._facts(migration)

    async def _was_frozen(self, machine: str, epoch: int) -> bool:
        """Whether this host has said that the machine ran here in that epoch, and was another's."""
        alarm = mev.StaleMachineFrozen
        subject = subjects.machine(machine, Lane.SOURCE, alarm.TYPE)
        async for stored in self._host.log.read([subject]):
            recorded = codec.decode(stored.data, stored.sequence)
            if recorded.envelope.host != self._host.name or not isinstance(recorded.event, alarm):
                continue
            if recorded.event.image_epoch == epoch:
                return True
        return False

    async def _bringer(self, machine: str) -> tuple[str, int]:
        """The last migration that was to bring the machine here, and the epoch that it began in."""
        order = ev.PreparationOrdered
        filters = subjects.addressed(
            self._host.name,
            Service.DESTINATION_HOST,
            "migration",
            "*",
            Lane.COORDINATOR,
            order.TYPE,
        )
        found = ("", 0)
        async for stored in self._host.log.read([filters]):
            recorded = codec.decode(stored.data, stored.sequence)
            if recorded.envelope.machine == machine and isinstance(recorded.event, order):
                found = (recorded.envelope.migration, recorded.event.register_epoch)
        return found

    async def _facts(self, migration: str) -> frozenset[str]:
        if not migration:
            return frozenset()
        filters = Scope.of_migration(migration).filters()
        return frozenset(
            [codec.decode(s.data).envelope.type async for s in self._host.log.read(filters)]
        )
