"""What can happen in a checked world, by name. The words for each are in ``words``."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from .world import SOURCE, Draft, Violation, World


class Kind(IntEnum):
    """Whom a move can be expected of."""

    DUE = 0
    """It comes by itself, sooner or later."""
    OPERATOR = 1
    """Somebody does it who was called by an alarm."""
    FAULT = 2


class What(IntEnum):
    """What happens."""

    HEARS = 1
    LEARNS = 2
    DEADLINE = 3
    CANCEL = 4
    FENCED = 5
    OVERRULE = 6
    BREAKS = 7
    DONE = 8
    FAILS = 9
    NO_ANSWER = 10
    READS_BACK = 11
    OLD_READ = 12
    STARTS = 13
    CRASH = 14
    RESTART = 15
    HOST_DIES = 16
    VMM_DIES = 17
    LINK_BREAKS = 18
    WRITE_LOST = 19
    STRAY_LANDS = 20
    LOSES = 21
    DOUBLES = 22
    HEARS_AGAIN = 23
    HOST_RETURNS = 24
    GIVE_UP = 25
    SWITCHED_OFF = 26
    STOPPED = 27


class Label(NamedTuple):
    """One move, for the trace. ``crashes_after``: how many effects were done before a crash."""

    what: What
    who: int = SOURCE
    detail: int = 0
    crashes_after: int = -1


class Move(NamedTuple):
    """Something that can happen, and the world after it."""

    label: Label
    kind: Kind
    world: World
    violation: Violation | None
    refusal: str = ""


def moved(label: Label, kind: Kind, draft: Draft) -> Move:
    """The move that made ``draft``."""
    return Move(label, kind, draft.world(), draft.violation)
