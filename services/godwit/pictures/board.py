"""All migrations as they run: the fold of their events, and what is told live in a round. Pure.

What a row says comes from events alone, but for ``Progress``, which may be lost: the same events in
the log's order give the same board. Shared by ``godwit watch`` and the monitor's page.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final

import msgspec

from godwit_protocol import subjects
from godwit_protocol.events import Recorded
from godwit_protocol.events import migration as ev
from godwit_protocol.events import reservation as rev
from godwit_protocol.events.migration import Outcome
from godwit_protocol.projections import MigrationSummary, fold

from .countdown import Countdown, estimate_after, tells_remaining
from .figures import milliseconds

MIGRATIONS_KEPT_MAX: Final = 1000
"""Of more, those that ended first are forgotten."""
RECENT_MAX: Final = 6
"""Events of a migration that a row keeps, the last ones."""
PROGRESS_KIND: Final = "progress"


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Where a round is, as telemetry tells it. All may be missing."""

    round: int = 0
    sent_bytes: int = 0
    total_bytes: int = 0
    bytes_per_second: float = 0.0
    remaining_bytes: int = 0


class Phase(StrEnum):
    """How far a migration is."""

    REQUESTED = "requested"
    PREPARING = "preparing"
    COPYING = "copying"
    STUNNED = "stunned"
    ENDING = "ending"
    COMPLETED = "completed"
    ABORTED = "aborted"
    IN_DOUBT = "in doubt"


_ENDS: Final = {
    Outcome.COMPLETED: Phase.COMPLETED,
    Outcome.ABORTED: Phase.ABORTED,
    Outcome.IN_DOUBT: Phase.IN_DOUBT,
}
_PHASES: Final[dict[str, Phase]] = {
    rev.ReservationGranted.TYPE: Phase.PREPARING,
    ev.PreparationOrdered.TYPE: Phase.PREPARING,
    ev.PrecopyStarted.TYPE: Phase.COPYING,
    ev.RoundCompleted.TYPE: Phase.COPYING,
    ev.MachineStunned.TYPE: Phase.STUNNED,
    ev.MachineActivated.TYPE: Phase.ENDING,
    ev.MigrationAbandoned.TYPE: Phase.ENDING,
}
_ORDER: Final = tuple(Phase)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One migration on the board."""

    summary: MigrationSummary
    phase: Phase = Phase.REQUESTED
    countdown: Countdown = Countdown()
    progress: Progress | None = None
    recent: tuple[Recorded, ...] = ()

    @property
    def is_running(self) -> bool:
        """Whether more is to come: a doubt, too, will end."""
        return not self.summary.ended_wall_ns

    @property
    def place(self) -> int:
        """Of its last event, in the log."""
        return self.recent[-1].sequence if self.recent else 0

    @property
    def round(self) -> int:
        """The round that runs, or the last one that ran; 0 before the first."""
        done = len(self.summary.rounds)
        return max(done, self.progress.round) if self.progress else done

    @property
    def bytes_per_second(self) -> float:
        """At which pages go; 0.0 if nobody knows yet."""
        if self.progress is not None and self.progress.bytes_per_second > 0:
            return self.progress.bytes_per_second
        return self.summary.rounds[-1].bandwidth_bytes_per_second if self.summary.rounds else 0.0

    @property
    def dirty_bytes_per_second(self) -> float:
        """At which the guest writes; 0.0 before the first round's end."""
        return self.summary.rounds[-1].dirty_bytes_per_second if self.summary.rounds else 0.0

    @property
    def remaining_bytes(self) -> int | None:
        """Still to be sent, as far as it is known."""
        if not self.is_running or self.phase in (Phase.STUNNED, Phase.ENDING):
            return 0 if self.phase is Phase.COMPLETED else None
        if self.progress is not None:
            return self.progress.remaining_bytes
        if self.summary.rounds:
            return self.summary.rounds[-1].figures.remaining_bytes
        return self.summary.resident_bytes or None

    @property
    def predicted_stun_ns(self) -> int | None:
        """As the last round has it; None before there was one."""
        return self.summary.rounds[-1].predicted_stun_ns if self.summary.rounds else None

    def remaining_ns(self, now_ns: int) -> int | None:
        """Until it ends, by the wall clock; never more than it was before; None: not known."""
        if self.phase in (Phase.COMPLETED, Phase.ABORTED, Phase.IN_DOUBT):
            return None
        return self.countdown.remaining_ns(now_ns)

    def as_json(self, now_ns: int) -> dict[str, Any]:
        """The object for programs and for the page."""
        summary, stun_ns, left_ns = self.summary, self.summary.stun_ns, self.remaining_ns(now_ns)
        predicted_ns = self.predicted_stun_ns
        return {
            "id": summary.id,
            "place": self.place,
            "machine": summary.machine,
            "source": summary.source,
            "destination": summary.destination,
            "phase": self.phase.value,
            "running": self.is_running,
            "reason": summary.reason.value,
            "message": summary.message,
            "requested_wall_ns": summary.requested_wall_ns,
            "round": self.round,
            "sent_bytes": summary.sent_bytes,
            "bytes_per_second": round(self.bytes_per_second),
            "dirty_bytes_per_second": round(self.dirty_bytes_per_second),
            "remaining_bytes": self.remaining_bytes,
            "predicted_stun_ms": None if predicted_ns is None else milliseconds(predicted_ns),
            "stun_limit_ms": milliseconds(summary.limits.stun_limit_ns),
            "stun_ms": None if stun_ns is None else milliseconds(stun_ns),
            "remaining_s": None if left_ns is None else round(left_ns / 1e9, 3),
            "duration_s": round(summary.duration_ns / 1e9, 3) if summary.ended_wall_ns else None,
        }


class Board:
    """The rows. ``forgotten``: how many there were beyond ``MIGRATIONS_KEPT_MAX``;
    ``forgotten_place``: of the last event of any of those.
    """

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}
        self.forgotten = self.forgotten_place = 0

    def learn(self, recorded: Recorded, now_ns: int = 0) -> Row | None:
        """Take a migration's next event in the log's order; return the row, if it is of one.

        ``now_ns``: by the clock of who looks, if it came while they did: what they have been shown
        as to go is not more afterwards, however far behind the writer's clock is.
        What is told of a migration whose request was not taken, or is forgotten, makes no row.
        """
        migration = recorded.envelope.migration
        before = self._rows.get(migration)
        if before is None:
            if not isinstance(recorded.event, ev.MigrationRequested):
                return None
            before = Row(summary=MigrationSummary(id=migration))
        after = self._rows[migration] = _after(before, recorded, now_ns)
        self._forget()
        return after

    def hear(self, migration: str, progress: Progress, now_ns: int) -> Row | None:
        """Take telemetry of a migration; return its row, if it runs."""
        row = self._rows.get(migration)
        if row is None or row.phase is not Phase.COPYING:
            return None
        if progress.round <= len(row.summary.rounds):
            return None  # of a round that an event has told of since
        row = self._rows[migration] = msgspec.structs.replace(
            row, progress=progress, countdown=_counted_by(row, progress, now_ns)
        )
        return row

    def row(self, migration: str) -> Row | None:
        """One migration."""
        return self._rows.get(migration)

    def rows(self) -> list[Row]:
        """Those that run, the oldest first; then those that have ended, the newest first."""
        running = [row for row in self._rows.values() if row.is_running]
        running.sort(key=lambda row: row.summary.requested_wall_ns)
        ended = [row for row in self._rows.values() if not row.is_running]
        return [*running, *sorted(ended, key=lambda row: -row.summary.ended_wall_ns)]

    def _forget(self) -> None:
        if len(self._rows) <= MIGRATIONS_KEPT_MAX:
            return
        ended = (name for name, row in self._rows.items() if not row.is_running)
        row = self._rows.pop(next(ended, next(iter(self._rows))))
        self.forgotten += 1
        self.forgotten_place = max(self.forgotten_place, row.place)


def _after(row: Row, recorded: Recorded, now_ns: int) -> Row:
    summary = fold(row.summary, recorded)
    countdown, now_ns = row.countdown, max(now_ns, recorded.envelope.wall_ns)
    if tells_remaining(recorded):
        countdown = countdown.told(estimate_after(recorded, summary), now_ns)
    told = len(summary.rounds) > len(row.summary.rounds) or summary.ended_wall_ns
    return Row(
        summary=summary,
        phase=_phase(row.phase, summary, recorded.envelope.type),
        countdown=countdown,
        progress=None if told else row.progress,
        recent=(*row.recent, recorded)[-RECENT_MAX:],
    )


def _phase(before: Phase, summary: MigrationSummary, happened: str) -> Phase:
    """Hosts may tell late: a phase that has passed does not come back."""
    ended = _ENDS.get(summary.outcome)
    if ended is not None:
        return ended
    return max(before, _PHASES.get(happened, before), key=_ORDER.index)


def _counted_by(row: Row, progress: Progress, now_ns: int) -> Countdown:
    """The first round is what telemetry tells of; after it, events know better."""
    if row.summary.rounds or progress.bytes_per_second <= 0:
        return row.countdown
    left_ns = int(progress.remaining_bytes / progress.bytes_per_second * 1e9)
    return row.countdown.told(left_ns + (row.summary.limits.stun_limit_ns), now_ns)


def progress_subject(migration: str) -> str:
    """Where a migration's telemetry is announced (``*``: every one's)."""
    return subjects.telemetry("migration", migration, PROGRESS_KIND)


def told_progress(subject: str, data: bytes) -> tuple[str, Progress] | None:
    """The migration and its progress; None if it is not that."""
    try:
        return subject.split(".")[-2], msgspec.msgpack.decode(data, type=Progress)
    except msgspec.MsgspecError:
        return None


def matching(rows: Iterable[Row], text: str) -> list[Row]:
    """Rows of which the machine, a host, the phase or the id has each word of ``text``."""
    words = text.lower().split()
    return [row for row in rows if all(word in _searched(row) for word in words)]


def _searched(row: Row) -> str:
    summary = row.summary
    told = (summary.machine, summary.source, summary.destination, row.phase.value, summary.id)
    return " ".join(told).lower()
