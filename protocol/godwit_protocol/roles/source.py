"""The source's part of a migration: when to stop pre-copying, and the switchover's left column.

Theory of operation. Until ``INTENDING`` the machine has never stopped: any trouble ends in
``ABANDONED`` at once. From ``PAUSING`` to ``COPYING`` the destination cannot have a whole image, so
the source just resumes. In ``STAGING`` it may have one, but has no GO: the source takes the machine
back in the register (S2) and resumes. After GO (``COMMITTED``) no timeout makes it run: it writes
B, and needs the destination's word that the image is quarantined (or proof that its host is fenced)
before it writes S2. If the register names the destination, it never runs the machine again, but
keeps the bytes (``YIELDED``) until the destination says that it runs. Where nothing can be proven
it holds still (``DOUBTING``) and says so. An operator's order ends a doubt about which image is
current; also then it runs only with proof that the destination does not.

Times are the host's CLOCK_MONOTONIC in nanoseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final

import msgspec

from .. import convergence, link
from .. import register as reg
from ..events import Event
from ..events import migration as ev
from ..events.machine import MachineFailed
from ..events.migration import AbortReason
from . import effects as fx
from . import inputs as inp
from .effects import Durability, Effect
from .inputs import Input
from .source_state import (
    CONNECT_DEADLINE_NS,
    NEVER_STOPPED,
    SWITCHOVER_STEP_DEADLINE_NS,
    UNCLEAR_ALARM,
    Phase,
    SourceState,
)
from .table import Row, Table, ignored, row

Effects = tuple[Effect, ...]
Result = tuple[SourceState, Effects]
Wanted = Callable[[reg.RegisterRecord, str], reg.RegisterRecord]

_LOST_WRITE: Final = "the register lost a write: the destination ran the machine, and it said else"


def begin(
    started: ev.MigrationStarted,
    machine: str,
    register: reg.RegisterView,
    *,
    migration: str,
    now_ns: int,
) -> Result:
    """Begin a migration that the coordinator started. ``register`` is what the host last wrote or
    read; if it does not name this host, nothing is begun and the migration is abandoned at once.
    """
    state = SourceState(
        phase=Phase.CONNECTING,
        migration=migration,
        machine=machine,
        host=started.source,
        destination=started.destination,
        limits=started.limits,
        verify=started.verify,
        register=register,
        deadline_ns=now_ns + CONNECT_DEADLINE_NS,
        migration_deadline_ns=now_ns + started.limits.deadline_ns,
    )
    if not reg.may_run(register.record, started.source):
        return _abandon(state, AbortReason.SUPERSEDED, "the register does not name this host")
    if state.epoch != started.register_epoch:
        return _abandon(state, AbortReason.SUPERSEDED, "the register's epoch has changed")
    opening = fx.OpenLink(address=started.address, port=started.port, token=started.token)
    return state, (opening,)


def step(state: SourceState, given: Input, now_ns: int) -> Result:
    """One step. Raises as ``Table.step``."""
    return TABLE.step(state, given, now_ns)


# Pre-copy: the machine runs.


def _link_up(state: SourceState, given: Input, _now_ns: int) -> Result:
    assert isinstance(given, inp.LinkUp)
    begun = ev.PrecopyStarted(
        connections=given.connections,
        resident_bytes=given.resident_bytes,
        populate_ns=given.populate_ns,
    )
    after = _replace(
        state, phase=Phase.PRECOPYING, rounds_sent=1, deadline_ns=state.migration_deadline_ns
    )
    return after, (_lagging(begun), fx.SendRound(round=1))


def _round_done(state: SourceState, given: Input, now_ns: int) -> Result:
    assert isinstance(given, inp.RoundDone)
    history = (*state.history, given.figures)
    verdict = convergence.decide(
        history,
        stun_limit_ns=state.limits.stun_limit_ns,
        rounds_max=state.limits.rounds_max,
        stalled_rounds_max=state.limits.stalled_rounds_max,
    )
    after = _replace(state, history=history)
    told = _lagging(_round_event(given.figures, verdict, state.limits.stun_limit_ns))
    match verdict.decision:
        case convergence.Decision.ANOTHER_ROUND:
            upcoming = state.rounds_sent + 1
            return _replace(after, rounds_sent=upcoming), (told, fx.SendRound(round=upcoming))
        case convergence.Decision.STUN:
            intent = ev.StunIntended(
                predicted_stun_ns=verdict.predicted_stun_ns,
                remaining_bytes=given.figures.remaining_bytes,
            )
            after = _replace(
                after,
                phase=Phase.INTENDING,
                deadline_ns=now_ns + SWITCHOVER_STEP_DEADLINE_NS,
            )
            return after, (told, fx.Append(event=intent, durability=Durability.LOGGED))
        case convergence.Decision.GIVE_UP:
            message = (
                f"predicted stun {verdict.predicted_stun_ns / 1e6:.0f} ms is over the limit of "
                f"{state.limits.stun_limit_ns / 1e6:.0f} ms ({verdict.reason})"
            )
            ended, effects = _abandon(after, AbortReason.STUN_LIMIT_UNREACHABLE, message)
            return ended, (told, *effects)


def _round_event(
    figures: ev.RoundFigures, verdict: convergence.Verdict, stun_limit_ns: int
) -> ev.RoundCompleted:
    return ev.RoundCompleted(
        figures=figures,
        bandwidth_bytes_per_second=verdict.bandwidth_bytes_per_second,
        dirty_bytes_per_second=verdict.dirty_bytes_per_second,
        predicted_stun_ns=verdict.predicted_stun_ns,
        stun_limit_ns=stun_limit_ns,
        decision=verdict.decision,
        reason=verdict.reason,
    )


def _intent_acknowledged(state: SourceState, given: Input, _now_ns: int) -> Result:
    assert isinstance(given, inp.Appended)
    return _replace(state, phase=Phase.PAUSING), (fx.PauseMachine(),)


def _intent_failed(state: SourceState, given: Input, _now_ns: int) -> Result:
    assert isinstance(given, inp.AppendFailed)
    return _abandon(state, AbortReason.LOG_UNREACHABLE, given.message)


def _give_up_running(state: SourceState, given: Input, now_ns: int) -> Result:
    if isinstance(given, inp.Tick) and now_ns < _soonest_ns(state):
        return state, ()
    return _abandon(state, *_why(given))


def _soonest_ns(state: SourceState) -> int:
    return min(state.deadline_ns, state.migration_deadline_ns)


def _abandon(state: SourceState, reason: AbortReason, message: str) -> Result:
    """End with the machine running here, where it always ran."""
    abandoned = ev.MigrationAbandoned(reason=reason, message=message)
    after = _replace(state, phase=Phase.ABANDONED, abort_reason=reason, abort_message=message)
    return after, (
        fx.Say(message=link.Abort(reason=reason)),
        fx.CloseLink(),
        _to_destination(state, abandoned, Durability.JOURNALED),
        fx.Finish(reason=reason),
    )


# The stun, while aborting is free.


def _paused(state: SourceState, given: Input, now_ns: int) -> Result:
    assert isinstance(given, inp.Paused)
    stunned = ev.MachineStunned(
        stopped_ns=given.stopped_ns, checkpoint_bytes=given.checkpoint_bytes
    )
    frozen = fx.Append(event=stunned, durability=Durability.JOURNALED)
    after = _replace(state, stopped_ns=given.stopped_ns)
    if state.abort_reason is not AbortReason.NONE:
        resuming, effects = _resume(after, state.abort_reason, state.abort_message)
        return resuming, (frozen, *effects)
    final = state.rounds_sent + 1
    after = _replace(
        after,
        phase=Phase.COPYING,
        rounds_sent=final,
        deadline_ns=max(
            given.stopped_ns + state.limits.stun_limit_ns + state.verification_ns, now_ns
        ),
    )
    return after, (frozen, fx.SendFinal(round=final, verify=state.verify))


def _abort_when_paused(state: SourceState, given: Input, now_ns: int) -> Result:
    """The pause is under way and cannot be called back: wait for it, then resume."""
    if isinstance(given, inp.Tick) and now_ns < _soonest_ns(state):
        return state, ()
    reason, message = _why(given)
    if state.abort_reason is not AbortReason.NONE:
        return state, ()
    return _replace(state, abort_reason=reason, abort_message=message), ()


def _pause_failed(state: SourceState, given: Input, _now_ns: int) -> Result:
    return _resume(state, *_why(given))


def _final_sent(state: SourceState, given: Input, now_ns: int) -> Result:
    assert isinstance(given, inp.FinalSent)
    sent = ev.FinalCopySent(
        pages=given.pages,
        sent_bytes=given.sent_bytes,
        scan_ns=given.scan_ns,
        sent_ns=given.sent_ns,
        digest_ns=given.digest_ns,
    )
    wait_ns = SWITCHOVER_STEP_DEADLINE_NS + state.verification_ns
    after = _replace(state, phase=Phase.STAGING, deadline_ns=now_ns + wait_ns)
    return after, (fx.SayStage(round=state.rounds_sent, verify=state.verify), _lagging(sent))


def _resume_unless_in_time(state: SourceState, given: Input, now_ns: int) -> Result:
    if isinstance(given, inp.Tick) and now_ns < _soonest_ns(state):
        return state, ()
    if isinstance(given, inp.Tick) and now_ns >= state.deadline_ns:
        message = f"the last copy did not end within {state.limits.stun_limit_ns / 1e6:.0f} ms"
        return _resume(state, AbortReason.STUN_LIMIT_EXCEEDED, message)
    return _resume(state, *_why(given))


def _resume(state: SourceState, reason: AbortReason, message: str) -> Result:
    """Run here again. Only where the destination cannot own the machine."""
    after = _replace(state, phase=Phase.RESUMING, abort_reason=reason, abort_message=message)
    said = fx.Say(message=link.Abort(reason=reason))
    return after, (fx.ResumeMachine(epoch=state.epoch), said)


def _resumed(state: SourceState, given: Input, _now_ns: int) -> Result:
    assert isinstance(given, inp.Resumed)
    stun_ns = max(given.first_step_ns - state.stopped_ns, 0) if state.stopped_ns else 0
    return _end_abandoned(state, stun_ns)


def _resume_failed(state: SourceState, given: Input, _now_ns: int) -> Result:
    """The machine runs nowhere. If it was taken back, the destination may hold the one good image:
    then it must not hear that the migration is over, or it would free it, but that nothing runs
    here any more, so that an operator may have it run there.
    """
    assert isinstance(given, inp.OperationFailed)
    failed = MachineFailed(message=given.message)
    if _is_taken_back(state):
        after = _replace(state, gave_up=True)
        doubting, alarm = _doubt(after, f"taken back, and does not run: {given.message}")
        return doubting, (_to_destination(state, failed, Durability.JOURNALED), *alarm)
    after = _replace(state, abort_reason=AbortReason.MACHINE_FAILED, abort_message=given.message)
    ended, effects = _end_abandoned(after, 0)
    return ended, (_lagging(failed), *effects)


def _is_taken_back(state: SourceState) -> bool:
    record = state.register.record
    ours = record is not None and record.migration == state.migration
    return ours and reg.may_run(record, state.host)


def _end_abandoned(state: SourceState, stun_ns: int) -> Result:
    abandoned = ev.MigrationAbandoned(
        reason=state.abort_reason, message=state.abort_message, stun_ns=stun_ns
    )
    return _replace(state, phase=Phase.ABANDONED), (
        fx.Say(message=link.Runs()),
        _to_destination(state, abandoned, Durability.JOURNALED),
        fx.CloseLink(),
        fx.Finish(reason=state.abort_reason),
    )


# The destination may hold a whole image: the register decides.


def _staged(state: SourceState, given: Input, now_ns: int) -> Result:
    assert isinstance(given, inp.PeerStaged)
    after = _replace(state, phase=Phase.COMMITTED, deadline_ns=now_ns + SWITCHOVER_STEP_DEADLINE_NS)
    go = ev.GoGiven(staged_heard_ns=given.heard_ns)
    return after, (
        fx.Append(event=go, durability=Durability.JOURNALED),
        fx.Say(message=link.Go()),
    )


def _refused_to_stage(state: SourceState, given: Input, _now_ns: int) -> Result:
    """The destination has journaled that it runs nothing: no other proof is needed."""
    return _resume(state, *_why(given))


def _take_back(state: SourceState, given: Input, now_ns: int) -> Result:
    if isinstance(given, inp.Tick) and now_ns < state.deadline_ns:
        return state, ()
    reason, message = _why(given)
    after = _replace(state, phase=Phase.TAKING_BACK, abort_reason=reason, abort_message=message)
    return after, (_cas(after, _wanted(after)),)


def _intend_abort(state: SourceState, given: Input, now_ns: int) -> Result:
    if isinstance(given, inp.Tick) and now_ns < state.deadline_ns:
        return state, ()
    reason, message = _why(given)
    after = _replace(
        _noting(state, given), phase=Phase.ABORTING, abort_reason=reason, abort_message=message
    )
    return after, (_cas(after, _wanted(after)),)


def _abort_settled(state: SourceState, given: Input, now_ns: int) -> Result:
    assert isinstance(given, inp.CasSettled)
    if not given.won:
        return _lost(state, given.standing, now_ns)
    intended = ev.AbortIntended(reason=state.abort_reason)
    told = _to_destination(state, intended, Durability.JOURNALED)
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
        reclaiming, effects = _reclaim(after, given, now_ns)
        return reclaiming, (told, said, *effects)
    return after, (told, said)


def _reclaim(state: SourceState, given: Input, _now_ns: int) -> Result:
    after = _replace(_noting(state, given), phase=Phase.RECLAIMING, alarmed=False)
    return after, (_cas(after, _wanted(after)),)


def _run_on_order(state: SourceState, _given: Input, _now_ns: int) -> Result:
    """The operator's word on whose image is current; that the peer runs nothing must be proven."""
    if state.gave_up or not state.peer_runs_nothing:
        why_not = "the VMM is dead" if state.gave_up else "the destination may run it"
        told = ev.DoubtRaised(message=f"ordered to run the machine, but {why_not}")
        return state, (_lagging(told),)
    if _is_taken_back(state):
        return _resume(state, state.abort_reason, state.abort_message)
    after = _replace(state, phase=Phase.RECLAIMING, alarmed=False)
    return after, (_cas(after, _wanted(after)),)


def _taken_back(state: SourceState, given: Input, now_ns: int) -> Result:
    assert isinstance(given, inp.CasSettled)
    if not given.won:
        return _lost(state, given.standing, now_ns)
    told = ev.MachineTakenBack(reason=state.abort_reason, register_sequence=given.standing.sequence)
    after = _replace(state, register=given.standing, unclear=0)
    resuming, effects = _resume(after, state.abort_reason, state.abort_message)
    return resuming, (fx.Append(event=told, durability=Durability.JOURNALED), *effects)


def _lost(state: SourceState, standing: reg.RegisterView, now_ns: int) -> Result:
    """Somebody else wrote the register."""
    if _names_destination(state, standing):
        return _yield(state, standing, now_ns)
    after = _replace(state, register=standing)
    return _doubt(after, f"the register holds {standing.record}")


def _yield(state: SourceState, standing: reg.RegisterView, now_ns: int) -> Result:
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


def _try_again(state: SourceState, given: Input, _now_ns: int) -> Result:
    """No answer from the register: never guess, ask again. The shell paces the attempts."""
    assert isinstance(given, inp.CasUnclear)
    after = _replace(state, unclear=state.unclear + 1)
    again = (_cas(after, _wanted(state)),)
    if after.unclear == UNCLEAR_ALARM:
        alarm = _lagging(ev.DoubtRaised(message=f"the register does not answer: {given.message}"))
        return after, (alarm, *again)
    return after, again


def _wanted(state: SourceState) -> Wanted:
    """The register value that the phase is about."""
    if state.phase is Phase.ABORTING:
        return reg.abort_intended
    return lambda record, migration: reg.overruled(record, state.host, migration)


def _active_after_all(state: SourceState, _given: Input, _now_ns: int) -> Result:
    """B was written, and yet the destination has run: the register has lost its D."""
    releasing, effects = _release(state)
    return releasing, (_lagging(ev.DoubtRaised(message=_LOST_WRITE)), *effects)


def _active_before(state: SourceState, _given: Input, _now_ns: int) -> Result:
    """The destination ran before its host was fenced: what is here is stale."""
    return _doubt(state, _LOST_WRITE)


def _active(state: SourceState, _given: Input, _now_ns: int) -> Result:
    return _release(state)


def _release(state: SourceState) -> Result:
    released = fx.Append(event=ev.MachineReleased(), durability=Durability.JOURNALED)
    return _replace(state, phase=Phase.RELEASING), (released, fx.FreeMemory(), fx.CloseLink())


def _freed(state: SourceState, _given: Input, _now_ns: int) -> Result:
    return _replace(state, phase=Phase.RELEASED), (fx.Finish(reason=AbortReason.NONE),)


def _alarm(state: SourceState, _given: Input, now_ns: int) -> Result:
    if state.alarmed or now_ns < state.deadline_ns:
        return state, ()
    told = _lagging(ev.DoubtRaised(message=f"no answer in phase {state.phase}"))
    return _replace(state, alarmed=True), (told, fx.ReadRegister())


def _doubt(state: SourceState, message: str) -> Result:
    told = fx.Append(event=ev.DoubtRaised(message=message), durability=Durability.LAGGING)
    return _replace(state, phase=Phase.DOUBTING, alarmed=True), (told,)


def _look(state: SourceState, given: Input, now_ns: int) -> Result:
    assert isinstance(given, inp.RegisterRead)
    if _names_destination(state, given.standing):
        return _yield(state, given.standing, now_ns)
    return state, ()


def _note(state: SourceState, given: Input, _now_ns: int) -> Result:
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


def _why(given: Input) -> tuple[AbortReason, str]:
    """The reason that an input gives for ending a migration."""
    match given:
        case inp.LinkLost():
            return AbortReason.DESTINATION_LOST, given.message
        case inp.PeerRefused() | inp.AbortWanted():
            return given.reason, given.message
        case inp.OperationFailed():
            return AbortReason.MACHINE_FAILED, given.message
        case inp.PeerQuarantined():
            return AbortReason.DESTINATION_REFUSED, "the destination quarantined the image"
        case _:
            return AbortReason.DEADLINE_PASSED, "the deadline passed"


def _lagging(event: Event) -> Effect:
    return fx.Append(event=event, durability=Durability.LAGGING)


def _to_destination(state: SourceState, event: Event, durability: Durability) -> Effect:
    to = fx.Address(state.destination, fx.Service.DESTINATION_HOST)
    return fx.Append(event=event, durability=durability, to=to)


_replace = msgspec.structs.replace


def _rows() -> dict[tuple[StrEnum, type[Input]], Row[SourceState]]:
    p = Phase
    rows: dict[tuple[StrEnum, type[Input]], Row[SourceState]] = {
        (p.CONNECTING, inp.LinkUp): row(_link_up, p.PRECOPYING),
        (p.PRECOPYING, inp.RoundDone): row(_round_done, p.PRECOPYING, p.INTENDING, p.ABANDONED),
        (p.INTENDING, inp.Appended): row(_intent_acknowledged, p.PAUSING),
        (p.INTENDING, inp.AppendFailed): row(_intent_failed, p.ABANDONED),
        (p.PAUSING, inp.Paused): row(_paused, p.COPYING, p.RESUMING),
        (p.PAUSING, inp.OperationFailed): row(_pause_failed, p.RESUMING),
        (p.COPYING, inp.FinalSent): row(_final_sent, p.STAGING),
        (p.STAGING, inp.PeerStaged): row(_staged, p.COMMITTED),
        (p.STAGING, inp.PeerRefused): row(_refused_to_stage, p.RESUMING),
        (p.COMMITTED, inp.PeerActive): row(_active, p.RELEASING),
        (p.TAKING_BACK, inp.CasSettled): row(_taken_back, p.RESUMING, p.YIELDED, p.DOUBTING),
        (p.TAKING_BACK, inp.CasUnclear): row(_try_again, p.TAKING_BACK),
        (p.ABORTING, inp.CasSettled): row(
            _abort_settled, p.AWAITING_QUARANTINE, p.RECLAIMING, p.YIELDED, p.DOUBTING
        ),
        (p.ABORTING, inp.CasUnclear): row(_try_again, p.ABORTING),
        (p.ABORTING, inp.PeerActive): row(_active, p.RELEASING),
        (p.AWAITING_QUARANTINE, inp.PeerActive): row(_active_after_all, p.RELEASING),
        (p.AWAITING_QUARANTINE, inp.PeerQuarantined): row(_reclaim, p.RECLAIMING),
        (p.AWAITING_QUARANTINE, inp.PeerFenced): row(_reclaim, p.RECLAIMING),
        (p.AWAITING_QUARANTINE, inp.Tick): row(_alarm, p.AWAITING_QUARANTINE),
        (p.RECLAIMING, inp.CasSettled): row(_taken_back, p.RESUMING, p.YIELDED, p.DOUBTING),
        (p.RECLAIMING, inp.CasUnclear): row(_try_again, p.RECLAIMING),
        (p.RECLAIMING, inp.PeerActive): row(_active_before, p.DOUBTING),
        (p.RESUMING, inp.Resumed): row(_resumed, p.ABANDONED),
        (p.RESUMING, inp.OperationFailed): row(_resume_failed, p.ABANDONED, p.DOUBTING),
        (p.RELEASING, inp.MemoryFreed): row(_freed, p.RELEASED),
        (p.YIELDED, inp.PeerActive): row(_active, p.RELEASING),
        (p.YIELDED, inp.Tick): row(_alarm, p.YIELDED),
        (p.DOUBTING, inp.PeerActive): row(_active, p.RELEASING),
    }
    trouble: tuple[type[Input], ...] = (inp.LinkLost, inp.AbortWanted, inp.Tick)
    before_stage: tuple[type[Input], ...] = (*trouble, inp.PeerRefused)
    for phase in NEVER_STOPPED:
        rows[phase, inp.OperationFailed] = row(_give_up_running, phase, p.ABANDONED)
        for given in before_stage:
            rows[phase, given] = row(_give_up_running, phase, p.ABANDONED)
    for given in before_stage:
        rows[p.PAUSING, given] = row(_abort_when_paused, p.PAUSING)
        rows[p.COPYING, given] = row(_resume_unless_in_time, p.COPYING, p.RESUMING)
    rows[p.COPYING, inp.OperationFailed] = row(_resume_unless_in_time, p.RESUMING)
    for given in trouble:
        rows[p.STAGING, given] = row(_take_back, p.STAGING, p.TAKING_BACK)
    doubts: tuple[type[Input], ...] = (
        inp.LinkLost,
        inp.Tick,
        inp.PeerQuarantined,
        inp.PeerRefused,
        inp.OperationFailed,
    )
    for given in doubts:
        rows[p.COMMITTED, given] = row(_intend_abort, p.COMMITTED, p.ABORTING)
    for phase in (p.COMMITTED, p.ABORTING, p.YIELDED, p.DOUBTING):
        rows[phase, inp.PeerFenced] = row(_note, phase)
    for phase in (p.ABORTING, p.YIELDED, p.DOUBTING):
        rows[phase, inp.PeerQuarantined] = row(_note, phase)
    for phase in (p.YIELDED, p.DOUBTING):
        rows[phase, inp.RunOrdered] = row(_run_on_order, phase, p.RECLAIMING, p.RESUMING)
    for phase in (p.COMMITTED, p.AWAITING_QUARANTINE, p.DOUBTING):
        rows[phase, inp.RegisterRead] = row(_look, phase, p.YIELDED)
    _add_late(rows)
    return rows


_AFTER_A_WRITE: Final = {
    Phase.RESUMING,
    Phase.YIELDED,
    Phase.DOUBTING,
    Phase.RELEASING,
    Phase.RELEASED,
}
_LATE: Final[dict[type[Input], set[Phase]]] = {
    inp.Tick: set(Phase),
    inp.LinkLost: set(Phase),
    inp.AbortWanted: set(Phase),
    inp.RegisterRead: set(Phase),
    inp.RoundDone: {Phase.ABANDONED},
    inp.LinkUp: {Phase.ABANDONED},
    inp.Appended: {Phase.ABANDONED},
    inp.AppendFailed: {Phase.ABANDONED},
    inp.OperationFailed: set(Phase),
    inp.FinalSent: {Phase.RESUMING, Phase.ABANDONED},
    inp.PeerStaged: set(Phase) - {*NEVER_STOPPED, Phase.PAUSING, Phase.COPYING},
    inp.PeerRefused: set(Phase),
    inp.PeerQuarantined: set(Phase) - {Phase.CONNECTING, Phase.PRECOPYING, Phase.INTENDING},
    inp.PeerActive: {Phase.RESUMING, Phase.RELEASING, Phase.RELEASED},
    inp.CasSettled: _AFTER_A_WRITE,
    inp.CasUnclear: _AFTER_A_WRITE,
    inp.PeerFenced: set(Phase),
    inp.RunOrdered: set(Phase),
}
"""What may come late or twice, and where it then changes nothing."""


def _add_late(rows: dict[tuple[StrEnum, type[Input]], Row[SourceState]]) -> None:
    for given, phases in _LATE.items():
        for phase in phases:
            rows.setdefault((phase, given), ignored(phase))


TABLE: Final = Table("source", _rows())
