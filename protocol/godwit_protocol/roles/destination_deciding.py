"""The destination's steps from STAGED on: the register decides. See ``destination``."""

from __future__ import annotations

import msgspec

from .. import link
from .. import register as reg
from ..events import migration as ev
from ..events.machine import MachineFailed
from ..events.migration import AbortReason
from . import effects as fx
from . import inputs as inp
from .destination_endings import Result, discard, journaled, lagging, to_source
from .destination_state import GRACE_NS, LOOK_NS, UNCLEAR_ALARM, DestinationState, Phase
from .effects import Effect
from .inputs import Input

_replace = msgspec.structs.replace


def go(state: DestinationState, given: Input, _now_ns: int) -> Result:
    assert isinstance(given, inp.PeerGo)
    return _activate(state, go_heard_ns=given.heard_ns)


def _activate(state: DestinationState, *, go_heard_ns: int = 0) -> Result:
    told = journaled(ev.ActivationStarted(go_heard_ns=go_heard_ns), held=True)
    return _replace(state, phase=Phase.ACTIVATING, alarmed=False), (told, _claim(state))


def _claim(state: DestinationState) -> Effect:
    assert state.register.record is not None
    wanted = reg.claimed if state.fenced else reg.moved
    return fx.CompareAndSet(
        record=wanted(state.register.record, state.host, state.migration),
        expected_sequence=state.register.sequence,
    )


def claim_fenced(state: DestinationState, _given: Input, _now_ns: int) -> Result:
    """The source's host is dead, and this may be the only good copy."""
    return _claim_unless_taken_back(_replace(state, fenced=True))


def _claim_unless_taken_back(state: DestinationState) -> Result:
    """Once the source took it back, it may have run: then nobody can tell whether this is stale."""
    if may_claim(state) or _is_abort_intended(state.register.record):
        return _activate(state)
    return _doubt(state)


def may_claim(state: DestinationState) -> bool:
    """Whether the register stands as it did when the source was stunned."""
    record = state.register.record
    return reg.may_run(record, state.source) and not is_wanted_back(state, record)


def _is_abort_intended(record: reg.RegisterRecord | None) -> bool:
    return record is not None and record.value is reg.RegisterValue.ABORT_INTENDED


def run_on_order(state: DestinationState, given: Input, _now_ns: int) -> Result:
    """The operator's word on whose image is current; that the peer runs nothing must be proven."""
    assert isinstance(given, inp.RunOrdered)
    if state.has_gone_on(given.standing) or state.has_gone_on(given.seen):
        return _outlived(state)
    was_shown = state.register.record is not None
    over = reg.raised(given.standing, given.seen)
    after = state if was_shown else _replace(state, register=over)
    message = ""
    if not state.fenced:
        message = "nothing proves that the source does not"
    elif after.register.record is None:
        message = "the register says nothing"
    if message:
        return state, (lagging(ev.DoubtRaised(message=f"ordered to run, but {message}")),)
    return open_gate(state) if is_ours(state) else _activate(after)


def _outlived(state: DestinationState) -> Result:
    """The machine has gone on since, past this migration: what is here is stale."""
    return discard(state, AbortReason.SUPERSEDED, "the machine has gone on since")


def note_fenced(state: DestinationState, _given: Input, _now_ns: int) -> Result:
    return _replace(state, fenced=True), ()


def _doubt(state: DestinationState) -> Result:
    told = lagging(ev.DoubtRaised(message=f"the register holds {state.register.record}"))
    return _replace(state, phase=Phase.DOUBTING), (told,)


def claim_settled(state: DestinationState, given: Input, now_ns: int) -> Result:
    assert isinstance(given, inp.CasSettled)
    after = _replace(state, register=given.standing, unclear=0)
    if given.won or is_ours(after):
        return open_gate(after)
    if state.has_gone_on(given.standing):
        return _outlived(after)
    if state.fenced:
        return _claim_unless_taken_back(after)
    if is_wanted_back(state, given.standing.record):
        return hold_back(after, given, now_ns)
    return _doubt(after)


def open_gate(state: DestinationState) -> Result:
    """The register names us, by a claim of ours, perhaps an earlier one."""
    assert state.register.record is not None
    after = _replace(state, phase=Phase.OPENING)
    return after, (fx.OpenGate(epoch=state.register.record.epoch),)


def is_ours(state: DestinationState) -> bool:
    """Whether the register names us by this migration."""
    record = state.register.record
    ours = record is not None and record.migration == state.migration
    return ours and reg.may_run(record, state.host)


def is_wanted_back(state: DestinationState, record: reg.RegisterRecord | None) -> bool:
    """Whether the source has written that it wants the machine back, or has it."""
    wanted = (reg.RegisterValue.ABORT_INTENDED, reg.RegisterValue.TAKEN_BACK)
    return record is not None and record.value in wanted and record.migration == state.migration


def claim_again(state: DestinationState, given: Input, _now_ns: int) -> Result:
    """No answer from the register: never guess, ask again. The shell paces the attempts."""
    assert isinstance(given, inp.CasUnclear)
    after = _replace(state, unclear=state.unclear + 1)
    if after.unclear == UNCLEAR_ALARM:
        alarm = lagging(ev.DoubtRaised(message=f"the register does not answer: {given.message}"))
        return after, (alarm, _claim(state))
    return after, (_claim(state),)


def run_on(state: DestinationState) -> Result:
    """Go on as the owner, after a restart, because the VMM runs: opening a gate that is open only
    tells that it is. If the register names another, it has lost a write.
    """
    record = state.register.record
    opening = fx.OpenGate(epoch=record.epoch if record else 0)
    after = _replace(state, phase=Phase.OPENING)
    if reg.may_run(record, state.host):
        return after, (opening,)
    told = lagging(ev.DoubtRaised(message=f"the machine runs here; the register holds {record}"))
    return after, (told, opening)


def opened(state: DestinationState, given: Input, _now_ns: int) -> Result:
    assert isinstance(given, inp.GateOpened)
    epoch = state.register.record.epoch if state.register.record else 0
    told = ev.MachineActivated(
        register_sequence=state.register.sequence,
        owned_ns=given.owned_ns,
        first_step_ns=given.first_step_ns,
    )
    active = link.Active(epoch=epoch, first_step_ns=given.first_step_ns)
    return _replace(state, phase=Phase.ACTIVE), (
        fx.Say(message=active),
        to_source(state, told),
        fx.Finish(reason=AbortReason.NONE),
    )


def open_failed(state: DestinationState, given: Input, _now_ns: int) -> Result:
    """The register names us and the VMM is dead. Say so, loudly, and to the source, which may still
    hold the image: an operator can have it run there.
    """
    assert isinstance(given, inp.OperationFailed)
    told = to_source(state, MachineFailed(message=given.message))
    return _replace(state, phase=Phase.FAILED), (
        told,
        fx.CloseLink(),
        fx.Finish(reason=AbortReason.MACHINE_FAILED),
    )


def cannot_claim(state: DestinationState, given: Input, now_ns: int) -> Result:
    """The VMM is dead. A source that may have an image is to take the machine back; if it has none,
    the machine is lost.
    """
    if state.fenced:
        return open_failed(state, given, now_ns)
    return hold_back(state, given, now_ns)


def look_again(state: DestinationState, given: Input, now_ns: int) -> Result:
    """No GO yet. Wait, and look in the register what became of the machine. If GO stays away, call
    for an operator, and for proof that the source's host is dead.
    """
    if isinstance(given, inp.Tick) and now_ns < state.deadline_ns:
        return state, ()
    after = _replace(state, deadline_ns=now_ns + LOOK_NS)
    if state.alarmed or now_ns < state.alarm_ns:
        return after, (fx.ReadRegister(),)
    told = lagging(ev.DoubtRaised(message="the image is whole, and no GO comes"))
    return _replace(after, alarmed=True), (told, fx.ReadRegister(), fx.FencePeer())


def read_fate(state: DestinationState, given: Input, now_ns: int) -> Result:
    assert isinstance(given, inp.RegisterRead)
    after = _replace(state, register=given.standing)
    if is_ours(after):  # claimed before a restart that was shown less
        return open_gate(after)
    if is_wanted_back(state, given.standing.record):
        return hold_back(after, given, now_ns)
    return state, ()


def hold_back(state: DestinationState, given: Input, now_ns: int) -> Result:
    """Promise not to run the image: the source wants the machine back, or the VMM is dead."""
    match given:
        case inp.PeerAbort():
            reason = given.reason
        case inp.OperationFailed():
            reason = AbortReason.DESTINATION_REFUSED
        case _:
            reason = AbortReason.SOURCE_LOST
    return quarantine(state, reason, now_ns)


def quarantine(state: DestinationState, reason: AbortReason, now_ns: int) -> Result:
    """Keep the image, and promise the source not to run it."""
    told = to_source(state, ev.ImageQuarantined(reason=reason))
    after = _replace(
        state,
        phase=Phase.QUARANTINED,
        abort_reason=reason,
        deadline_ns=now_ns + GRACE_NS,
        alarmed=False,
    )
    return after, (told, fx.Say(message=link.Quarantined()))


def alarm(state: DestinationState, _given: Input, now_ns: int) -> Result:
    """The image may be the last, and nobody says that the machine runs."""
    if state.alarmed or now_ns < state.deadline_ns:
        return state, ()
    told = lagging(ev.DoubtRaised(message="the image is quarantined, and the source is silent"))
    return _replace(state, alarmed=True), (told, fx.FencePeer())


def answer_again(state: DestinationState, _given: Input, _now_ns: int) -> Result:
    return state, (fx.Say(message=link.Quarantined()),)
