"""A replayed migration in words and tables. Pure but for printing; it must not read any log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from godwit.pictures.figures import (
    Days,
    clock,
    day,
    day_and_clock,
    duration,
    milliseconds,
    rate,
    size,
)
from godwit.pictures.migrations import as_json
from godwit.pictures.narrative import Narrator, reason
from godwit.pictures.standing import standing
from godwit.pictures.stun import NONE as NO_STUN
from godwit.pictures.stun import stun, stun_parts
from godwit_protocol.convergence import Decision
from godwit_protocol.events import Lane
from godwit_protocol.events import migration as ev
from godwit_protocol.projections import MigrationSummary
from godwit_protocol.register import RegisterView
from godwit_protocol.replay.instant import Instant, RoleThen
from godwit_protocol.replay.roles_traced import Step
from godwit_protocol.replay.timeline import Moment, Timeline
from godwit_protocol.roles.inputs import Input

from . import output

WHO_CHARACTERS: Final = 28
STUN_CHARACTERS: Final = 15
_MARGIN: Final = " " * (8 + 14 + STUN_CHARACTERS + 2)


def show_timeline(told: Timeline) -> None:
    """Print it: the events, the rounds, and the stun taken apart."""
    summary, narrator = told.summary, Narrator()
    output.print_line(_headline(summary))
    days = Days(day(summary.requested_wall_ns) if summary.requested_wall_ns else "")
    for moment in told.moments:
        line = _line(moment, summary, narrator)
        output.print_line(days.dated(moment.recorded.envelope.wall_ns, line))
        if because := _because(moment):
            output.print_line(f"{_MARGIN}{because}")
    if summary.rounds:
        output.print_line("\nrounds, and what was decided at the end of each from which numbers")
        output.print_table(_ROUND_COLUMNS, [_round(each) for each in summary.rounds], "")
    if stun := _stun(summary):
        output.print_line("")
        output.print_facts(stun)


def _headline(summary: MigrationSummary) -> str:
    because = ": ".join(filter(None, (reason(summary.reason), summary.message)))
    ended = f"{reason(summary.outcome)}{f' ({because})' if because else ''}"
    route = f"{summary.source or '?'} → {summary.destination or '?'}"
    asked = summary.requested_wall_ns
    when = f", asked for {day_and_clock(asked)} UTC" if asked else ""
    stands = f"{where}\n" if (where := standing(summary)) else ""
    return (
        f"migration {summary.id}{when}\nmachine {summary.machine}, {route}: {ended}\n{stands}"
        "in causal order, each by its place in the log; times are the writers' clocks, UTC\n"
    )


def _line(moment: Moment, summary: MigrationSummary, narrator: Narrator) -> str:
    recorded = moment.recorded
    envelope = recorded.envelope
    who = f"{envelope.lane}@{envelope.host}"
    told = narrator.tell(recorded)
    place, time = f"{recorded.sequence:>6}  ", clock(envelope.wall_ns)
    into = _into_stun(moment, summary)
    return f"{place}{time}  {into:>{STUN_CHARACTERS}}  {who:<{WHO_CHARACTERS}}  {told}"


def _into_stun(moment: Moment, summary: MigrationSummary) -> str:
    """How long the machine had stood still; nothing where it had not, or no clock can tell."""
    envelope = moment.recorded.envelope
    if envelope.lane not in (Lane.SOURCE, Lane.DESTINATION):
        return ""
    if isinstance(moment.recorded.event, ev.MachineReleased):
        return ""
    into_ns = summary.marks.into_ns(envelope.boot, envelope.monotonic_ns)
    if into_ns is None or into_ns < 0:
        return ""
    is_over = summary.stun_ns is not None and into_ns > summary.stun_ns
    return "" if is_over else f"stun +{milliseconds(into_ns):.1f} ms"


def _because(moment: Moment) -> str:
    parts: list[str] = []
    if moment.cause is not None:
        envelope = moment.cause.envelope
        parts.append(f"because of {moment.cause.sequence}, {reason(envelope.type)}")
    if moment.step is not None:
        parts.append(_step(moment.step))
    return "; ".join(filter(None, parts))


def _step(step: Step) -> str:
    on = ", ".join(_input(given) for given in step.inputs)
    moved = step.after if step.before in (None, step.after) else f"{step.before} → {step.after}"
    restarted = "after its service came back, " if step.restarted else ""
    return f"{restarted}{moved}{f' on {on}' if on else ''}"


def _input(given: Input) -> str:
    message = getattr(given, "message", "")
    return f"{type(given).__name__}{f' ({message})' if message else ''}"


_ROUND_COLUMNS: Final = (
    *(">ROUND", ">PAGES", ">SENT", ">TOOK", ">RATE", ">WRITES", ">LEFT"),
    *(">STUN NOW", ">BOUND", ">LIMIT", ">SLOWED", "DECISION", "BECAUSE"),
)
_DECIDED: Final = {
    Decision.ANOTHER_ROUND: "another round",
    Decision.STUN: "stun",
    Decision.GIVE_UP: "give up",
}


def _round(done: ev.RoundCompleted) -> Sequence[str]:
    figures = done.figures
    return (
        str(figures.round),
        f"{figures.pages:,}",
        size(figures.sent_bytes),
        duration(figures.duration_ns),
        rate(done.bandwidth_bytes_per_second),
        rate(done.dirty_bytes_per_second),
        size(figures.remaining_bytes),
        duration(done.predicted_stun_ns),
        duration(done.stun_bound_ns),
        duration(done.stun_limit_ns),
        f"{done.slow_percent} %" if done.slow_percent else "",
        _DECIDED[done.decision],
        reason(done.reason),
    )


def _stun(summary: MigrationSummary) -> list[tuple[str, str]]:
    stood = stun(summary)
    if stood == NO_STUN:
        return []
    return [("stun", stood), *((f"  {part}", took) for part, took in stun_parts(summary))]


def timeline_json(told: Timeline) -> dict[str, Any]:
    """The object that ``--json`` prints."""
    narrator = Narrator()
    return {
        "migration": as_json(told.summary),
        "moments": [
            {
                "sequence": moment.recorded.sequence,
                "wall_ns": moment.recorded.envelope.wall_ns,
                "lane": moment.recorded.envelope.lane.value,
                "host": moment.recorded.envelope.host,
                "type": moment.recorded.envelope.type,
                "told": narrator.tell(moment.recorded),
                "cause": None if moment.cause is None else moment.cause.sequence,
                "before": moment.step and moment.step.before,
                "after": moment.step and moment.step.after,
                "inputs": [type(given).__name__ for given in moment.step.inputs]
                if moment.step
                else [],
            }
            for moment in told.moments
        ],
    }


def show_instant(found: Instant) -> None:
    """Print it: the newest event, and each role with what could come next."""
    if found.last is None:
        output.print_line("nothing had happened yet")
    else:
        envelope = found.last.envelope
        output.print_line(
            f"after {found.last.sequence}, {day(envelope.wall_ns)} {clock(envelope.wall_ns)}:"
            f" {envelope.lane}@{envelope.host}  {Narrator().tell(found.last)}"
        )
    for role in found.roles:
        others = f" (or {', '.join(role.phases[1:])})" if role.phases[1:] else ""
        output.print_line(f"\n{role.lane} is {role.phases[0]}{others}")
        output.print_facts([(f"  {name}", value) for name, value in _fields(role).items()])
        for given, leads_to in role.legal:
            output.print_line(f"  on {given.__name__:<18} → {', '.join(leads_to)}")
        if not role.legal:
            output.print_line("  nothing moves it any more")


def _fields(role: RoleThen) -> dict[str, str]:
    """What the state holds, but for its phase, its history and what is as at the beginning."""
    told: dict[str, str] = {}
    for field in msgspec.structs.fields(role.state):
        value = getattr(role.state, field.name)
        if field.name not in _UNTOLD and value not in (field.default, None, "", 0):
            told[field.name] = _value(value)
    return told


_UNTOLD: Final = (
    *("phase", "history", "spec", "ready"),
    *("deadline_ns", "migration_deadline_ns", "alarm_ns"),
)


def _value(value: object) -> str:
    if isinstance(value, RegisterView):
        record = value.record
        return "nothing" if record is None else f"{record.value} of {record.owner}, {record.epoch}"
    if isinstance(value, ev.Limits):
        return f"stun {duration(value.stun_limit_ns)}, all {duration(value.deadline_ns)}"
    return str(value)


def instant_json(found: Instant) -> dict[str, Any]:
    """The object that ``--json`` prints."""
    return {
        "sequence": None if found.last is None else found.last.sequence,
        "migration": as_json(found.summary),
        "roles": {
            role.lane.value: {
                "phases": list(role.phases),
                "state": _fields(role),
                "legal": {given.__name__: list(leads_to) for given, leads_to in role.legal},
            }
            for role in found.roles
        },
    }
