"""What of the log a request is considered with. Decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import msgspec

from godwit.coordinator.compatibility import gather
from godwit.coordinator.links import LookAtLink
from godwit.runtime.event_log import EventLog
from godwit_protocol import codec, register, subjects
from godwit_protocol.catalogue import Catalogue
from godwit_protocol.compatibility.judging import judge
from godwit_protocol.events import machine as mev
from godwit_protocol.events import migration as ev
from godwit_protocol.events.estimate import EstimateMade
from godwit_protocol.machine import MachineSpec
from godwit_protocol.register import RegisterRecord
from godwit_protocol.roles import inputs as inp

Estimate: TypeAlias = Callable[[RegisterRecord | None], Awaitable[EstimateMade | None]]
"""What a move is expected to take, from the machine's record."""


async def no_estimate(_record: RegisterRecord | None) -> None:
    """Of whoever asks for none."""


async def consider(
    log: EventLog,
    catalogue: Catalogue,
    requested: ev.MigrationRequested,
    look_at_link: LookAtLink,
    estimate: Estimate = no_estimate,
) -> inp.Considered:
    """Return the request with what the log knows of its machine and its hosts, and the hosts of
    the link between them; meanwhile the estimate is made.

    Raises ``UnreachableError``, and ``CorruptError`` if their records cannot be read.
    """
    known = await _known(log, requested)
    judged, estimated = await asyncio.gather(
        _judged(log, catalogue, known, look_at_link), estimate(known.record)
    )
    return msgspec.structs.replace(judged, estimated=estimated)


async def _judged(
    log: EventLog, catalogue: Catalogue, known: inp.Considered, look_at_link: LookAtLink
) -> inp.Considered:
    spec, record = known.spec, known.record
    if spec is None or record is None or not known.destination_known:
        return known
    case = await gather(log, catalogue, spec, record.owner, known.destination, look_at_link)
    judged = judge(case)
    return msgspec.structs.replace(known, refusals=judged.objections, gpus=judged.gpus)


async def _known(log: EventLog, requested: ev.MigrationRequested) -> inp.Considered:
    started, record, destination_known = await asyncio.gather(
        _started(log, requested.machine),
        _record(log, requested.machine),
        _is_announced(log, requested.destination),
    )
    return inp.Considered(
        machine=requested.machine,
        destination=requested.destination,
        limits=requested.limits,
        verify=requested.verify,
        spec=_spec(started, record),
        record=record,
        destination_known=destination_known,
    )


async def _is_announced(log: EventLog, host: str) -> bool:
    return _is_name(host) and await log.last(subjects.inventory(host)) is not None


def _is_name(name: str) -> bool:
    """Whether ``name`` can stand in a subject: anybody may have written the request."""
    return subjects.NAME_PATTERN.fullmatch(name) is not None


def _spec(started: mev.MachineStarted | None, record: RegisterRecord | None) -> MachineSpec | None:
    """What the machine is in the life that the register shows; None if the log does not tell yet: a
    host writes the register first. An earlier life may have been of another guest.
    """
    if started is None or (record and record.start and record.start != started.start):
        return None
    return started.spec


async def _started(log: EventLog, machine: str) -> mev.MachineStarted | None:
    """How the machine was last started."""
    found = None
    if not _is_name(machine):
        return None
    async for stored in log.read([subjects.machine(machine, "*", mev.MachineStarted.TYPE)]):
        event = codec.decode(stored.data, stored.sequence).event
        if isinstance(event, mev.MachineStarted):
            found = event
    return found


async def _record(log: EventLog, machine: str) -> RegisterRecord | None:
    stored = await log.last(subjects.register(machine)) if _is_name(machine) else None
    return None if stored is None else register.decode(stored.data)
