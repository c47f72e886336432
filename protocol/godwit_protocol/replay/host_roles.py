"""Source and destination as a trace knows them: which inputs may have led to an event. Pure.

Figures, reasons and messages of a guessed input are those of the event that is to be explained;
whatever the core makes of them must then be that event. See ``traces``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import Final

from .. import register as reg
from .. import subjects
from ..events import Event, Lane
from ..events import migration as ev
from ..events.migration import AbortReason
from ..roles import destination, recovery, source, source_state, succession
from ..roles import destination_deciding as deciding
from ..roles import effects as fx
from ..roles import inputs as inp
from ..roles.destination_state import DestinationState
from ..roles.inputs import Input
from ..roles.source_state import SourceState
from .evidence import Evidence, register_views
from .traces import Begun, Role, Sighting, Trace

BEGUN_NS: Final = -(2**60)
"""Nobody wrote when a role began: its deadlines are taken to come as early as can be."""


def source_trace(
    started: ev.MigrationStarted, machine: str, migration: str, evidence: Evidence
) -> Trace[SourceState]:
    """The source's lane of a migration that was started."""

    def views(event: Event) -> Iterator[reg.RegisterView]:
        ends = started.source, started.destination
        return register_views(machine, *ends, migration, started.register_epoch, event)

    def begin(view: reg.RegisterView, now_ns: int) -> Begun[SourceState]:
        return source.begin(started, machine, view, migration=migration, now_ns=now_ns)

    def restarts(seen: Sighting, facts: AbstractSet[str]) -> Iterator[Begun[SourceState]]:
        for view in views(seen.event):
            begun, effects = begin(view, seen.now_ns)
            if not facts:
                yield begun, effects
            for yes in (True, False):
                yield recovery.recover_source(begun, facts, seen.now_ns, image_left=yes)
            yield succession.source_after(begun, facts)

    def guesses(kind: type[Input], state: SourceState, event: Event) -> Iterable[Input]:
        if kind in _ORDERED:
            own = started.source, fx.Service.SOURCE_HOST
            return _ordered(kind, evidence, *own, peer=started.destination)
        if kind in _OF_REGISTER:
            return _settled(kind, _wanted_by_source(state), views(event))
        if kind is inp.Resumed and isinstance(event, ev.MigrationAbandoned):
            return (inp.Resumed(first_step_ns=state.stopped_ns + event.stun_ns),)
        return _told(kind, event, evidence.messages(Lane.SOURCE, event))

    subject_of = _subject_of(migration, Lane.SOURCE)
    role = Role(source.TABLE, source_state.next_deadline_ns, guesses, restarts, subject_of)
    return Trace(role, begin(next(iter(views(started))), BEGUN_NS))


def destination_trace(
    ordered: ev.PreparationOrdered, migration: str, evidence: Evidence
) -> Trace[DestinationState]:
    """The destination's lane of a migration that it was told to prepare."""

    def views(event: Event) -> Iterator[reg.RegisterView]:
        ends = ordered.source, ordered.destination
        return register_views(ordered.spec.name, *ends, migration, ordered.register_epoch, event)

    def begin(view: reg.RegisterView, now_ns: int) -> Begun[DestinationState]:
        return destination.begin(ordered, view, migration=migration, now_ns=now_ns)

    def restarts(seen: Sighting, facts: AbstractSet[str]) -> Iterator[Begun[DestinationState]]:
        for view in views(seen.event):
            begun, effects = begin(view, seen.now_ns)
            if not facts:
                yield begun, effects
            for yes in (False, True):
                # One that finds the image loaded goes on as if it had loaded it: that is a step.
                yield recovery.recover_destination(
                    begun, facts, seen.now_ns, machine_runs=yes, image_loaded=False
                )
                yield succession.destination_after(begun, facts, image_left=yes)

    def guesses(kind: type[Input], state: DestinationState, event: Event) -> Iterable[Input]:
        if kind in _ORDERED:
            own = ordered.destination, fx.Service.DESTINATION_HOST
            return _ordered(kind, evidence, *own, peer=ordered.source)
        if kind in _OF_REGISTER:
            return _settled(kind, _wanted_by_destination(state), views(event))
        if kind is inp.PeerHello:
            epochs = ordered.register_epoch, ordered.register_epoch - 1
            return (inp.PeerHello(register_epoch=epoch) for epoch in epochs)
        if kind is inp.PeerAbort and _reason(event) is AbortReason.SOURCE_LOST:
            return ()  # so calls a destination what it learned without the source
        if kind is inp.PeerStage:
            return (inp.PeerStage(verify=ordered.verify),)
        return _told(kind, event, evidence.messages(Lane.DESTINATION, event))

    subject_of = _subject_of(migration, Lane.DESTINATION)
    role = Role(destination.TABLE, destination.next_deadline_ns, guesses, restarts, subject_of)
    return Trace(role, begin(next(iter(views(ordered))), BEGUN_NS))


def _wanted_by_source(state: SourceState) -> reg.RegisterRecord | None:
    record = state.register.record
    if record is None:
        return None
    if state.phase is source_state.Phase.ABORTING:
        return reg.abort_intended(record, state.migration) if record.value in reg.OWNED else None
    return reg.overruled(record, state.host, state.migration)


def _wanted_by_destination(state: DestinationState) -> reg.RegisterRecord | None:
    record = state.register.record
    if record is None or not (state.fenced or deciding.may_claim(state)):
        return None
    return reg.claimed(record, state.host, state.migration)


_ORDERED: Final = (inp.AbortWanted, inp.RunOrdered, inp.PeerFenced)
_OF_REGISTER: Final = (inp.CasSettled, inp.RegisterRead)


def _ordered(
    kind: type[Input], evidence: Evidence, host: str, service: fx.Service, *, peer: str
) -> Iterator[Input]:
    """What comes by way of the log: only what stands there."""
    if kind is inp.AbortWanted:
        yield from evidence.aborts(host, service)
    elif kind is inp.RunOrdered and host in evidence.run_ordered:
        yield inp.RunOrdered()
    elif kind is inp.PeerFenced and peer in evidence.fenced:
        yield inp.PeerFenced()


def _settled(
    kind: type[Input], wanted: reg.RegisterRecord | None, views: Iterable[reg.RegisterView]
) -> Iterator[Input]:
    """What the register can have answered: ``wanted`` was written, or any other value stands."""
    for view in views:
        if kind is inp.RegisterRead:
            yield inp.RegisterRead(standing=view)
            continue
        if wanted is not None:
            yield inp.CasSettled(won=True, standing=reg.RegisterView(wanted, view.sequence))
            wanted = None
        yield inp.CasSettled(won=False, standing=view)


def _subject_of(migration: str, lane: Lane) -> Callable[[fx.Append], str]:
    def subject_of(append: fx.Append) -> str:
        kind, to = append.event.TYPE, append.to
        if to is None:
            return subjects.migration(migration, lane, kind)
        return subjects.addressed(to.host, to.service, "migration", migration, lane, kind)

    return subject_of


def _told(kind: type[Input], event: Event, messages: Iterable[str]) -> Iterable[Input]:
    """What the machine or the peer can have told, with the figures that ``event`` has of it, and
    any of ``messages``.
    """
    figures = _FIGURES.get(kind)
    if figures is not None:
        event_type, make = figures
        return (make(event),) if isinstance(event, event_type) else ()
    worded = _WORDED.get(kind)
    if worded is not None:
        return (worded(event, message) for message in messages)
    simple = _SIMPLE.get(kind)
    return () if simple is None else (simple(event),)


def _reason(event: Event) -> AbortReason:
    reason = getattr(event, "reason", AbortReason.NONE)
    return reason if isinstance(reason, AbortReason) else AbortReason.NONE


_WORDED: Final[dict[type[Input], Callable[[Event, str], Input]]] = {
    inp.LinkLost: lambda _, text: inp.LinkLost(message=text),
    inp.JournalFull: lambda _, text: inp.JournalFull(message=text),
    inp.OperationFailed: lambda _, text: inp.OperationFailed(message=text),
    inp.AppendFailed: lambda _, text: inp.AppendFailed(type=ev.StunIntended.TYPE, message=text),
    inp.CasUnclear: lambda _, text: inp.CasUnclear(message=text.rpartition(": ")[2]),
    inp.PeerRefused: lambda e, text: inp.PeerRefused(reason=_reason(e), message=text),
    inp.ImageBad: lambda e, text: inp.ImageBad(reason=_reason(e), message=text),
    inp.MemoryLeft: lambda _, text: inp.MemoryLeft(message=text),
}
_SIMPLE: Final[dict[type[Input], Callable[[Event], Input]]] = {
    inp.Tick: lambda _: inp.Tick(),
    inp.Appended: lambda _: inp.Appended(type=ev.StunIntended.TYPE),
    inp.MemoryFreed: lambda _: inp.MemoryFreed(),
    inp.PeerActive: lambda _: inp.PeerActive(epoch=0),
    inp.PeerQuarantined: lambda _: inp.PeerQuarantined(),
    inp.Populated: lambda _: inp.Populated(populate_ns=0),
    inp.RoundReceived: lambda _: inp.RoundReceived(round=0, pages=0, received_bytes=0),
    inp.PeerAbort: lambda e: inp.PeerAbort(reason=_reason(e)),
    inp.PeerRuns: lambda _: inp.PeerRuns(),
    inp.PeerGo: lambda e: inp.PeerGo(heard_ns=getattr(e, "go_heard_ns", 0)),
    inp.PeerStaged: lambda e: inp.PeerStaged(heard_ns=getattr(e, "staged_heard_ns", 0)),
    inp.Resumed: lambda _: inp.Resumed(first_step_ns=0),
}


def _alike(kind: type[Input]) -> Callable[[Event], Input]:
    """How to make an input of the fields of an event that has all of them, called the same."""
    names = kind.__struct_fields__
    return lambda event: kind(**{name: getattr(event, name) for name in names})


_FIGURES: Final[dict[type[Input], tuple[type[Event], Callable[[Event], Input]]]] = {
    inp.LinkUp: (ev.PrecopyStarted, _alike(inp.LinkUp)),
    inp.RoundDone: (ev.RoundCompleted, _alike(inp.RoundDone)),
    inp.Paused: (ev.MachineStunned, _alike(inp.Paused)),
    inp.FinalSent: (ev.FinalCopySent, _alike(inp.FinalSent)),
    inp.Prepared: (ev.DestinationPrepared, _alike(inp.Prepared)),
    inp.ImageLoaded: (ev.ImageStaged, _alike(inp.ImageLoaded)),
    inp.GateOpened: (ev.MachineActivated, _alike(inp.GateOpened)),
}
