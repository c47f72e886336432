"""How long a machine stood still, in words: whole and taken apart, and why that is not known, where
it is not. Pure.
"""

from __future__ import annotations

from typing import Final

from godwit_protocol.events.migration import Outcome
from godwit_protocol.projections import BETWEEN_HOSTS, MigrationSummary

from .figures import exact, within
from .narrative import NOT_KNOWN_TO_RUN, may_have_stopped

NONE: Final = "none"


def stun(summary: MigrationSummary) -> str:
    """``12.345 ms``, or ``12.345 ms ± 80 µs``; ``none`` if nothing stopped it."""
    if summary.stun_ns is not None:
        return exact(summary.stun_ns) + within(summary.stun_error_ns)
    if summary.marks.first_step_ns:
        return _at_the_destination(summary)
    ended = summary.reason or summary.abandoned_for  # the source says it before the coordinator
    if not may_have_stopped(summary, ended):
        return NONE
    if summary.abandoned and ended not in NOT_KNOWN_TO_RUN:
        return "not known: the source's service was restarted meanwhile"
    return _still(summary)


def stun_parts(summary: MigrationSummary) -> list[tuple[str, str]]:
    """Each part that is known with what it took, and if some are not, why, or what is left."""
    marks = summary.marks
    told = [
        (part, exact(part_ns) + within(marks.error_ns() if part in BETWEEN_HOSTS else 0))
        for part, part_ns in marks.parts_ns().items()
    ]
    if summary.stun_ns is None or marks.components_ns():
        return told
    rest_ns = summary.stun_ns - sum(marks.parts_ns().values())
    if not marks.first_step_ns:
        return [*told, ("the rest", f"{exact(max(rest_ns, 0))}, until it ran on at its source")]
    return [*told, ("parts", "not all of them are known: it was not given by GO")]


def _at_the_destination(summary: MigrationSummary) -> str:
    if not summary.marks.stopped_ns:
        return "not known: the source has not told when it stopped"
    return "not known: the two hosts have no clock in common"


def _still(summary: MigrationSummary) -> str:
    """It was stunned, and nobody has said that it runs."""
    match summary.outcome:
        case Outcome.RUNNING if not summary.abandoned:
            return "it is stunned"
        case Outcome.IN_DOUBT:
            return f"it was stunned; whether it runs on {summary.destination} cannot be proven"
        case Outcome.COMPLETED:
            return f"not known: {summary.destination} has not told when it went on"
        case _:
            return "not known: it was stunned, and no host has said that it runs since"
