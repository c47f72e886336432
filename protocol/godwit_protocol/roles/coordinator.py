"""The coordinator's part of a migration: whether it starts, with which limits, and how it ends.

Theory of operation. The claim on the machine, written by compare-and-set, keeps two migrations of
one machine apart, whichever coordinator runs them. Each decision is an event of a type of its own,
appended to a subject that must be empty: so any number of coordinators may fold the same log and
only one of them writes it. One that may be taken again, the bandwidth, is numbered: a number must
follow the one before it.

Until the source is told to start, replicas may see different things: a deadline that one of them
slept through, a register read too late. What they do meanwhile only prepares. The one decision
between starting and giving up is one event, ``StartDecided``, and each replica acts on what stands
in the log, never on what it wanted to write. From there the hosts' facts decide.

The coordinator is never needed during the stun. It ends a started migration on the hosts' word
alone, never on their silence: a silent party is ordered to abort, and if it stays silent an alarm
says so. The word may be a proof that the other one is off: when neither host can have an image, the
machine is lost, and that is the end. A host that is off cannot give the machine up in the register:
the coordinator does, before it ends such a migration.

Times are wall clock in nanoseconds since the epoch, so that another replica can take over. A
coordinator that restarts feeds the whole log of the migration through ``step`` and leaves out the
appends that stand in it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from .. import register as reg
from ..compatibility.verdict import Verdict
from ..errors import LocalProtocolError
from ..estimation.admission import Admission
from ..events import Event
from ..events import bandwidth as bev
from ..events import migration as ev
from ..events import reservation as rev
from ..events.migration import AbortReason, Outcome
from . import effects as fx
from . import inputs as inp
from .coordinator_state import (
    ABORT_DEADLINE_NS,
    PREPARATION_DEADLINE_NS,
    RELEASE_DEADLINE_NS,
    RESERVATION_DEADLINE_NS,
    SOURCE_GRACE_NS,
    CoordinatorState,
    Phase,
    next_deadline_ns,
    unproven,
)
from .effects import Durability, Effect, Service
from .inputs import Input
from .table import Row, Table, ignored, row

__all__ = ["TABLE", "CoordinatorState", "Phase", "begin", "next_deadline_ns", "step", "unproven"]

Effects = tuple[Effect, ...]
Result = tuple[CoordinatorState, Effects]


def begin(migration: str) -> CoordinatorState:
    """A migration that somebody asked for; ``Considered`` comes next."""
    return CoordinatorState(phase=Phase.CONSIDERING, migration=migration)


def step(state: CoordinatorState, given: Input, now_ns: int) -> Result:
    """One step. Raises as ``Table.step``."""
    return TABLE.step(state, given, now_ns)


def _considered(state: CoordinatorState, given: Input, now_ns: int) -> Result:
    assert isinstance(given, inp.Considered)
    record = given.record
    after = _replace(
        state,
        machine=given.machine,
        destination=given.destination,
        limits=given.limits,
        verify=given.verify,
    )
    refusal = _CANCELLED if state.cancelled else _objection(given)
    if refusal is not None:
        because = given.refusals if refusal[0] is AbortReason.INCOMPATIBLE else ()
        return _give_up(after, *refusal, because)
    told = () if given.estimated is None else (_logged(given.estimated),)
    if (refusal := _not_admitted(given)) is not None:
        ending, effects = _give_up(after, *refusal)
        return ending, (*told, *effects)
    assert record is not None
    after = _replace(
        after,
        phase=Phase.CLAIMING,
        source=record.owner,
        epoch=record.epoch,
        spec=given.spec,
        gpus=given.gpus,
        migration_deadline_ns=now_ns + given.limits.deadline_ns,
    )
    return after, (*told, fx.TakeClaim(machine=given.machine))


def _objection(given: inp.Considered) -> tuple[AbortReason, str] | None:
    if given.spec is None or given.record is None or given.record.value not in reg.OWNED:
        return AbortReason.MACHINE_UNKNOWN, f"no machine {given.machine!r} is running"
    if not given.destination_known:
        return AbortReason.HOST_UNKNOWN, f"no host {given.destination!r} has announced itself"
    if given.record.owner == given.destination:
        message = f"machine {given.machine!r} runs on {given.destination} already"
        return AbortReason.ALREADY_THERE, message
    if given.refusals:
        return AbortReason.INCOMPATIBLE, _told(given.refusals)
    return None


def _told(refusals: tuple[Verdict, ...]) -> str:
    first = refusals[0]
    others = f"; {len(refusals) - 1} more" if len(refusals) > 1 else ""
    return f"{first.check}: {first.reason}{others}"


def _not_admitted(given: inp.Considered) -> tuple[AbortReason, str] | None:
    estimated = given.estimated
    if estimated is None or estimated.admission is not Admission.REFUSED:
        return None
    return AbortReason.STUN_BOUND_OVER_LIMIT, estimated.message


def _claimed(state: CoordinatorState, given: Input, now_ns: int) -> Result:
    assert isinstance(given, inp.ClaimSettled)
    if not given.won:
        message = f"migration {given.holder} is moving machine {state.machine!r}"
        return _give_up(state, AbortReason.ALREADY_MIGRATING, message)
    if state.cancelled:
        return _give_up(state, *_CANCELLED)
    assert state.spec is not None
    wanted = rev.ReservationRequested(
        reservation=state.migration,
        machine=state.machine,
        target=state.destination,
        profiles=tuple(vgpu.profile for vgpu in state.spec.vgpus),
        framebuffer_bytes=tuple(vgpu.framebuffer_bytes for vgpu in state.spec.vgpus),
        placement_policy=state.spec.placement_policy,
        device_group=state.spec.device_group,
        gpus=state.gpus,
    )
    deadline_ns = min(now_ns + RESERVATION_DEADLINE_NS, state.migration_deadline_ns)
    after = _replace(state, phase=Phase.RESERVING, deadline_ns=deadline_ns)
    return after, (_logged(wanted),)


def _granted(state: CoordinatorState, given: Input, now_ns: int) -> Result:
    assert isinstance(given, inp.Granted)
    assert state.spec is not None
    held = tuple(placement.profile for placement in given.placements)
    if held != tuple(vgpu.profile for vgpu in state.spec.vgpus):
        return _give_up(state, AbortReason.SUPERSEDED, _OTHER_VGPUS)
    ordered = ev.PreparationOrdered(
        spec=state.spec,
        source=state.source,
        destination=state.destination,
        register_epoch=state.epoch,
        limits=state.limits,
        verify=state.verify,
        placements=given.placements,
    )
    deadline_ns = min(now_ns + PREPARATION_DEADLINE_NS, state.migration_deadline_ns)
    after = _replace(
        state, phase=Phase.PREPARING, preparation_ordered=True, deadline_ns=deadline_ns
    )
    to = fx.Address(state.destination, Service.DESTINATION_HOST)
    return after, (_logged(ordered, to),)


def _preparation_known(state: CoordinatorState, given: Input, _now_ns: int) -> Result:
    """What was ordered goes, also if this replica read another register."""
    assert isinstance(given, inp.PreparationKnown)
    after = _replace(
        state,
        preparation_ordered=True,
        spec=given.spec,
        source=given.source,
        epoch=given.register_epoch,
    )
    return after, ()


def _ready(state: CoordinatorState, given: Input, _now_ns: int) -> Result:
    assert isinstance(given, inp.DestinationReady)
    after = _replace(state, phase=Phase.DECIDING, ready=given)
    if state.phase is Phase.DECIDING:
        return after, ()
    return after, (_logged(ev.StartDecided(start=True)),)


def _start_known(state: CoordinatorState, given: Input, now_ns: int) -> Result:
    assert isinstance(given, inp.StartKnown)
    if not given.start:
        return _end_unstarted(state, given)
    moving, started = _start(state, now_ns)
    if not state.cancelled:
        return moving, started
    aborting, ordered = _order_abort(moving, inp.CancelWanted(), now_ns)
    return aborting, (*started, *ordered)


def _start(state: CoordinatorState, now_ns: int) -> Result:
    if state.ready is None:
        raise LocalProtocolError(f"migration {state.migration} is to start, but nobody listens")
    started = ev.MigrationStarted(
        source=state.source,
        destination=state.destination,
        address=state.ready.address,
        port=state.ready.port,
        token=state.ready.token,
        register_epoch=state.epoch,
        limits=_limits_now(state),
        verify=state.verify,
    )
    wait_ns = state.limits.deadline_ns + SOURCE_GRACE_NS
    after = _replace(state, phase=Phase.MOVING, deadline_ns=now_ns + wait_ns)
    return after, (_logged(started, fx.Address(state.source, Service.SOURCE_HOST)),)


def _limits_now(state: CoordinatorState) -> ev.Limits:
    wanted = state.bandwidth_bytes_per_second
    if wanted is None:
        return state.limits
    return _replace(state.limits, bandwidth_bytes_per_second=wanted)


def _remember_bandwidth(state: CoordinatorState, given: Input, _now_ns: int) -> Result:
    """The source has not been told to start: it will be, with this."""
    assert isinstance(given, inp.BandwidthWanted)
    return _replace(state, bandwidth_bytes_per_second=given.bytes_per_second), ()


def _order_bandwidth(state: CoordinatorState, given: Input, _now_ns: int) -> Result:
    """Numbered, for it may be decided again and again, and by any replica."""
    assert isinstance(given, inp.BandwidthWanted)
    change = state.bandwidth_changes + 1
    ordered = bev.BandwidthOrdered(
        change=change,
        order=given.order,
        bandwidth_bytes_per_second=given.bytes_per_second,
        requested_by=given.requested_by,
    )
    after = _replace(
        state, bandwidth_bytes_per_second=given.bytes_per_second, bandwidth_changes=change
    )
    return after, (_logged(ordered, fx.Address(state.source, Service.SOURCE_HOST)),)


def _remember_cancel(state: CoordinatorState, _given: Input, _now_ns: int) -> Result:
    return _replace(state, cancelled=True), ()


def _trouble(state: CoordinatorState, given: Input, now_ns: int) -> Result:
    if isinstance(given, inp.Tick) and now_ns < state.deadline_ns:
        return state, ()
    return _give_up(state, *_why(state, given))


def _give_up(
    state: CoordinatorState,
    reason: AbortReason,
    message: str,
    refusals: tuple[Verdict, ...] = (),
) -> Result:
    """Want to end it without a start. ``StartKnown`` says whether another replica wanted one."""
    decided = ev.StartDecided(start=False, reason=reason, message=message, refusals=refusals)
    return _replace(state, phase=Phase.DECIDING), (_logged(decided),)


def _end_unstarted(state: CoordinatorState, given: inp.StartKnown) -> Result:
    """The source will never be told to start: ending it here is safe."""
    ended, effects = _end(state, Outcome.ABORTED, given.reason, given.message)
    if not state.preparation_ordered:
        return ended, effects
    order = ev.AbortOrdered(reason=given.reason, message=given.message)
    told = _logged(order, fx.Address(state.destination, Service.DESTINATION_HOST))
    return ended, (told, *effects)


def _order_abort(state: CoordinatorState, given: Input, now_ns: int) -> Result:
    if isinstance(given, inp.Tick) and now_ns < state.deadline_ns:
        return state, ()
    reason, message = _why(state, given)
    order = ev.AbortOrdered(reason=reason, message=message)
    after = _replace(state, phase=Phase.ABORTING, deadline_ns=now_ns + ABORT_DEADLINE_NS)
    return after, (_logged(order, fx.Address(state.source, Service.SOURCE_HOST)),)


def _alarm(state: CoordinatorState, _given: Input, now_ns: int) -> Result:
    if state.alarmed or now_ns < state.deadline_ns:
        return state, ()
    told = _logged(ev.DoubtRaised(message=f"host {state.source} does not answer the abort"))
    return _replace(state, alarmed=True), (told,)


def _abandoned(state: CoordinatorState, given: Input, _now_ns: int) -> Result:
    assert isinstance(given, inp.SourceAbandoned)
    return _end(state, Outcome.ABORTED, given.reason, given.message)


def _image_lost(state: CoordinatorState, given: Input, _now_ns: int) -> Result:
    """A destination that refuses after the start has discarded what it had."""
    if not isinstance(given, inp.ImageLost):
        given = inp.ImageLost(host=state.destination)
    is_off = given.is_off and given.host in (state.source, state.destination)
    after = _replace(
        state,
        lost=tuple(sorted({*state.lost, given.host})),
        some_host_off=state.some_host_off or is_off,
    )
    if not {state.source, state.destination} <= {*after.lost}:
        return after, ()
    if not after.some_host_off:
        return _end(after, Outcome.ABORTED, AbortReason.MACHINE_FAILED, _LOST)
    writing_off = _replace(after, phase=Phase.WRITING_OFF)
    return writing_off, (fx.WriteOff(machine=state.machine, epoch=state.epoch),)


def _written_off(state: CoordinatorState, given: Input, _now_ns: int) -> Result:
    assert isinstance(given, inp.WrittenOff)
    if not given.epoch:
        message = "the machine has gone on since"
        return _end(state, Outcome.ABORTED, AbortReason.SUPERSEDED, message)
    lost = ev.MigrationEnded(
        outcome=Outcome.ABORTED,
        reason=AbortReason.MACHINE_FAILED,
        message=_LOST,
        lost_epoch=given.epoch,
    )
    return _settle(state, lost)


def _activated(state: CoordinatorState, _given: Input, now_ns: int) -> Result:
    after = _replace(
        state,
        phase=Phase.RELEASING,
        alarmed=False,
        deadline_ns=now_ns + RELEASE_DEADLINE_NS,
    )
    return after, ()


def _released(state: CoordinatorState, given: Input, now_ns: int) -> Result:
    if isinstance(given, inp.Tick) and now_ns < state.deadline_ns:
        return state, ()
    silent = isinstance(given, inp.Tick)
    message = f"host {state.source} has not confirmed that it freed the memory" if silent else ""
    return _end(state, Outcome.COMPLETED, AbortReason.NONE, message)


def _end(state: CoordinatorState, outcome: Outcome, reason: AbortReason, message: str) -> Result:
    return _settle(state, ev.MigrationEnded(outcome=outcome, reason=reason, message=message))


def _settle(state: CoordinatorState, ended: ev.MigrationEnded) -> Result:
    after = _replace(state, phase=Phase.SETTLING)
    return after, (_logged(ended), fx.ReleaseClaim(machine=state.machine))


def _end_known(state: CoordinatorState, _given: Input, _now_ns: int) -> Result:
    after = _replace(state, phase=Phase.SETTLING)
    return after, (fx.ReleaseClaim(machine=state.machine),)


def _settled(state: CoordinatorState, _given: Input, _now_ns: int) -> Result:
    return _replace(state, phase=Phase.ENDED), (fx.Finish(reason=AbortReason.NONE),)


def _why(state: CoordinatorState, given: Input) -> tuple[AbortReason, str]:
    match given:
        case inp.CancelWanted():
            return _CANCELLED
        case inp.Refused():
            return given.reason, given.message
        case _:
            return AbortReason.DEADLINE_PASSED, f"the deadline passed while {state.phase}"


def _logged(event: Event, to: fx.Address | None = None) -> Effect:
    return fx.Append(event=event, durability=Durability.LOGGED, to=to)


_replace = msgspec.structs.replace

_CANCELLED: Final = (AbortReason.CANCELLED, "cancelled by an operator")
_OTHER_VGPUS: Final = "the machine has been started anew, with other vGPUs than are reserved"
_LOST: Final = "the machine is lost: neither host can have anything of it"
_RESULTS: Final[tuple[type[Input], ...]] = (
    inp.Appended,
    inp.ClaimSettled,
    inp.Granted,
    inp.Refused,
    inp.DestinationReady,
    inp.PreparationKnown,
    inp.StartKnown,
    inp.EndKnown,
    inp.CancelWanted,
    inp.BandwidthWanted,
    inp.ImageLost,
    inp.WrittenOff,
    inp.SourceAbandoned,
    inp.Activated,
    inp.SourceReleased,
    inp.ClaimReleased,
    inp.Tick,
)
"""Facts from the log may come late, twice or from another replica's decision: legal everywhere."""


def _rows() -> dict[tuple[StrEnum, type[Input]], Row[CoordinatorState]]:
    p = Phase
    rows: dict[tuple[StrEnum, type[Input]], Row[CoordinatorState]] = {
        (p.CONSIDERING, inp.Considered): row(_considered, p.CLAIMING, p.DECIDING),
        (p.CLAIMING, inp.ClaimSettled): row(_claimed, p.RESERVING, p.DECIDING),
        (p.RESERVING, inp.Granted): row(_granted, p.PREPARING, p.DECIDING),
        (p.PREPARING, inp.DestinationReady): row(_ready, p.DECIDING),
        (p.DECIDING, inp.DestinationReady): row(_ready, p.DECIDING),
        (p.MOVING, inp.CancelWanted): row(_order_abort, p.ABORTING),
        (p.MOVING, inp.BandwidthWanted): row(_order_bandwidth, p.MOVING),
        (p.MOVING, inp.Tick): row(_order_abort, p.MOVING, p.ABORTING),
        (p.ABORTING, inp.Tick): row(_alarm, p.ABORTING),
        (p.RELEASING, inp.SourceReleased): row(_released, p.SETTLING),
        (p.RELEASING, inp.Tick): row(_released, p.RELEASING, p.SETTLING),
        (p.WRITING_OFF, inp.WrittenOff): row(_written_off, p.SETTLING),
        (p.SETTLING, inp.ClaimReleased): row(_settled, p.ENDED),
    }
    troubles: tuple[type[Input], ...] = (inp.Refused, inp.CancelWanted, inp.Tick)
    for phase in (p.RESERVING, p.PREPARING):
        for given in troubles:
            rows[phase, given] = row(_trouble, phase, p.DECIDING)
    for phase in (p.CONSIDERING, p.CLAIMING, p.DECIDING):
        rows[phase, inp.CancelWanted] = row(_remember_cancel, phase)
    for phase in (p.CONSIDERING, p.CLAIMING, p.RESERVING, p.PREPARING, p.DECIDING):
        rows[phase, inp.BandwidthWanted] = row(_remember_bandwidth, phase)
    for phase in (p.CLAIMING, p.RESERVING, p.PREPARING, p.DECIDING):
        rows[phase, inp.PreparationKnown] = row(_preparation_known, phase)
        rows[phase, inp.StartKnown] = row(_start_known, p.MOVING, p.ABORTING, p.SETTLING)
    for phase in Phase:
        if phase not in (p.CONSIDERING, p.SETTLING, p.ENDED):
            rows[phase, inp.EndKnown] = row(_end_known, p.SETTLING)
    for phase in (p.MOVING, p.ABORTING):
        rows[phase, inp.ImageLost] = row(_image_lost, phase, p.WRITING_OFF, p.SETTLING)
        rows[phase, inp.Refused] = row(_image_lost, phase, p.WRITING_OFF, p.SETTLING)
        rows[phase, inp.SourceAbandoned] = row(_abandoned, p.SETTLING)
        rows[phase, inp.Activated] = row(_activated, p.RELEASING)
        rows[phase, inp.SourceReleased] = row(_released, p.SETTLING)
    for given in _RESULTS:
        for phase in Phase:
            rows.setdefault((phase, given), ignored(phase))
    return rows


TABLE: Final = Table("coordinator", _rows())
