"""Where a host's role goes on after its service died, from the facts in its journal. Pure.

The journal says what this host promised; the register says what became of the machine. Whatever
they leave open is decided as if the link had been lost at that point, and by the same rules.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from enum import StrEnum
from typing import TypeVar

import msgspec

from .. import register as reg
from ..events import migration as ev
from ..events.machine import MachineFailed
from ..events.migration import AbortReason
from . import destination_deciding as deciding
from . import destination_state, source_state
from . import effects as fx
from .destination_endings import journaled
from .destination_state import DestinationState
from .effects import Effect
from .source_deciding import run_again
from .source_endings import STOPPED, abandon, to_destination
from .source_state import SourceState

Effects = tuple[Effect, ...]
S = TypeVar("S", SourceState, DestinationState)
RESTARTED = "the host's service was restarted"


def recover_source(
    begun: SourceState, facts: AbstractSet[str], now_ns: int, *, image_left: bool
) -> tuple[SourceState, Effects]:
    """Go on from ``begun``, the state that the migration began in, with the register as it is now.

    ``facts``: the types of the events in the journal. The journal is a witness against a register
    that lost a write: what it says was taken back, had all the proof that was needed.
    ``image_left``: whether the VMM lives that the machine was stunned in.
    """
    phase = source_state.Phase
    if ev.MigrationAbandoned.TYPE in facts:
        return _at(begun, phase.ABANDONED), (fx.Finish(reason=AbortReason.SERVICE_RESTARTED),)
    if ev.MachineReleased.TYPE in facts:
        return _at(begun, phase.RELEASING), (fx.FreeMemory(),)
    state = msgspec.structs.replace(
        begun,
        abort_reason=AbortReason.SERVICE_RESTARTED,
        abort_message=RESTARTED,
        deadline_ns=now_ns + source_state.SWITCHOVER_STEP_DEADLINE_NS,
        never_stunned=ev.MachineStunned.TYPE not in facts,
        quarantined=ev.MachineTakenBack.TYPE in facts,
        gave_up={MachineFailed.TYPE, ev.MachineTakenBack.TYPE} <= facts,
    )
    record = state.register.record
    yielded = _is_moved(record, state)
    if record is None or state.gave_up or not (yielded or record.owner == state.host):
        return msgspec.structs.replace(state, phase=phase.DOUBTING, alarmed=True), (_alarm(state),)
    if state.never_stunned and record.value in reg.UNOWNED:
        return abandon(state, AbortReason.SUPERSEDED, STOPPED)
    if state.never_stunned:
        return _at(state, phase.RESUMING), (fx.ResumeMachine(epoch=state.epoch),)
    if record.value is reg.RegisterValue.TAKEN_BACK and record.migration == begun.migration:
        return run_again(state)
    if state.quarantined:
        cas = _cas(state, reg.overruled(record, state.host, state.migration))
        return _at(state, phase.RECLAIMING), (_alarm(state), cas)
    if yielded:
        return _yielded(state, facts, image_left=image_left)
    return _take_back(state, record, gone=ev.GoGiven.TYPE in facts)


def _yielded(
    state: SourceState, facts: AbstractSet[str], *, image_left: bool
) -> tuple[SourceState, Effects]:
    """The destination owns the machine. If nothing of it is left here, not even an operator's order
    can have it run here: that is said, for then a destination that has nothing either was the last.
    """
    yielded = _at(state, source_state.Phase.YIELDED)
    if image_left:
        return yielded, ()
    gone = msgspec.structs.replace(yielded, gave_up=True)
    if MachineFailed.TYPE in facts:
        return gone, ()
    failed = MachineFailed(message="the VMM that the machine was stunned in is dead")
    return gone, (to_destination(state, failed, fx.Durability.JOURNALED),)


def _take_back(
    state: SourceState, record: reg.RegisterRecord, *, gone: bool
) -> tuple[SourceState, Effects]:
    """The source still owns the stunned machine. ``gone``: it has said GO."""
    phase = source_state.Phase
    if record.value is reg.RegisterValue.ABORT_INTENDED:
        intended = fx.Append(
            event=ev.AbortIntended(reason=state.abort_reason),
            durability=fx.Durability.JOURNALED,
            to=fx.Address(state.destination, fx.Service.DESTINATION_HOST),
        )
        return _at(state, phase.AWAITING_QUARANTINE), (intended,)
    if gone:
        cas = _cas(state, reg.abort_intended(record, state.migration))
        return _at(state, phase.ABORTING), (cas,)
    cas = _cas(state, reg.taken_back(record, state.migration))
    return _at(state, phase.TAKING_BACK), (cas,)


def recover_destination(
    begun: DestinationState,
    facts: AbstractSet[str],
    now_ns: int,
    *,
    machine_runs: bool,
    image_loaded: bool,
) -> tuple[DestinationState, Effects]:
    """As ``recover_source``, for the destination. ``machine_runs``: whether its VMM runs now.
    ``image_loaded``: whether the VMM that this migration prepared has loaded the image.

    A VMM that runs is the best witness: it was given the machine, whatever the register has lost
    since. A promise not to run the image binds also if the register, too late, names this host.
    """
    phase = destination_state.Phase
    if ev.MachineActivated.TYPE in facts:
        return _at(begun, phase.ACTIVE), (fx.Finish(reason=AbortReason.NONE),)
    if machine_runs:
        return deciding.run_on(begun)
    is_staged = ev.ImageStaged.TYPE in facts
    is_whole = is_staged or (image_loaded and ev.ImageQuarantined.TYPE not in facts)
    if not is_whole or ev.ImageDiscarded.TYPE in facts:
        state = msgspec.structs.replace(
            begun, abort_reason=AbortReason.SERVICE_RESTARTED, abort_message=RESTARTED
        )
        return _at(state, phase.DISCARDING), (fx.FreeMemory(),)
    if not is_staged:
        return _found_whole(begun, now_ns)
    state = msgspec.structs.replace(begun, deadline_ns=now_ns)
    record = state.register.record
    if ev.ImageQuarantined.TYPE in facts:
        waiting = msgspec.structs.replace(state, deadline_ns=now_ns + destination_state.GRACE_NS)
        return _at(waiting, phase.QUARANTINED), ()
    if deciding.is_ours(state):
        return deciding.open_gate(state)
    if ev.ActivationStarted.TYPE in facts and deciding.may_claim(state):
        assert record is not None
        moved = reg.moved(record, state.host, state.migration)
        return _at(state, phase.ACTIVATING), (_cas(state, moved),)
    if ev.ActivationStarted.TYPE in facts and deciding.is_wanted_back(state, record):
        return deciding.quarantine(state, AbortReason.SERVICE_RESTARTED, now_ns)
    return _wait_for_go(state, now_ns)


def _found_whole(begun: DestinationState, now_ns: int) -> tuple[DestinationState, Effects]:
    """The service died before STAGED was journaled. What is loaded was verified before, and nobody
    was told that it is refused: for that the journal would hold a promise.
    """
    staged = ev.ImageStaged(
        pages=0, received_bytes=0, received_ns=0, staged_ns=0, verified=begun.verify
    )
    waiting, effects = _wait_for_go(msgspec.structs.replace(begun, deadline_ns=now_ns), now_ns)
    return waiting, (journaled(staged), *effects)


def _wait_for_go(state: DestinationState, now_ns: int) -> tuple[DestinationState, Effects]:
    waiting = msgspec.structs.replace(state, alarm_ns=now_ns + destination_state.GRACE_NS)
    return _at(waiting, destination_state.Phase.STAGED), (fx.ReadRegister(),)


def _is_moved(record: reg.RegisterRecord | None, state: SourceState) -> bool:
    """Whether the destination owns the machine by this migration: only D says so."""
    if record is None:
        return False
    return record.owner == state.destination and record.migration == state.migration


def _alarm(state: SourceState) -> Effect:
    """The register does not say what the journal does: perhaps it has lost a write."""
    alarm = ev.DoubtRaised(message=f"after a restart the register holds {state.register.record}")
    return fx.Append(event=alarm, durability=fx.Durability.LAGGING)


def _cas(state: SourceState | DestinationState, record: reg.RegisterRecord) -> Effect:
    return fx.CompareAndSet(record=record, expected_sequence=state.register.sequence)


def _at(state: S, phase: StrEnum) -> S:
    return msgspec.structs.replace(state, phase=phase)
