"""``godwit replay what-if`` and ``diff``: a recorded move under other limits or another link."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from godwit.pictures.figures import count, duration, milliseconds, rate, size
from godwit.pictures.narrative import reason
from godwit_protocol.convergence import SLOW_PERCENT_MAX, Decision
from godwit_protocol.errors import InvalidInputError, NotFoundError
from godwit_protocol.events import migration as ev
from godwit_protocol.pacing import parse_bandwidth
from godwit_protocol.quantities import parse_duration_ns, parse_rate
from godwit_protocol.replay.what_if import Course, Move, Setting, as_recorded, what_if

from . import output

BAR_CHARACTERS: Final = 20
ROUNDS_MAX: Final = 10_000


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise InvalidInputError(f"{text!r} is no number from {low} to {high}")
        return int(text)

    return parse


FIELDS: Final[Mapping[str, tuple[str, Callable[[str], int]]]] = {
    "stun_limit": ("stun_limit_ns", parse_duration_ns),
    "stun_limit_max": ("stun_limit_max_ns", parse_duration_ns),
    "slow_max": ("slow_percent_max", _whole(0, SLOW_PERCENT_MAX)),
    "bandwidth": ("bandwidth_bytes_per_second", parse_bandwidth),
    "rounds_max": ("rounds_max", _whole(1, ROUNDS_MAX)),
    "deadline": ("deadline_ns", parse_duration_ns),
    "stalled_rounds_max": ("stalled_rounds_max", _whole(1, ROUNDS_MAX)),
}
"""What can be given otherwise, by its name in a file: the limit that it is, and how it is read."""


def setting_of(move: Move, given: Mapping[str, str]) -> Setting:
    """The move's setting with what is ``given`` otherwise. Raises ``InvalidInputError``."""
    unknown = set(given) - {*FIELDS, "link"}
    if unknown:
        raise InvalidInputError(
            f"nothing is called {', '.join(sorted(unknown))}",
            hint=f"give any of: link, {', '.join(FIELDS)}",
        )
    changes = {
        FIELDS[name][0]: FIELDS[name][1](text) for name, text in given.items() if name in FIELDS
    }
    link = float(parse_rate(given["link"])) if "link" in given else 0.0
    limits = msgspec.structs.replace(move.started.limits, **changes)
    return Setting(limits=limits, link_bytes_per_second=link)


def read_config(path: Path) -> dict[str, str]:
    """The settings of a TOML file. Raises ``NotFoundError``, ``InvalidInputError``."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{path} cannot be read: {error}") from error
    return {name: str(value) for name, value in found.items()}


def compared(move: Move, setting: Setting) -> tuple[Course, Course]:
    """As it was, and as it would have been."""
    return as_recorded(move), what_if(move, setting)


def show(move: Move, setting: Setting) -> None:
    """Print both side by side, a line a round."""
    before, after = compared(move, setting)
    for line in _changes(move, setting):
        output.print_line(line)
    most = max(done.figures.remaining_bytes for done in (*before.rounds, *after.rounds))
    rounds = range(max(len(before.rounds), len(after.rounds)))
    output.print_table(_COLUMNS, [_row(before, after, number, most) for number in rounds], "")
    output.print_line("")
    totals = [
        ("rounds", str(len(before.rounds)), str(len(after.rounds))),
        ("sent", size(before.sent_bytes), size(after.sent_bytes)),
        ("pre-copy", duration(before.precopy_ns), duration(after.precopy_ns)),
        ("stun", _stun(before), _stun(after)),
        ("in the end", _end(before, move), _end(after, None)),
    ]
    output.print_table(("WHAT", "RECORDED", "OTHERWISE"), totals, "")
    played = len(after.rounds) - after.recorded_rounds
    output.print_line(
        f"{count(after.recorded_rounds, 'round')} as recorded, {played} played"
        if played
        else "every round is as it was recorded"
    )


def as_json(move: Move, setting: Setting) -> dict[str, Any]:
    """The object that ``--json`` prints."""
    before, after = compared(move, setting)
    return {"recorded": _course_json(before), "otherwise": _course_json(after)}


def _course_json(course: Course) -> dict[str, Any]:
    return {
        "rounds": [
            {
                "sent_bytes": done.figures.sent_bytes,
                "duration_ms": milliseconds(done.figures.duration_ns),
                "remaining_bytes": done.figures.remaining_bytes,
                "stun_bound_ms": milliseconds(done.stun_bound_ns),
                "slow_percent": done.slow_percent,
                "decision": done.decision.value,
                "reason": done.reason.value,
            }
            for done in course.rounds
        ],
        "recorded_rounds": course.recorded_rounds,
        "decision": course.decision.value,
        "too_late": course.too_late,
        "stun_ms": None if course.stun_ns is None else milliseconds(course.stun_ns),
        "bytes_sent": course.sent_bytes,
    }


def _changes(move: Move, setting: Setting) -> Sequence[str]:
    lines = []
    if setting.link_bytes_per_second:
        lines.append(f"link: as recorded → {rate(setting.link_bytes_per_second)}")
    for name, (field, _) in FIELDS.items():
        before, after = getattr(move.started.limits, field), getattr(setting.limits, field)
        if before != after:
            timed = field.endswith("_ns")
            told = (duration(before), duration(after)) if timed else (str(before), str(after))
            lines.append(f"{reason(name)}: {' → '.join(told)}")
    return [*lines, ""] if lines else ["nothing differs: these are the recorded settings", ""]


_COLUMNS: Final = (
    *(">ROUND", "LEFT", ">BYTES", ">BOUND", "DECISION"),
    *("LEFT OTHERWISE", ">BYTES", ">BOUND", "DECISION"),
)


def _row(before: Course, after: Course, number: int, most: int) -> Sequence[str]:
    return (str(number + 1), *_half(before, number, most), *_half(after, number, most))


def _half(course: Course, number: int, most: int) -> Sequence[str]:
    if number >= len(course.rounds):
        return ("", "", "", "")
    done = course.rounds[number]
    left = done.figures.remaining_bytes
    slowed = f", slowed {done.slow_percent} %" if done.slow_percent else ""
    return (
        _bar(left, most),
        size(left),
        duration(done.stun_bound_ns),
        f"{reason(done.decision)}: {reason(done.reason)}{slowed}",
    )


def _bar(value: int, most: int) -> str:
    return "█" * -(-value * BAR_CHARACTERS // most) if most else ""


def _stun(course: Course) -> str:
    return "none" if course.stun_ns is None else duration(course.stun_ns)


def _end(course: Course, move: Move | None) -> str:
    if move is not None:
        because = f" ({reason(move.summary.reason)})" if move.summary.reason else ""
        return f"{reason(move.summary.outcome)}{because}"
    match course.decision:
        case _ if course.too_late:
            return f"given up ({reason(ev.AbortReason.DEADLINE_PASSED)})"
        case Decision.STUN:
            return "it is stunned and switched over"
        case Decision.GIVE_UP:
            return f"given up ({reason(ev.AbortReason.STUN_LIMIT_UNREACHABLE)})"
        case Decision.ANOTHER_ROUND:
            return "it was still copying"
