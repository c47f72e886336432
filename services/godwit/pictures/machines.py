"""Machines as the log shows them: the fold of their events, the register and the claim.

Where a machine runs is the register's word; whether it is being moved is the claim's.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import msgspec

from godwit_protocol import register as reg
from godwit_protocol import subjects
from godwit_protocol.errors import NotFoundError
from godwit_protocol.machine import MachineSpec
from godwit_protocol.projections import MachineSummary, fold_machine

from . import reading

if TYPE_CHECKING:
    from godwit.runtime.event_log import EventLog


class MachineState(StrEnum):
    """What a machine does."""

    RUNNING = "running"
    PAUSED = "paused"
    MIGRATING = "migrating"
    FAILED = "failed"
    STOPPED = "stopped"
    LOST = "lost"


GONE: Final = frozenset({MachineState.STOPPED, MachineState.LOST})
"""Nobody has the machine any more."""


class MachinePicture(msgspec.Struct, frozen=True, kw_only=True):
    """One machine. ``migration`` is the one that moves it, or empty."""

    name: str
    host: str
    state: MachineState
    epoch: int
    spec: MachineSpec | None
    migration: str = ""
    failure: str = ""
    started_wall_ns: int = 0

    def as_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        spec = self.spec
        regions = spec.regions() if spec else ()
        return {
            "name": self.name,
            "host": self.host,
            "state": self.state.value,
            "epoch": self.epoch,
            "regions": [{"name": r.name, "size_bytes": r.size_bytes} for r in regions],
            "guest": spec.guest if spec else "",
            "tenant": spec.tenant if spec else "",
            "vgpus": [vgpu.profile for vgpu in spec.vgpus] if spec else [],
            "migration": self.migration,
            "failure": self.failure,
        }


async def all_machines(log: EventLog) -> list[MachinePicture]:
    """Every machine that was ever started, by name. Raises ``UnreachableError``."""
    return await _pictures(log, "*")


async def find_machine(log: EventLog, name: str) -> MachinePicture:
    """One machine. Raises ``NotFoundError``, ``UnreachableError``."""
    subjects.checked_name(name, "machine")
    found = await _pictures(log, name)
    if not found:
        raise NotFoundError(f"there is no machine {name!r}", hint="see 'godwit machine list'")
    return found[0]


async def find_live_machine(log: EventLog, name: str) -> MachinePicture:
    """One machine that somebody has. Raises ``NotFoundError``, ``UnreachableError``."""
    picture = await find_machine(log, name)
    if picture.state in GONE:
        hint = f"see 'godwit machine show {name}'"
        raise NotFoundError(f"machine {name!r} is {picture.state}", hint=hint)
    return picture


async def _pictures(log: EventLog, name: str) -> list[MachinePicture]:
    standing = await reading.last_of_each(log, (subjects.register(name), subjects.claim(name)))
    summaries: dict[str, MachineSummary] = {}
    async for recorded in reading.events(log, subjects.whole_machine(name)):
        machine = recorded.envelope.machine
        known = summaries.get(machine, MachineSummary(name=machine))
        summaries[machine] = fold_machine(known, recorded)
    records = [
        reg.decode(stored.data)
        for subject, stored in sorted(standing.items())
        if subject == subjects.register(subject.rpartition(".")[2])
    ]
    claims = {
        subject: reg.decode_claim(stored.data).migration
        for subject, stored in standing.items()
        if subject == subjects.claim(subject.rpartition(".")[2])
    }
    return [
        _picture(
            record,
            summaries.get(record.machine, MachineSummary(name=record.machine)),
            claims.get(subjects.claim(record.machine), ""),
        )
        for record in records
    ]


def _picture(record: reg.RegisterRecord, summary: MachineSummary, migration: str) -> MachinePicture:
    return MachinePicture(
        name=record.machine,
        host=record.owner,
        state=_state(record, summary, migration),
        epoch=record.epoch,
        spec=summary.spec,
        migration=migration,
        failure=summary.failure_in(record.epoch),
        started_wall_ns=summary.started_wall_ns,
    )


def _state(record: reg.RegisterRecord, summary: MachineSummary, migration: str) -> MachineState:
    if record.value in reg.UNOWNED:
        return MachineState(record.value)
    if summary.failure_in(record.epoch):
        return MachineState.FAILED
    if migration:
        return MachineState.MIGRATING
    return MachineState.PAUSED if summary.paused else MachineState.RUNNING
