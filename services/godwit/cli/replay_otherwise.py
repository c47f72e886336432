"""``godwit replay what-if`` and ``diff``: a recorded move under other limits or another link."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from godwit.pictures import courses
from godwit.pictures.figures import count, duration, milliseconds, rate, size
from godwit.pictures.narrative import reason
from godwit.runtime.files import read_text
from godwit_protocol.convergence import SLOW_PERCENT_MAX
from godwit_protocol.errors import InvalidInputError
from godwit_protocol.estimation.policies import Policy
from godwit_protocol.pacing import format_bandwidth, parse_bandwidth
from godwit_protocol.quantities import parse_duration_ns, parse_rate
from godwit_protocol.replay.what_if import Course, Move, Setting, as_recorded, what_if

from . import output

BAR_CHARACTERS: Final = 20
POLICY: Final = "policy"
EVERY_POLICY: Final = "all"
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


def settings_of(move: Move, given: Mapping[str, str]) -> list[Setting]:
    """The move's setting with what is ``given`` otherwise: one for each policy that is named.

    Raises ``InvalidInputError``.
    """
    rest = {name: text for name, text in given.items() if name != POLICY}
    setting = setting_of(move, rest)
    policies = _policies(given.get(POLICY, Policy.GODWIT))
    return [msgspec.structs.replace(setting, policy=policy) for policy in policies]


def setting_of(move: Move, given: Mapping[str, str]) -> Setting:
    """The move's setting with what is ``given`` otherwise, by our own rule.

    Raises ``InvalidInputError``.
    """
    unknown = set(given) - {*FIELDS, "link"}
    if unknown:
        raise InvalidInputError(
            f"nothing is called {', '.join(sorted(unknown))}",
            hint=f"give any of: link, {POLICY}, {', '.join(FIELDS)}",
        )
    changes = {
        FIELDS[name][0]: FIELDS[name][1](text) for name, text in given.items() if name in FIELDS
    }
    link = float(_link(given["link"])) if "link" in given else 0.0
    limits = msgspec.structs.replace(move.started.limits, **changes)
    return Setting(limits=limits, link_bytes_per_second=link)


def _link(text: str) -> int:
    bytes_per_second = parse_rate(text)
    if not bytes_per_second:
        raise InvalidInputError(f"a link of {text!r} carries nothing", hint="give one like 25Gbit")
    return bytes_per_second


def _policies(text: str) -> Sequence[Policy]:
    """Names with commas between, each once."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    if names == [EVERY_POLICY]:
        return tuple(Policy)
    try:
        return [Policy(name) for name in names]
    except ValueError as error:
        raise InvalidInputError(
            f"no policy is called so: {text!r}",
            hint=f"give {EVERY_POLICY}, or any of: {', '.join(Policy)}",
        ) from error


def read_config(path: Path) -> dict[str, str]:
    """The settings of a TOML file; a list is as good as its items with commas between.

    Raises ``NotFoundError``, ``InvalidInputError``.
    """
    try:
        found = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise InvalidInputError(f"{path} is no TOML: {error}") from error
    return {
        name: ",".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in found.items()
    }


def show(move: Move, settings: Sequence[Setting]) -> None:
    """Print how it was and how it would have been: one setting beside it, round by round; several
    below it, a line each.
    """
    for line in _changes(move, settings):
        output.print_line(line)
    before, after = as_recorded(move), [what_if(move, setting) for setting in settings]
    if len(after) == 1:
        _show_beside(before, after[0], move)
        return
    names = ["as recorded", *(courses.RULES[setting.policy] for setting in settings)]
    figures = [courses.figures(course, move) for course in (before, *after)]
    drawn = courses.bars([before, *after])
    rows = [(name, *told, bars) for name, told, bars in zip(names, figures, drawn, strict=True)]
    heads = ("", *courses.HEADS, "left after each round")
    output.print_table([head.upper() or " " for head in heads], rows, "")


def _show_beside(before: Course, after: Course, move: Move) -> None:
    most = max(done.figures.remaining_bytes for done in (*before.rounds, *after.rounds))
    rounds = range(max(len(before.rounds), len(after.rounds)))
    output.print_table(_COLUMNS, [_row(before, after, number, most) for number in rounds], "")
    output.print_line("")
    both = zip(courses.figures(before, move), courses.figures(after, move), strict=True)
    totals = [(head, *told) for head, told in zip(courses.HEADS, both, strict=True)]
    output.print_table(("WHAT", "RECORDED", "OTHERWISE"), totals, "")
    played = len(after.rounds) - after.recorded_rounds
    output.print_line(
        "every round is as it was recorded, and so is what was decided"
        if after.rounds == before.rounds
        else f"{count(after.recorded_rounds, 'round')} as recorded, {played} played"
    )


def as_json(move: Move, settings: Sequence[Setting]) -> dict[str, Any]:
    """The object that ``--json`` prints: how it was, and how it would have been by each policy."""
    otherwise = {setting.policy.value: _course_json(what_if(move, setting)) for setting in settings}
    return {"recorded": _course_json(as_recorded(move)), "otherwise": otherwise}


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
        "precopy_ms": milliseconds(course.precopy_ns),
        "guest_lost_ms": milliseconds(course.lost_ns),
        "stun_ms": None if course.stun_ns is None else milliseconds(course.stun_ns),
        "bytes_sent": course.sent_bytes,
    }


def _changes(move: Move, settings: Sequence[Setting]) -> Iterable[str]:
    lines = []
    setting = settings[0]
    if setting.link_bytes_per_second:
        lines.append(f"link: as recorded → {rate(setting.link_bytes_per_second)}")
    if [each.policy for each in settings] != [Policy.GODWIT]:
        rules = "; ".join(courses.RULES[each.policy] for each in settings)
        lines.append(f"decided by: {courses.RULES[Policy.GODWIT]} → {rules}")
    for name, (field, _) in FIELDS.items():
        before, after = getattr(move.started.limits, field), getattr(setting.limits, field)
        if before != after:
            lines.append(f"{reason(name)}: {_value(field, before)} → {_value(field, after)}")
    return [*lines, ""] if lines else ["nothing differs: these are the recorded settings", ""]


def _value(field: str, value: int) -> str:
    if field.endswith("_ns"):
        return duration(value)
    return format_bandwidth(value) if field.endswith("_bytes_per_second") else str(value)


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
