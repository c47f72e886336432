"""The destination's part of a migration: is what it staged whole, and the taking of the ownership.

Theory of operation. Before ``STAGED`` there is no whole image here: any trouble ends in discarding
it; but once the source has said that all is sent, only its word that it runs is a reason, for this
may become the only good copy. In ``STAGED`` it waits for GO, as long as it takes; without it, it
claims only with proof that the source's host is fenced. After GO it journals, and writes D into the
register by compare-and-set: the one append inside the stun. It opens the gate only when the
register names it. If another value stands, the image is quarantined: kept, not run, until the
source says that it runs. Where nothing can be proven it holds still (``DOUBTING``) and says so,
until an operator orders it to run.

Times are the host's CLOCK_MONOTONIC in nanoseconds.
"""

from __future__ import annotations

from enum import StrEnum
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
from .table import Row, Table, ignored, row

GRACE_NS: Final = 30_000_000_000
"""Beyond a deadline of the source's: by then it must have ended the migration."""
LOOK_NS: Final = 5_000_000_000
"""How often a destination that waits in STAGED looks what became of the machine."""
UNCLEAR_ALARM: Final = 5


class Phase(StrEnum):
    """Where the destination is."""

    PREPARING = "preparing"
    PREPARED = "prepared"
    POPULATING = "populating"
    RECEIVING = "receiving"
    LOADING = "loading"
    STAGED = "staged"
    ACTIVATING = "activating"
    OPENING = "opening"
    QUARANTINED = "quarantined"
    DISCARDING = "discarding"
    DOUBTING = "doubting"
    ACTIVE = "active"
    DISCARDED = "discarded"
    FAILED = "failed"


TERMINAL: Final = frozenset({Phase.ACTIVE, Phase.DISCARDED, Phase.FAILED})
INCOMPLETE: Final = (
    Phase.PREPARING,
    Phase.PREPARED,
    Phase.POPULATING,
    Phase.RECEIVING,
    Phase.LOADING,
)


class DestinationState(msgspec.Struct, frozen=True, kw_only=True):
    """All that the destination knows of one migration."""

    phase: Phase
    migration: str
    machine: str
    host: str
    source: str
    verify: ev.Verify
    register: reg.RegisterView
    deadline_ns: int
    abort_reason: AbortReason = AbortReason.NONE
    abort_message: str = ""
    unclear: int = 0
    fenced: bool = False
    """The source's host cannot run anything any more."""
    alarmed: bool = False


Effects = tuple[Effect, ...]
Result = tuple[DestinationState, Effects]


def begin(
    ordered: ev.PreparationOrdered,
    register: reg.RegisterView,
    *,
    migration: str,
    now_ns: int,
) -> Result:
    """Begin to prepare. ``Prepared`` or ``OperationFailed`` comes next."""
    state = DestinationState(
        phase=Phase.PREPARING,
        migration=migration,
        machine=ordered.spec.name,
        host=ordered.destination,
        source=ordered.source,
        verify=ordered.verify,
        register=register,
        deadline_ns=now_ns + ordered.limits.deadline_ns + GRACE_NS,
    )
    return state, (fx.PrepareMachine(spec=ordered.spec, placements=ordered.placements),)


def step(state: DestinationState, given: Input, now_ns: int) -> Result:
    """One step. Raises as ``Table.step``."""
    return TABLE.step(state, given, now_ns)


def next_deadline_ns(state: DestinationState) -> int | None:
    """When the state wants a ``Tick``; None if never."""
    if state.phase is Phase.QUARANTINED:
        return None if state.alarmed else state.deadline_ns
    waits = state.phase in INCOMPLETE or state.phase is Phase.STAGED
    return state.deadline_ns if waits and state.phase is not Phase.LOADING else None


# Before STAGED: nothing here is whole.


def _prepared(state: DestinationState, given: Input, _now_ns: int) -> Result:
    assert isinstance(given, inp.Prepared)
    told = ev.DestinationPrepared(
        address=given.address, port=given.port, token=given.token, create_ns=given.create_ns
    )
    return _replace(state, phase=Phase.PREPARED), (_lagging(told),)


def _cannot_prepare(state: DestinationState, given: Input, _now_ns: int) -> Result:
    assert isinstance(given, inp.OperationFailed)
    told = _lagging(ev.PreparationRefused(message=given.message))
    after, effects = _discard(state, AbortReason.DESTINATION_REFUSED, given.message)
    return after, (told, *effects)


def _hello(state: DestinationState, given: Input, _now_ns: int) -> Result:
    assert isinstance(given, inp.PeerHello)
    record = state.register.record
    if record is None or record.epoch != given.register_epoch or record.owner != state.source:
        message = f"the source claims epoch {given.register_epoch}, the register holds {record}"
        refused = fx.Say(message=link.Refuse(reason=AbortReason.SUPERSEDED, message=message))
        after, effects = _discard(state, AbortReason.SUPERSEDED, message)
        return after, (refused, *effects)
    return _replace(state, phase=Phase.POPULATING), (fx.Populate(),)


def _populated(state: DestinationState, given: Input, _now_ns: int) -> Result:
    assert isinstance(given, inp.Populated)
    welcome = link.Welcome(version=link.LINK_VERSION, populate_ns=given.populate_ns)
    return _replace(state, phase=Phase.RECEIVING), (fx.Say(message=welcome),)


def _round_received(state: DestinationState, given: Input, _now_ns: int) -> Result:
    assert isinstance(given, inp.RoundReceived)
    applied = link.RoundApplied(
        round=given.round, pages=given.pages, applied_bytes=given.received_bytes
    )
    return state, (fx.Say(message=applied),)


def _stage(state: DestinationState, given: Input, _now_ns: int) -> Result:
    assert isinstance(given, inp.PeerStage)
    return _replace(state, phase=Phase.LOADING), (fx.LoadImage(verify=given.verify),)


def _loaded(state: DestinationState, given: Input, now_ns: int) -> Result:
    assert isinstance(given, inp.ImageLoaded)
    staged = ev.ImageStaged(
        pages=given.pages,
        received_bytes=given.received_bytes,
        received_ns=given.received_ns,
        staged_ns=given.staged_ns,
        verified=state.verify,
        digests=given.digests,
    )
    after = _replace(state, phase=Phase.STAGED, deadline_ns=now_ns + LOOK_NS)
    return after, (_journaled(staged), fx.Say(message=link.Staged()))


def _give_up(state: DestinationState, given: Input, now_ns: int) -> Result:
    """Refuse. The source relies on it, though nothing is journaled: without STAGED in the journal,
    not even a restarted destination runs this image.
    """
    if isinstance(given, inp.Tick) and now_ns < state.deadline_ns:
        return state, ()
    reason, message = _why(given)
    refused = fx.Say(message=link.Refuse(reason=reason, message=message))
    after, effects = _discard(state, reason, message)
    return after, (refused, *effects)


def _discard(state: DestinationState, reason: AbortReason, message: str) -> Result:
    after = _replace(state, phase=Phase.DISCARDING, abort_reason=reason, abort_message=message)
    return after, (fx.FreeMemory(),)


def _discarded(state: DestinationState, _given: Input, _now_ns: int) -> Result:
    told = ev.ImageDiscarded(reason=state.abort_reason, message=state.abort_message)
    return _replace(state, phase=Phase.DISCARDED), (
        _journaled(told),
        fx.CloseLink(),
        fx.Finish(reason=state.abort_reason),
    )


# STAGED and after: the register decides.


def _go(state: DestinationState, given: Input, _now_ns: int) -> Result:
    assert isinstance(given, inp.PeerGo)
    return _activate(state, go_heard_ns=given.heard_ns)


def _activate(state: DestinationState, *, go_heard_ns: int = 0) -> Result:
    told = _journaled(ev.ActivationStarted(go_heard_ns=go_heard_ns))
    return _replace(state, phase=Phase.ACTIVATING), (told, _claim(state))


def _claim(state: DestinationState) -> Effect:
    assert state.register.record is not None
    wanted = reg.claimed if state.fenced else reg.moved
    return fx.CompareAndSet(
        record=wanted(state.register.record, state.host, state.migration),
        expected_sequence=state.register.sequence,
    )


def _claim_fenced(state: DestinationState, _given: Input, _now_ns: int) -> Result:
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


def _run_on_order(state: DestinationState, _given: Input, _now_ns: int) -> Result:
    """The operator's word on whose image is current; that the peer runs nothing must be proven."""
    if not state.fenced:
        message = "ordered to run, but nothing proves that the source does not"
        return state, (_lagging(ev.DoubtRaised(message=message)),)
    return open_gate(state) if is_ours(state) else _activate(state)


def _note_fenced(state: DestinationState, _given: Input, _now_ns: int) -> Result:
    return _replace(state, fenced=True), ()


def _doubt(state: DestinationState) -> Result:
    told = _lagging(ev.DoubtRaised(message=f"the register holds {state.register.record}"))
    return _replace(state, phase=Phase.DOUBTING), (told,)


def _claim_settled(state: DestinationState, given: Input, now_ns: int) -> Result:
    assert isinstance(given, inp.CasSettled)
    after = _replace(state, register=given.standing, unclear=0)
    if given.won or is_ours(after):
        return open_gate(after)
    if state.fenced:
        return _claim_unless_taken_back(after)
    if is_wanted_back(state, given.standing.record):
        return _quarantine(after, given, now_ns)
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


def _claim_again(state: DestinationState, given: Input, _now_ns: int) -> Result:
    """No answer from the register: never guess, ask again. The shell paces the attempts."""
    assert isinstance(given, inp.CasUnclear)
    after = _replace(state, unclear=state.unclear + 1)
    if after.unclear == UNCLEAR_ALARM:
        alarm = _lagging(ev.DoubtRaised(message=f"the register does not answer: {given.message}"))
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
    told = _lagging(ev.DoubtRaised(message=f"the machine runs here; the register holds {record}"))
    return after, (told, opening)


def _opened(state: DestinationState, given: Input, _now_ns: int) -> Result:
    assert isinstance(given, inp.GateOpened)
    assert state.register.record is not None
    told = ev.MachineActivated(
        register_sequence=state.register.sequence,
        owned_ns=given.owned_ns,
        first_step_ns=given.first_step_ns,
    )
    active = link.Active(epoch=state.register.record.epoch, first_step_ns=given.first_step_ns)
    return _replace(state, phase=Phase.ACTIVE), (
        fx.Say(message=active),
        _to_source(state, told),
        fx.Finish(reason=AbortReason.NONE),
    )


def _open_failed(state: DestinationState, given: Input, _now_ns: int) -> Result:
    """The register names us and the VMM is dead. Say so, loudly, and to the source, which may still
    hold the image: an operator can have it run there.
    """
    assert isinstance(given, inp.OperationFailed)
    told = _to_source(state, MachineFailed(message=given.message))
    return _replace(state, phase=Phase.FAILED), (
        told,
        fx.CloseLink(),
        fx.Finish(reason=AbortReason.MACHINE_FAILED),
    )


def _look_again(state: DestinationState, given: Input, now_ns: int) -> Result:
    """No GO yet. Wait, and look in the register what became of the machine."""
    if isinstance(given, inp.Tick) and now_ns < state.deadline_ns:
        return state, ()
    return _replace(state, deadline_ns=now_ns + LOOK_NS), (fx.ReadRegister(),)


def _read_fate(state: DestinationState, given: Input, now_ns: int) -> Result:
    assert isinstance(given, inp.RegisterRead)
    if is_wanted_back(state, given.standing.record):
        return _quarantine(_replace(state, register=given.standing), given, now_ns)
    return state, ()


def _quarantine(state: DestinationState, given: Input, now_ns: int) -> Result:
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
    told = _to_source(state, ev.ImageQuarantined(reason=reason))
    after = _replace(
        state, phase=Phase.QUARANTINED, abort_reason=reason, deadline_ns=now_ns + GRACE_NS
    )
    return after, (told, fx.Say(message=link.Quarantined()))


def _alarm(state: DestinationState, _given: Input, now_ns: int) -> Result:
    """The image may be the last, and nobody says that the machine runs."""
    if state.alarmed or now_ns < state.deadline_ns:
        return state, ()
    told = _lagging(ev.DoubtRaised(message="the image is quarantined, and the source is silent"))
    return _replace(state, alarmed=True), (told,)


def _answer_again(state: DestinationState, _given: Input, _now_ns: int) -> Result:
    return state, (fx.Say(message=link.Quarantined()),)


def _source_runs(state: DestinationState, _given: Input, _now_ns: int) -> Result:
    reason = state.abort_reason or AbortReason.CANCELLED
    return _discard(state, reason, "the source runs the machine")


def _why(given: Input) -> tuple[AbortReason, str]:
    match given:
        case inp.LinkLost():
            return AbortReason.SOURCE_LOST, given.message
        case inp.PeerAbort():
            return given.reason, "the source aborted"
        case inp.PeerRuns():
            return AbortReason.CANCELLED, "the source runs the machine"
        case inp.AbortWanted() | inp.ImageBad():
            return given.reason, given.message
        case inp.OperationFailed():
            return AbortReason.DESTINATION_REFUSED, given.message
        case _:
            return AbortReason.DEADLINE_PASSED, "the deadline passed"


def _lagging(event: Event) -> Effect:
    return fx.Append(event=event, durability=Durability.LAGGING)


def _journaled(event: Event) -> Effect:
    return fx.Append(event=event, durability=Durability.JOURNALED)


def _to_source(state: DestinationState, event: Event) -> Effect:
    to = fx.Address(state.source, fx.Service.SOURCE_HOST)
    return fx.Append(event=event, durability=Durability.JOURNALED, to=to)


_replace = msgspec.structs.replace


def _rows() -> dict[tuple[StrEnum, type[Input]], Row[DestinationState]]:
    p = Phase
    rows: dict[tuple[StrEnum, type[Input]], Row[DestinationState]] = {
        (p.PREPARING, inp.Prepared): row(_prepared, p.PREPARED),
        (p.PREPARING, inp.OperationFailed): row(_cannot_prepare, p.DISCARDING),
        (p.PREPARED, inp.PeerHello): row(_hello, p.POPULATING, p.DISCARDING),
        (p.POPULATING, inp.Populated): row(_populated, p.RECEIVING),
        (p.RECEIVING, inp.RoundReceived): row(_round_received, p.RECEIVING),
        (p.RECEIVING, inp.PeerStage): row(_stage, p.LOADING),
        (p.LOADING, inp.ImageLoaded): row(_loaded, p.STAGED),
        (p.LOADING, inp.ImageBad): row(_give_up, p.DISCARDING),
        (p.STAGED, inp.PeerGo): row(_go, p.ACTIVATING),
        (p.STAGED, inp.PeerAbort): row(_quarantine, p.QUARANTINED),
        (p.STAGED, inp.PeerFenced): row(_claim_fenced, p.ACTIVATING, p.DOUBTING),
        (p.STAGED, inp.PeerRuns): row(_source_runs, p.DISCARDING),
        (p.STAGED, inp.RegisterRead): row(_read_fate, p.STAGED, p.QUARANTINED),
        (p.STAGED, inp.Tick): row(_look_again, p.STAGED),
        (p.STAGED, inp.LinkLost): row(_look_again, p.STAGED),
        (p.ACTIVATING, inp.CasSettled): row(
            _claim_settled, p.OPENING, p.ACTIVATING, p.QUARANTINED, p.DOUBTING
        ),
        (p.ACTIVATING, inp.CasUnclear): row(_claim_again, p.ACTIVATING),
        (p.ACTIVATING, inp.PeerFenced): row(_note_fenced, p.ACTIVATING),
        (p.ACTIVATING, inp.OperationFailed): row(_quarantine, p.QUARANTINED),
        (p.ACTIVATING, inp.PeerRuns): row(_source_runs, p.DISCARDING),
        (p.OPENING, inp.GateOpened): row(_opened, p.ACTIVE),
        (p.OPENING, inp.OperationFailed): row(_open_failed, p.FAILED),
        (p.QUARANTINED, inp.PeerAbort): row(_answer_again, p.QUARANTINED),
        (p.QUARANTINED, inp.PeerRuns): row(_source_runs, p.DISCARDING),
        (p.QUARANTINED, inp.Tick): row(_alarm, p.QUARANTINED),
        (p.QUARANTINED, inp.RunOrdered): row(_run_on_order, p.QUARANTINED, p.ACTIVATING, p.OPENING),
        (p.QUARANTINED, inp.PeerFenced): row(_claim_fenced, p.ACTIVATING, p.DOUBTING),
        (p.DISCARDING, inp.MemoryFreed): row(_discarded, p.DISCARDED),
        (p.DOUBTING, inp.PeerRuns): row(_source_runs, p.DISCARDING),
        (p.DOUBTING, inp.PeerFenced): row(_note_fenced, p.DOUBTING),
        (p.DOUBTING, inp.RunOrdered): row(_run_on_order, p.DOUBTING, p.ACTIVATING, p.OPENING),
    }
    troubles: tuple[type[Input], ...] = (
        inp.LinkLost,
        inp.AbortWanted,
        inp.Tick,
        inp.PeerAbort,
        inp.PeerRuns,
        inp.OperationFailed,
    )
    for phase in INCOMPLETE:
        for given in troubles:
            if phase is not p.LOADING or given is inp.PeerRuns:
                rows.setdefault((phase, given), row(_give_up, phase, p.DISCARDING))
    for given, phases in _LATE.items():
        for late in phases:
            rows.setdefault((late, given), ignored(late))
    return rows


_ENDING: Final = {Phase.DISCARDING, Phase.DISCARDED}
_AFTER_A_WRITE: Final = {Phase.OPENING, Phase.QUARANTINED, Phase.DOUBTING, *_ENDING}
_LATE: Final[dict[type[Input], set[Phase]]] = {
    inp.Tick: set(Phase),
    inp.LinkLost: set(Phase),
    inp.AbortWanted: set(Phase),
    inp.RegisterRead: set(Phase),
    inp.PeerAbort: set(Phase),
    inp.PeerRuns: {Phase.OPENING, *_ENDING},
    inp.PeerFenced: set(Phase),
    inp.PeerHello: _ENDING,
    inp.PeerStage: _ENDING,
    inp.Prepared: _ENDING,
    inp.Populated: _ENDING,
    inp.RoundReceived: {Phase.LOADING, Phase.POPULATING, *_ENDING},
    inp.ImageLoaded: _ENDING,
    inp.ImageBad: _ENDING,
    inp.OperationFailed: set(Phase),
    inp.PeerGo: set(Phase) - set(INCOMPLETE),
    inp.RunOrdered: set(Phase),
    inp.CasSettled: _AFTER_A_WRITE,
    inp.CasUnclear: _AFTER_A_WRITE,
}
"""What may come late or twice, and where it then changes nothing."""

TABLE: Final = Table("destination", _rows())
