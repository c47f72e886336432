"""The source's steps while aborting is free: pre-copy, and the stun until all is sent."""

from __future__ import annotations

import msgspec

from .. import convergence
from ..events import Event
from ..events import migration as ev
from ..events.migration import AbortReason
from . import effects as fx
from . import inputs as inp
from .effects import Durability
from .inputs import Input
from .source_endings import Result, abandon, lagging, refusable, resume, why
from .source_state import STAGED_NS_MIN, SWITCHOVER_STEP_DEADLINE_NS, Phase, SourceState

_replace = msgspec.structs.replace


def link_up(state: SourceState, given: Input, now_ns: int) -> Result:
    assert isinstance(given, inp.LinkUp)
    begun = ev.PrecopyStarted(
        connections=given.connections,
        resident_bytes=given.resident_bytes,
        populate_ns=given.populate_ns,
    )
    if state.limits.rounds_max == 0:
        nothing_known = convergence.predicted_stun_ns(given.resident_bytes, 0.0)
        return _intend(state, begun, nothing_known, given.resident_bytes, now_ns)
    after = _replace(
        state, phase=Phase.PRECOPYING, rounds_sent=1, deadline_ns=state.migration_deadline_ns
    )
    return after, (refusable(begun), fx.SendRound(round=1))


def round_done(state: SourceState, given: Input, now_ns: int) -> Result:
    assert isinstance(given, inp.RoundDone)
    history = (*state.history, given.figures)
    verdict = convergence.decide(
        history,
        stun_limit_ns=state.limits.stun_limit_ns,
        rounds_max=state.limits.rounds_max,
        stalled_rounds_max=state.limits.stalled_rounds_max,
        stun_limit_max_ns=state.limits.stun_limit_max_ns,
        slowing=convergence.Slowing(state.slow_percent, state.limits.slow_percent_max),
    )
    after = _replace(state, history=history, slow_percent=verdict.slow_percent)
    told = _round_event(given.figures, verdict, state.limits.stun_limit_ns)
    match verdict.decision:
        case convergence.Decision.ANOTHER_ROUND:
            upcoming = state.rounds_sent + 1
            send = fx.SendRound(
                round=upcoming,
                slow_percent=verdict.slow_percent,
                wait_bytes_max=verdict.wait_bytes_max,
            )
            return _replace(after, rounds_sent=upcoming), (refusable(told), send)
        case convergence.Decision.STUN:
            remaining = given.figures.remaining_bytes
            return _intend(after, told, verdict.predicted_stun_ns, remaining, now_ns)
        case convergence.Decision.GIVE_UP:
            message = (
                f"predicted stun {verdict.stun_bound_ns / 1e6:.0f} ms is over the limit of "
                f"{state.limits.longest_stun_ns / 1e6:.0f} ms ({verdict.reason})"
            )
            ended, effects = abandon(after, AbortReason.STUN_LIMIT_UNREACHABLE, message)
            return ended, (lagging(told), *effects)


def _intend(
    state: SourceState, told: Event, predicted_stun_ns: int, remaining_bytes: int, now_ns: int
) -> Result:
    """Say that the machine is about to be stunned; ``told`` is said first. Without room for the
    intent there is none for a stun either.
    """
    intent = ev.StunIntended(predicted_stun_ns=predicted_stun_ns, remaining_bytes=remaining_bytes)
    after = _replace(state, phase=Phase.INTENDING, deadline_ns=now_ns + SWITCHOVER_STEP_DEADLINE_NS)
    return after, (
        lagging(told),
        fx.Append(event=intent, durability=Durability.LOGGED, refusable=True),
    )


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
        stun_bound_ns=verdict.stun_bound_ns,
        slow_percent=verdict.slow_percent,
        wait_bytes_max=verdict.wait_bytes_max,
    )


def set_bandwidth(state: SourceState, given: Input, _now_ns: int) -> Result:
    """An older order may come again, after a newer one."""
    assert isinstance(given, inp.BandwidthOrdered)
    if given.change <= state.bandwidth_change:
        return state, ()
    heard = _replace(state, bandwidth_change=given.change)
    return heard, (fx.SetBandwidth(bytes_per_second=given.bytes_per_second),)


def intent_acknowledged(state: SourceState, given: Input, _now_ns: int) -> Result:
    assert isinstance(given, inp.Appended)
    return _replace(state, phase=Phase.PAUSING), (fx.PauseMachine(),)


def intent_failed(state: SourceState, given: Input, _now_ns: int) -> Result:
    assert isinstance(given, inp.AppendFailed)
    return abandon(state, AbortReason.LOG_UNREACHABLE, given.message)


def give_up_running(state: SourceState, given: Input, now_ns: int) -> Result:
    if isinstance(given, inp.Tick) and now_ns < _soonest_ns(state):
        return state, ()
    return abandon(state, *why(given))


def _soonest_ns(state: SourceState) -> int:
    return min(state.deadline_ns, state.migration_deadline_ns)


def paused(state: SourceState, given: Input, now_ns: int) -> Result:
    assert isinstance(given, inp.Paused)
    stunned = ev.MachineStunned(
        stopped_ns=given.stopped_ns, checkpoint_bytes=given.checkpoint_bytes
    )
    after = _replace(state, stopped_ns=given.stopped_ns)
    if state.abort_reason is not AbortReason.NONE:
        resuming, effects = resume(after, state.abort_reason, state.abort_message)
        return resuming, (lagging(stunned), *effects)
    frozen = fx.Append(event=stunned, durability=Durability.FLUSHING, held=True)
    final = state.rounds_sent + 1
    after = _replace(
        after,
        phase=Phase.COPYING,
        rounds_sent=final,
        deadline_ns=max(
            given.stopped_ns + state.limits.longest_stun_ns + state.verification_ns, now_ns
        ),
    )
    return after, (frozen, fx.SendFinal(round=final, verify=state.verify))


def abort_when_paused(state: SourceState, given: Input, now_ns: int) -> Result:
    """The pause is under way and cannot be called back: wait for it, then resume."""
    if isinstance(given, inp.Tick) and now_ns < _soonest_ns(state):
        return state, ()
    reason, message = why(given)
    if state.abort_reason is not AbortReason.NONE:
        return state, ()
    return _replace(state, abort_reason=reason, abort_message=message), ()


def pause_failed(state: SourceState, given: Input, _now_ns: int) -> Result:
    return resume(state, *why(given))


def final_sent(state: SourceState, given: Input, now_ns: int) -> Result:
    """FROZEN went to the disk beside the last pages. Once Stage is said the destination may have a
    whole image: a source that restarts must know from then on that it may not just resume.

    The stun's limit goes on to hold until GO: it is the deadline of the last copy that stands.
    """
    assert isinstance(given, inp.FinalSent)
    sent = ev.FinalCopySent(
        pages=given.pages,
        sent_bytes=given.sent_bytes,
        scan_ns=given.scan_ns,
        sent_ns=given.sent_ns,
        digest_ns=given.digest_ns,
        clock_offset_ns=given.clock_offset_ns,
        clock_error_ns=given.clock_error_ns,
    )
    deadline_ns = max(state.deadline_ns, now_ns + STAGED_NS_MIN)
    after = _replace(state, phase=Phase.STAGING, deadline_ns=deadline_ns)
    return after, (
        fx.AwaitFlush(),
        fx.SayStage(round=state.rounds_sent, verify=state.verify),
        fx.Append(event=sent, durability=Durability.LAGGING, held=True),
    )


def resume_unless_in_time(state: SourceState, given: Input, now_ns: int) -> Result:
    if isinstance(given, inp.Tick) and now_ns < _soonest_ns(state):
        return state, ()
    if isinstance(given, inp.Tick) and now_ns >= state.deadline_ns:
        message = f"the last copy did not end within {state.limits.longest_stun_ns / 1e6:.0f} ms"
        return resume(state, AbortReason.STUN_LIMIT_EXCEEDED, message)
    return resume(state, *why(given))
