"""How the source's part of a migration resumes or ends, whatever led there. See ``source``."""

from __future__ import annotations

from typing import Final

import msgspec

from .. import link
from .. import register as reg
from ..events import Event
from ..events import migration as ev
from ..events.machine import MachineFailed
from ..events.migration import AbortReason
from . import effects as fx
from . import inputs as inp
from .effects import Durability, Effect
from .inputs import Input
from .source_state import Phase, SourceState

Effects = tuple[Effect, ...]
Result = tuple[SourceState, Effects]

STOPPED: Final = "the machine was stopped"

_replace = msgspec.structs.replace


def abandon(state: SourceState, reason: AbortReason, message: str) -> Result:
    """End with the machine running here, where it always ran."""
    abandoned = ev.MigrationAbandoned(reason=reason, message=message)
    after = _replace(state, phase=Phase.ABANDONED, abort_reason=reason, abort_message=message)
    return after, (
        fx.Say(message=link.Abort(reason=reason)),
        fx.CloseLink(),
        to_destination(state, abandoned, Durability.JOURNALED),
        fx.Finish(reason=reason),
    )


def resume(state: SourceState, reason: AbortReason, message: str) -> Result:
    """Run here again. Only where the destination cannot own the machine."""
    after = _replace(state, phase=Phase.RESUMING, abort_reason=reason, abort_message=message)
    said = fx.Say(message=link.Abort(reason=reason))
    return after, (fx.ResumeMachine(epoch=state.epoch), said)


def resumed(state: SourceState, given: Input, _now_ns: int) -> Result:
    assert isinstance(given, inp.Resumed)
    stun_ns = max(given.first_step_ns - state.stopped_ns, 0) if state.stopped_ns else 0
    return end_abandoned(state, stun_ns)


def resume_failed(state: SourceState, given: Input, _now_ns: int) -> Result:
    """The machine runs nowhere. If it was taken back, the destination may hold the one good image:
    then it must not hear that the migration is over, or it would free it, but that nothing runs
    here any more, so that an operator may have it run there.
    """
    assert isinstance(given, inp.OperationFailed)
    failed = MachineFailed(message=given.message)
    if is_taken_back(state) and not state.fenced:
        after = _replace(state, gave_up=True)
        doubting, alarm = doubt(after, f"taken back, and does not run: {given.message}")
        return doubting, (to_destination(state, failed, Durability.JOURNALED), *alarm)
    after = _replace(state, abort_reason=AbortReason.MACHINE_FAILED, abort_message=given.message)
    ended, effects = end_abandoned(after, 0)
    return ended, (lagging(failed), *effects)


def is_lost(state: SourceState, given: Input, _now_ns: int) -> Result:
    """Proof that the destination has nothing: if nothing is here either, the machine is lost."""
    assert isinstance(given, inp.PeerFenced)
    after = _replace(state, fenced=True)
    if not state.gave_up:
        return after, ()
    message = "the machine is lost: the VMMs of both hosts are dead"
    return end_abandoned(
        _replace(after, abort_reason=AbortReason.MACHINE_FAILED, abort_message=message), 0
    )


def is_taken_back(state: SourceState) -> bool:
    record = state.register.record
    ours = record is not None and record.migration == state.migration
    return ours and reg.may_run(record, state.host)


def end_abandoned(state: SourceState, stun_ns: int) -> Result:
    abandoned = ev.MigrationAbandoned(
        reason=state.abort_reason, message=state.abort_message, stun_ns=stun_ns
    )
    return _replace(state, phase=Phase.ABANDONED), (
        fx.Say(message=link.Runs()),
        to_destination(state, abandoned, Durability.JOURNALED),
        fx.CloseLink(),
        fx.Finish(reason=state.abort_reason),
    )


def doubt(state: SourceState, message: str) -> Result:
    told = fx.Append(event=ev.DoubtRaised(message=message), durability=Durability.LAGGING)
    return _replace(state, phase=Phase.DOUBTING, alarmed=True), (told,)


def why(given: Input) -> tuple[AbortReason, str]:
    """The reason that an input gives for ending a migration."""
    match given:
        case inp.LinkLost():
            return AbortReason.DESTINATION_LOST, given.message
        case inp.PeerRefused() | inp.AbortWanted():
            return given.reason, given.message
        case inp.OperationFailed():
            return AbortReason.MACHINE_FAILED, given.message
        case inp.JournalFull():
            return AbortReason.DISK_FULL, given.message
        case inp.PeerQuarantined():
            return AbortReason.DESTINATION_REFUSED, "the destination quarantined the image"
        case _:
            return AbortReason.DEADLINE_PASSED, "the deadline passed"


def lagging(event: Event) -> Effect:
    return fx.Append(event=event, durability=Durability.LAGGING)


def refusable(event: Event) -> Effect:
    """As ``lagging``, of a machine that has not stopped: rather than end the service, a full disk
    ends the migration.
    """
    return fx.Append(event=event, durability=Durability.LAGGING, refusable=True)


def to_destination(state: SourceState, event: Event, durability: Durability) -> Effect:
    to = fx.Address(state.destination, fx.Service.DESTINATION_HOST)
    return fx.Append(event=event, durability=durability, to=to)
