"""Migrations as the log shows them: found by a part of their id, folded, and put into JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from godwit_protocol import subjects
from godwit_protocol.convergence import dirty_rates
from godwit_protocol.errors import (
    AbortedError,
    GodwitError,
    InDoubtError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
)
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import AbortReason, Outcome
from godwit_protocol.ids import UUID7_PATTERN
from godwit_protocol.projections import MigrationSummary, fold

from . import doubt, reading
from .archived import ArchivedError, find_archived
from .figures import milliseconds
from .narrative import NOT_KNOWN_TO_RUN, reason

if TYPE_CHECKING:
    from godwit.runtime.event_log import LogReader

REFUSALS = frozenset(
    {
        AbortReason.MACHINE_UNKNOWN,
        AbortReason.ALREADY_THERE,
        AbortReason.ALREADY_MIGRATING,
        AbortReason.HOST_UNKNOWN,
        AbortReason.INCOMPATIBLE,
        AbortReason.RESERVATION_REFUSED,
        AbortReason.DESTINATION_REFUSED,
        AbortReason.STUN_BOUND_OVER_LIMIT,
    }
)
"""Reasons for which a migration ends before the source has been told to start."""

ADMISSION_HINT = "allow more with --stun-limit, or move it anyway with --admission warn"
_HINTS = {
    AbortReason.STUN_BOUND_OVER_LIMIT: ADMISSION_HINT,
    AbortReason.INCOMPATIBLE: "'godwit migrate' with --dry-run shows every check",
}

ID_PART_CHARACTERS_MIN = 4


async def all_migrations(log: LogReader) -> list[MigrationSummary]:
    """Every migration, the oldest first. Raises ``UnreachableError``."""
    summaries: dict[str, MigrationSummary] = {}
    async for recorded in reading.events(log, subjects.whole_migration("*")):
        migration = recorded.envelope.migration
        known = summaries.get(migration) or MigrationSummary(id=migration)
        summaries[migration] = fold(known, recorded)
    return list(summaries.values())


async def find_migration(log: LogReader, part: str) -> MigrationSummary:
    """The one migration whose id begins or ends with ``part``.

    Raises ``NotFoundError``, ``InvalidInputError`` if several do, ``UnreachableError``.
    """
    summary = MigrationSummary(id=await find_id(log, part))
    async for recorded in reading.events(log, subjects.whole_migration(summary.id)):
        summary = fold(summary, recorded)
    return summary


async def find_id(log: LogReader, part: str) -> str:
    """The full id of the one migration whose id begins or ends with ``part``; raises as above, and
    ``ArchivedError`` if it has left the server.
    """
    part = part.lower()
    wanted = part if UUID7_PATTERN.fullmatch(part) else "*"
    filters = (subjects.migration(wanted, "operator", ev.MigrationRequested.TYPE),)
    known = {subject.split(".")[3] for subject in await reading.last_of_each(log, filters)}
    found = sorted(id_ for id_ in known if id_.startswith(part) or id_.endswith(part))
    if len(part) < ID_PART_CHARACTERS_MIN or len(found) > 1:
        raise InvalidInputError(
            f"{part!r} does not say which migration",
            hint=f"it could be: {', '.join(found[:5])}" if found else "give more of the id",
        )
    if not found:
        gone = await find_archived(log, part)
        if len(gone) == 1:
            raise ArchivedError(gone[0])
        raise NotFoundError(f"there is no migration {part!r}", hint="see 'godwit migration list'")
    return found[0]


def as_json(summary: MigrationSummary) -> dict[str, Any]:
    """The object that ``--json`` prints. What cannot be known (yet) is null."""
    stun_ns = summary.stun_ns
    return {
        "id": summary.id,
        "machine": summary.machine,
        "source": summary.source,
        "destination": summary.destination,
        "outcome": summary.outcome.value,
        "reason": summary.reason.value,
        "message": summary.message,
        "resolve": doubt.command(summary) if summary.outcome is Outcome.IN_DOUBT else None,
        "verify": summary.verify.value,
        "rounds": len(summary.rounds),
        "stun_ms": None if stun_ns is None else milliseconds(stun_ns),
        "stun_error_ms": None if stun_ns is None else milliseconds(summary.stun_error_ns),
        "stun_components_ms": stun_components_ms(summary),
        "bandwidth_limit_bytes_per_second": summary.limits.bandwidth_bytes_per_second or None,
        "bandwidth_changed_by": summary.bandwidth_changed_by,
        "bytes_sent": summary.sent_bytes,
        "duration_s": round(summary.duration_ns / 1e9, 3) if summary.ended_wall_ns else None,
        "dirty_bytes_per_second_by_region": {
            region: round(rate)
            for region, rate in dirty_rates([done.figures for done in summary.rounds]).items()
        },
        "round_details": [_round_json(done) for done in summary.rounds],
    }


def stun_components_ms(summary: MigrationSummary) -> dict[str, float]:
    """The parts of the stun that are known, in the order in which they happen."""
    return {part: milliseconds(ns) for part, ns in summary.marks.parts_ns().items()}


def throughput_bytes_per_second(summary: MigrationSummary) -> float:
    """What the rounds sent over the time that they took; 0.0 if there were none."""
    sent = sum(done.figures.sent_bytes for done in summary.rounds)
    took_ns = sum(done.figures.duration_ns for done in summary.rounds)
    return sent / took_ns * 1e9 if took_ns else 0.0


def error_of(summary: MigrationSummary) -> GodwitError | None:
    """What a command that wanted this migration ends with; None if it completed or goes on."""
    because = reason(summary.reason)
    told = f"{because}: {summary.message}" if summary.message else because
    where = f"migration {summary.id}"
    if summary.outcome is Outcome.IN_DOUBT:
        return InDoubtError(
            f"{where} is in doubt: {summary.message or because}",
            hint=f"the machine is held still until '{doubt.command(summary)}' (docs/in-doubt.md)",
        )
    if summary.outcome is not Outcome.ABORTED:
        return None
    if summary.reason in REFUSALS:
        hint = _HINTS.get(summary.reason, "nothing has changed")
        return RefusedError(f"{where} was refused: {told}", hint=hint)
    runs = f"machine {summary.machine} runs on {summary.source or 'its source'}"
    look = f"see: godwit machine show {summary.machine}"
    hint = look if summary.reason in NOT_KNOWN_TO_RUN else runs
    return AbortedError(f"{where} was aborted: {told}", hint=hint)


def _round_json(done: ev.RoundCompleted) -> dict[str, Any]:
    figures = done.figures
    return {
        "round": figures.round,
        "pages": figures.pages,
        "connections": figures.connections or None,
        "sent_bytes": figures.sent_bytes,
        "wire_bytes": figures.wire_bytes,
        "hole_bytes": figures.hole_bytes,
        "zero_bytes": figures.zero_bytes,
        "zero_ms": milliseconds(figures.zero_ns),
        "rewritten_bytes": figures.rewritten_bytes,
        "rewritten_ms": milliseconds(figures.rewritten_ns),
        "looked_bytes": figures.looked_bytes,
        "content_bytes": figures.content_bytes,
        "content_ms": milliseconds(figures.content_ns),
        "compression": figures.compression.value,
        "compression_bytes": figures.compression_bytes,
        "compression_ms": milliseconds(figures.compression_ns),
        "link_bytes_per_second": figures.link_bytes_per_second or None,
        "cap_bytes_per_second": figures.cap_bytes_per_second or None,
        "paced_ms": milliseconds(figures.paced_ns),
        "waiting_bytes": figures.waiting_bytes,
        "waiting_ms": milliseconds(figures.waiting_ns),
        "hot_bytes": figures.hot_bytes,
        "look_ms": milliseconds(figures.look_ns),
        "duration_ms": milliseconds(figures.duration_ns),
        "carrying_ms": milliseconds(figures.carrying_ns),
        "scan_ms": milliseconds(figures.scan_ns),
        "remaining_bytes": figures.remaining_bytes,
        "bandwidth_bytes_per_second": round(done.bandwidth_bytes_per_second),
        "dirty_bytes_per_second": round(done.dirty_bytes_per_second),
        "predicted_stun_ms": milliseconds(done.predicted_stun_ns),
        "stun_bound_ms": milliseconds(done.stun_bound_ns),
        "slow_percent": done.slow_percent,
        "decision": done.decision.value,
        "reason": done.reason.value,
    }
