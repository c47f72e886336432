"""The source's steps once the destination may hold a whole image: the register decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from .. import link
from .. import register as reg
from ..events import migration as ev
from ..events.migration import AbortReason
from . import effects as fx
from . import inputs as inp
from .effects import Durability, Effect
from .inputs import Input
from .source_endings import (
    Result,
    abandon,
    doubt,
    is_taken_back,
    lagging,
    resume,
    to_destination,
    why,
)
from .source_state import SWITCHOVER_STEP_DEADLINE_NS, UNCLEAR_ALARM, Phase, SourceState

Wanted = Callable[[reg.RegisterRecord, str], reg.RegisterRecord]

_LOST_WRITE: Final = "the register lost a write: the destination ran the machine, and it said else"

_replace = msgspec.structs.replace


def staged(state: SourceState, given: Input, now_ns: int) -> Result:
    assert isinstance(given, inp.PeerStaged)
    after = _replace(state, phase=Phase.COMMITTED, deadline_ns=now_ns + SWITCHOVER_STEP_DEADLINE_NS)
    go = ev.GoGiven(staged_heard_ns=given.heard_ns)
    return after, (
        fx.Append(event=go, durability=Durability.JOURNALED, held=True),
        fx.Say(message=link.Go()),
    )


def refused_to_stage(state: SourceState, given: Input, _now_ns: int) -> Result:
    """The destination has journaled that it runs nothing: no other proof is needed."""
    return resume(state, *why(given))


def take_back(state: SourceState, given: Input, now_ns: int) -> Result:
    if isinstance(given, inp.Tick) and now_ns < state.deadline_ns:
        return state, ()
    reason, message = why(given)
    after = _replace(state, phase=Phase.TAKING_BACK, abort_reason=reason, abort_message=message)
    return after, (_cas(after, _wanted(after)),)


def intend_abort(state: SourceState, given: Input, now_ns: int) -> Result:
    if isinstance(given, inp.Tick) and now_ns < state.deadline_ns:
        return state, ()
    reason, message = why(given)
    after = _replace(
        _noting(state, given), phase=Phase.ABORTING, abort_reason=reason, abort_message=message
    )
    return after, (_cas(after, _wanted(after)),)


def abort_settled(state: SourceState, given: Input, now_ns: int) -> Result:
    assert isinstance(given, inp.CasSettled)
    if not given.won:
        return _lost(state, given.standing, now_ns)
    intended = ev.AbortIntended(reason=state.abort_reason)
    told = to_destination(state, intended, Durability.JOURNALED)
    after = _replace(
        state,
        phase=Phase.AWAITING_QUARANTINE,
        register=given.standing,
        unclear=0,
        alarmed=False,
        deadline_ns=now_ns + SWITCHOVER_STEP_DEADLINE_NS,
    )
    said = fx.Say(message=link.Abort(reason=state.abort_reason))
    if state.peer_runs_nothing:
        reclaiming, effects = reclaim(after, given, now_ns)
        return reclaiming, (told, said, *effects)
    return after, (told, said)


def reclaim(state: SourceState, given: Input, _now_ns: int) -> Result:
    after = _replace(_noting(state, given), phase=Phase.RECLAIMING, alarmed=False)
    return after, (_cas(after, _wanted(after)),)


def run_on_order(state: SourceState, given: Input, _now_ns: int) -> Result:
    """The operator's word on whose image is current; that the peer runs nothing must be proven."""
    assert isinstance(given, inp.RunOrdered)
    if state.has_gone_on(given.standing) or state.has_gone_on(given.seen):
        return _outlived(state)
    was_shown = state.register.record is not None
    over = reg.raised(given.standing, given.seen)
    after = state if was_shown else _replace(state, register=over)
    why_not = ""
    if state.gave_up:
        why_not = "the VMM is dead"
    elif not state.peer_runs_nothing:
        why_not = "the destination may run it"
    elif after.register.record is None:
        why_not = "the register says nothing"
    if why_not:
        told = ev.DoubtRaised(message=f"ordered to run the machine, but {why_not}")
        return state, (lagging(told),)
    if is_taken_back(state):
        return run_again(state)
    after = _replace(after, phase=Phase.RECLAIMING, alarmed=False)
    return after, (_cas(after, _wanted(after)),)


def taken_back(state: SourceState, given: Input, now_ns: int) -> Result:
    assert isinstance(given, inp.CasSettled)
    after = _replace(state, register=given.standing, unclear=0)
    if given.won or is_taken_back(after):
        return run_again(after)
    return _lost(state, given.standing, now_ns)


def run_again(state: SourceState) -> Result:
    """The register gives the machine back. It is journaled before the machine runs: the journal is
    the witness if the register forgets.
    """
    told = ev.MachineTakenBack(reason=state.abort_reason, register_sequence=state.register.sequence)
    resuming, effects = resume(state, state.abort_reason, state.abort_message)
    return resuming, (fx.Append(event=told, durability=Durability.JOURNALED), *effects)


def _lost(state: SourceState, standing: reg.RegisterView, now_ns: int) -> Result:
    """Somebody else wrote the register."""
    if state.has_gone_on(standing):
        return _outlived(state)
    if _names_destination(state, standing):
        return yield_machine(state, standing, now_ns)
    after = _replace(state, register=standing)
    return doubt(after, f"the register holds {standing.record}")


def yield_machine(state: SourceState, standing: reg.RegisterView, now_ns: int) -> Result:
    """The destination owns the machine, but has not said that it runs: keep what may be the only
    copy.
    """
    deadline_ns = now_ns + SWITCHOVER_STEP_DEADLINE_NS
    return _replace(
        state, phase=Phase.YIELDED, register=standing, alarmed=False, deadline_ns=deadline_ns
    ), ()


def _names_destination(state: SourceState, standing: reg.RegisterView) -> bool:
    record = standing.record
    return (
        record is not None
        and record.value is reg.RegisterValue.MOVED
        and record.migration == state.migration
    )


def try_again(state: SourceState, given: Input, _now_ns: int) -> Result:
    """No answer from the register: never guess, ask again. The shell paces the attempts."""
    assert isinstance(given, inp.CasUnclear)
    after = _replace(state, unclear=state.unclear + 1)
    again = (_cas(after, _wanted(state)),)
    if after.unclear == UNCLEAR_ALARM:
        alarm = lagging(ev.DoubtRaised(message=f"the register does not answer: {given.message}"))
        return after, (alarm, *again)
    return after, again


def _wanted(state: SourceState) -> Wanted:
    """The register value that the phase is about."""
    if state.phase is Phase.ABORTING:
        return reg.abort_intended
    return lambda record, migration: reg.overruled(record, state.host, migration)


def active_after_all(state: SourceState, _given: Input, _now_ns: int) -> Result:
    """B was written, and yet the destination has run: the register has lost its D."""
    releasing, effects = _release(state)
    return releasing, (lagging(ev.DoubtRaised(message=_LOST_WRITE)), *effects)


def active_before(state: SourceState, _given: Input, _now_ns: int) -> Result:
    """The destination ran before it could run nothing any more: what is here may be stale."""
    return doubt(state, "the destination had run the machine before it was fenced")


def active(state: SourceState, given: Input, now_ns: int) -> Result:
    """Free the memory; but a stale image that is the last is the operator's to give up."""
    if state.peer_runs_nothing and not state.gave_up:
        return active_before(state, given, now_ns)
    return _release(state)


def _outlived(state: SourceState) -> Result:
    """The machine has gone on since. If this migration never stunned it, it has not left by it."""
    if state.never_stunned:
        return abandon(state, AbortReason.SUPERSEDED, "the machine has gone on since")
    return _release(state)


def _release(state: SourceState) -> Result:
    released = fx.Append(event=ev.MachineReleased(), durability=Durability.JOURNALED)
    return _replace(state, phase=Phase.RELEASING), (released, fx.FreeMemory(), fx.CloseLink())


def freed(state: SourceState, _given: Input, _now_ns: int) -> Result:
    return _replace(state, phase=Phase.RELEASED), (fx.Finish(reason=AbortReason.NONE),)


def not_freed(state: SourceState, given: Input, now_ns: int) -> Result:
    """The machine is gone all the same: what is left of it here is no migration's business."""
    assert isinstance(given, inp.MemoryLeft)
    released, effects = freed(state, given, now_ns)
    return released, (lagging(ev.MemoryLeft(message=given.message)), *effects)


def alarm(state: SourceState, _given: Input, now_ns: int) -> Result:
    if state.alarmed or now_ns < state.deadline_ns:
        return state, ()
    told = lagging(ev.DoubtRaised(message=f"no answer in phase {state.phase}"))
    after = _replace(state, alarmed=True)
    if state.phase is Phase.YIELDED:
        return after, (told, fx.ReadRegister())
    return after, (told, fx.ReadRegister(), fx.FencePeer())


def look(state: SourceState, given: Input, now_ns: int) -> Result:
    assert isinstance(given, inp.RegisterRead)
    if state.has_gone_on(given.standing):
        return _outlived(state)
    if state.phase is not Phase.YIELDED and _names_destination(state, given.standing):
        return yield_machine(state, given.standing, now_ns)
    return state, ()


def note(state: SourceState, given: Input, _now_ns: int) -> Result:
    return _noting(state, given), ()


def _noting(state: SourceState, given: Input) -> SourceState:
    """The state with the proof that ``given`` may be."""
    return _replace(
        state,
        quarantined=state.quarantined or isinstance(given, inp.PeerQuarantined),
        fenced=state.fenced or isinstance(given, inp.PeerFenced),
    )


def _cas(state: SourceState, wanted: Wanted) -> Effect:
    assert state.register.record is not None
    record = wanted(state.register.record, state.migration)
    return fx.CompareAndSet(record=record, expected_sequence=state.register.sequence)
