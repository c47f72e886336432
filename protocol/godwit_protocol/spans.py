"""A migration as a trace: one span a phase, made after the fact from the events that tell it. Pure.

Nobody hands a trace on. Its id is the migration's own, the root's span has the second half of it,
and every other span the second half of the id of the event that it was made from: so each service
makes its spans from its own events, and they fit together. A span's times are those that the event
tells, on the wall clock of its host; a service that was restarted in the middle of a phase has
forgotten when that began, and its span has no length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Final

import msgspec

from .events import Envelope, Lane, Recorded
from .events import migration as ev
from .events import reservation as rev
from .events.migration import Outcome
from .ids import UUID7_PATTERN

MIGRATIONS_MAX: Final = 1_000
"""Whose beginnings are remembered, the newest."""
TRACEPARENT: Final = "traceparent"
"""The header of W3C's Trace Context, and CloudEvents' extension of the same name."""
_LOW_64: Final = 2**64 - 1
_MIGRATION_SUBJECT: Final = "migration/"


class Phase(StrEnum):
    """What a span is of."""

    MIGRATION = "migration"
    """The whole of it: the root."""
    REQUEST = "request"
    """What an operator asked for: the migration itself, or a change of it."""
    QUEUE = "queue"
    RESERVE = "reserve"
    PLACE = "place"
    PREPARE = "prepare"
    DECIDE = "decide"
    START = "start"
    CONNECT = "connect"
    ROUND = "round"
    FREEZE = "freeze"
    COPY = "copy"
    STAGE = "stage"
    GO = "go"
    ACTIVATE = "activate"
    RESUME = "resume"
    RELEASE = "release"
    TAKE_BACK = "take_back"
    ABORT = "abort"
    """The order to."""
    ABANDON = "abandon"
    QUARANTINE = "quarantine"
    DISCARD = "discard"
    DOUBT = "doubt"


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """One phase. Times in ns since the epoch; ``links``: spans of the same trace that it came from.

    ``parent_id`` 0: the root. ``failure``: why the phase failed; empty if it did not.
    """

    phase: Phase
    trace_id: int
    span_id: int
    parent_id: int
    start_ns: int
    end_ns: int
    attributes: dict[str, str | int | float] = {}
    links: tuple[int, ...] = ()
    failure: str = ""


def trace_id_of(migration: str) -> int:
    """The 128 bits of a migration's id; 0 if it is none."""
    return int(migration.replace("-", ""), 16) if UUID7_PATTERN.fullmatch(migration) else 0


def span_id_of(event_id: str) -> int:
    """The last 64 bits of an event's id, or of a migration's for its root; 0 if it is none."""
    return trace_id_of(event_id) & _LOW_64


def with_traceparent(headers: Mapping[str, str]) -> Mapping[str, str]:
    """An event's headers, as ``cloudevents`` makes them, with where it belongs in the trace of its
    migration; as they are if it belongs to none.
    """
    migration = headers.get("ce-subject", "").removeprefix(_MIGRATION_SUBJECT)
    trace_id, span_id = trace_id_of(migration), span_id_of(headers.get("ce-id", ""))
    if not trace_id or not span_id:
        return headers
    return {**headers, TRACEPARENT: f"00-{trace_id:032x}-{span_id:016x}-01"}


class _Instant(msgspec.Struct, frozen=True):
    """When an event was written, and which."""

    wall_ns: int
    event_id: str
    causation: str


class Spans:
    """Makes spans from the events of one service, in the order in which it wrote them."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, _Instant]] = {}
        """By migration and type of event."""

    def of(self, recorded: Recorded) -> tuple[Span, ...]:
        """The spans that end with an event; none if it ends no phase of a migration."""
        envelope = recorded.envelope
        if not trace_id_of(envelope.migration) or not span_id_of(envelope.id):
            return ()
        made = tuple(self._made(recorded))
        seen = self._seen.setdefault(envelope.migration, {})
        wall_ns = envelope.wall_ns
        if isinstance(recorded.event, ev.ActivationStarted):
            wall_ns = _wall_ns(envelope, recorded.event.go_heard_ns)
        seen[envelope.type] = _Instant(wall_ns, envelope.id, envelope.causation)
        if len(self._seen) > MIGRATIONS_MAX:
            del self._seen[next(iter(self._seen))]
        return made

    def _made(self, recorded: Recorded) -> Iterator[Span]:
        envelope, event = recorded.envelope, recorded.event
        now_ns = envelope.wall_ns
        match event:
            case _ if envelope.lane is Lane.OPERATOR:
                yield _span(Phase.REQUEST, envelope, now_ns)
            case ev.AbortOrdered():
                yield _span(Phase.ABORT, envelope, now_ns)
            case rev.ReservationRequested():
                yield _span(Phase.QUEUE, envelope, _made_ns(envelope.migration))
            case ev.PreparationOrdered():
                asked = self._seen_of(envelope, rev.ReservationRequested.TYPE)
                phase = Phase.QUEUE if asked is None else Phase.RESERVE
                start_ns = _made_ns(envelope.migration) if asked is None else asked.wall_ns
                yield _span(phase, envelope, start_ns)
            case rev.ReservationGranted() | rev.ReservationRefused():
                why = event.message if isinstance(event, rev.ReservationRefused) else ""
                yield _span(Phase.PLACE, envelope, _made_ns(envelope.causation), failure=why)
            case ev.DestinationPrepared():
                yield _span(Phase.PREPARE, envelope, now_ns - event.create_ns)
            case ev.PreparationRefused():
                yield _span(Phase.PREPARE, envelope, now_ns, failure=event.message)
            case ev.StartDecided():
                start_ns = self._since(envelope, ev.PreparationOrdered.TYPE)
                why = "" if event.start else event.message or event.reason
                yield _span(Phase.DECIDE, envelope, start_ns, failure=why)
            case ev.MigrationStarted():
                yield _span(Phase.START, envelope, self._since(envelope, ev.StartDecided.TYPE))
            case ev.MigrationEnded():
                yield _root(envelope, event)
            case _:
                yield from self._made_by_source(recorded)

    def _made_by_source(self, recorded: Recorded) -> Iterator[Span]:
        envelope, event = recorded.envelope, recorded.event
        now_ns = envelope.wall_ns
        match event:
            case ev.PrecopyStarted():
                start_ns = _made_ns(envelope.causation) or now_ns - event.populate_ns
                told = {"populate_ns": event.populate_ns, "resident_bytes": event.resident_bytes}
                yield _span(Phase.CONNECT, envelope, start_ns, attributes=_named(told))
            case ev.RoundCompleted():
                yield _round(envelope, event)
            case ev.MachineStunned():
                yield _span(Phase.FREEZE, envelope, _wall_ns(envelope, event.stopped_ns))
            case ev.FinalCopySent():
                start_ns = self._since(envelope, ev.MachineStunned.TYPE)
                told = {"sent_bytes": event.sent_bytes, "scan_ns": event.scan_ns}
                end_ns = _wall_ns(envelope, event.sent_ns)
                yield _span(Phase.COPY, envelope, start_ns, end_ns, attributes=_named(told))
            case ev.GoGiven():
                yield _span(Phase.GO, envelope, _wall_ns(envelope, event.staged_heard_ns))
            case ev.MachineReleased():
                yield _span(Phase.RELEASE, envelope, self._since(envelope, ev.GoGiven.TYPE))
            case ev.MachineTakenBack():
                start_ns = self._since(envelope, ev.MachineStunned.TYPE)
                yield _span(Phase.TAKE_BACK, envelope, start_ns, failure=event.reason)
            case ev.MigrationAbandoned():
                why = event.message or event.reason
                yield _span(Phase.ABANDON, envelope, now_ns - event.stun_ns, failure=why)
            case ev.DoubtRaised():
                yield _span(Phase.DOUBT, envelope, now_ns, failure=event.message)
            case _:
                yield from self._made_by_destination(recorded)

    def _made_by_destination(self, recorded: Recorded) -> Iterator[Span]:
        envelope, event = recorded.envelope, recorded.event
        match event:
            case ev.ImageStaged() if event.staged_ns:
                start_ns = _wall_ns(envelope, event.received_ns)
                end_ns = _wall_ns(envelope, event.staged_ns)
                told = {"received_bytes": event.received_bytes}
                yield _span(Phase.STAGE, envelope, start_ns, end_ns, attributes=_named(told))
            case ev.MachineActivated():
                owned_ns = _wall_ns(envelope, event.owned_ns)
                go_heard = self._seen_of(envelope, ev.ActivationStarted.TYPE)
                if go_heard is not None:
                    started = msgspec.structs.replace(
                        envelope, id=go_heard.event_id, causation=go_heard.causation
                    )
                    yield _span(Phase.ACTIVATE, started, go_heard.wall_ns, owned_ns)
                runs_ns = _wall_ns(envelope, event.first_step_ns)
                yield _span(Phase.RESUME, envelope, owned_ns, runs_ns)
            case ev.ImageQuarantined():
                yield _span(Phase.QUARANTINE, envelope, envelope.wall_ns)
            case ev.ImageDiscarded():
                yield _span(Phase.DISCARD, envelope, envelope.wall_ns)
            case _:
                pass

    def _seen_of(self, envelope: Envelope, event_type: str) -> _Instant | None:
        return self._seen.get(envelope.migration, {}).get(event_type)

    def _since(self, envelope: Envelope, event_type: str) -> int:
        seen = self._seen_of(envelope, event_type)
        return envelope.wall_ns if seen is None else seen.wall_ns


def _root(envelope: Envelope, ended: ev.MigrationEnded) -> Span:
    failure = "" if ended.outcome is Outcome.COMPLETED else ended.message or ended.reason
    told = {"outcome": ended.outcome.value, "reason": ended.reason.value}
    start_ns = _made_ns(envelope.migration)
    whole = _span(Phase.MIGRATION, envelope, start_ns, attributes=_named(told), failure=failure)
    return msgspec.structs.replace(whole, span_id=span_id_of(envelope.migration), parent_id=0)


def _round(envelope: Envelope, done: ev.RoundCompleted) -> Span:
    figures = done.figures
    told: dict[str, str | int | float] = {
        "round": figures.round,
        "sent_bytes": figures.sent_bytes,
        "remaining_bytes": figures.remaining_bytes,
        "bandwidth_bytes_per_second": done.bandwidth_bytes_per_second,
        "dirty_bytes_per_second": done.dirty_bytes_per_second,
        "predicted_stun_ns": done.predicted_stun_ns,
        "slow_percent": done.slow_percent,
        "decision": done.decision.value,
        "reason": done.reason.value,
    }
    start_ns = envelope.wall_ns - figures.duration_ns
    return _span(Phase.ROUND, envelope, start_ns, attributes=_named(told))


def _span(
    phase: Phase,
    envelope: Envelope,
    start_ns: int,
    end_ns: int | None = None,
    *,
    attributes: Mapping[str, str | int | float] | None = None,
    failure: str = "",
) -> Span:
    """A span that ends with the event or at ``end_ns``. Clocks jump: none ends before it begins."""
    end_ns = envelope.wall_ns if end_ns is None else end_ns
    root_id, cause_id = span_id_of(envelope.migration), span_id_of(envelope.causation)
    return Span(
        phase=phase,
        trace_id=trace_id_of(envelope.migration),
        span_id=span_id_of(envelope.id),
        parent_id=root_id,
        start_ns=min(start_ns, end_ns),
        end_ns=end_ns,
        attributes={
            "godwit.migration": envelope.migration,
            "godwit.machine": envelope.machine,
            "godwit.host": envelope.host,
            "godwit.event": envelope.type,
            **(attributes or {}),
        },
        links=(cause_id,) if cause_id else (),
        failure=failure,
    )


def _named(told: Mapping[str, str | int | float]) -> dict[str, str | int | float]:
    return {f"godwit.{name}": value for name, value in told.items()}


def _wall_ns(envelope: Envelope, monotonic_ns: int) -> int:
    """An instant of the event's host on its wall clock."""
    return envelope.wall_ns + monotonic_ns - envelope.monotonic_ns


def _made_ns(uuid7: str) -> int:
    """When a UUIDv7 was made, ns since the epoch, to the millisecond; 0 if it is none."""
    return (trace_id_of(uuid7) >> 80) * 1_000_000
