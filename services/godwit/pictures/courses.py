"""Courses of a move, as it went and as it might have gone, in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from godwit_protocol.convergence import Decision
from godwit_protocol.estimation.policies import Policy
from godwit_protocol.events import migration as ev
from godwit_protocol.replay.what_if import Course, Move, as_recorded

from .figures import count, duration, size, sparkline
from .narrative import reason

BARS_MAX: Final = 40
"""The last rounds of a course that are drawn in one line."""
RULES: Final[Mapping[Policy, str]] = {
    Policy.GODWIT: "Godwit's rule",
    Policy.QEMU: "QEMU's rule",
    Policy.QEMU_AUTO_CONVERGE: "QEMU's rule, auto-converge",
    Policy.KUBEVIRT: "KubeVirt's rule",
    Policy.NOVA: "Nova's rule",
}
"""What each is called where people read."""
HEADS: Final = ("rounds", "sent", "pre-copy", "taken from guest", "stun", "in the end")
"""Of ``figures``."""


def figures(course: Course, move: Move) -> tuple[str, ...]:
    """What a course of ``move`` came to, under ``HEADS``. One that is the recorded one ended so."""
    is_recorded = course == as_recorded(move)
    return (
        str(len(course.rounds)),
        size(course.sent_bytes),
        duration(course.precopy_ns),
        duration(course.lost_ns) if course.lost_ns else "nothing",
        _stun(course),
        _recorded_end(move) if is_recorded else _played_end(course),
    )


def bars(courses: Sequence[Course]) -> list[str]:
    """What each round of each course left, a bar a round, all on one scale."""
    left = [
        [done.figures.remaining_bytes for done in course.rounds][-BARS_MAX:] for course in courses
    ]
    most = max((max(each) for each in left if each), default=0)
    return [sparkline(each, most) for each in left]


def _stun(course: Course) -> str:
    if course.stun_ns is not None:
        return duration(course.stun_ns)
    return "not known" if course.decision is Decision.STUN else "none"


def _recorded_end(move: Move) -> str:
    because = f" ({reason(move.summary.reason)})" if move.summary.reason else ""
    return f"{reason(move.summary.outcome)}{because}"


def _played_end(course: Course) -> str:
    if course.too_late:
        return f"given up ({reason(ev.AbortReason.DEADLINE_PASSED)})"
    match course.decision:
        case Decision.STUN:
            return "stunned and switched over"
        case Decision.GIVE_UP:
            return f"given up ({reason(ev.AbortReason.STUN_LIMIT_UNREACHABLE)})"
        case Decision.ANOTHER_ROUND:
            return f"still copying after {count(len(course.rounds), 'round')}"
