"""Every role of a migration as it was after one of its events, and what it could be told next."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from .. import codec
from ..events import Lane, Recorded
from ..projections import MigrationSummary, fold
from ..roles.inputs import Input
from ..stored import Stored
from .roles_traced import TABLES, RolesTraced
from .traces import legal_inputs


class RoleThen(NamedTuple):
    """A role at an instant. ``phases``: where it may have been, the likeliest first; ``legal``:
    what could have moved it from there, and where to.
    """

    lane: Lane
    phases: tuple[StrEnum, ...]
    state: msgspec.Struct
    legal: tuple[tuple[type[Input], tuple[StrEnum, ...]], ...]


class Instant(NamedTuple):
    """A migration after ``last``, its newest event then; None before the first."""

    last: Recorded | None
    summary: MigrationSummary
    roles: tuple[RoleThen, ...]


def instant(migration: str, messages: Sequence[Stored], count: int) -> Instant:
    """Return the migration after the first ``count`` of its messages.

    ``messages`` are all there are of it: what came later tells what roles had been told by then.
    Raises ``CorruptError`` for one that cannot be read.
    """
    story = [codec.decode(message.data, message.sequence) for message in messages]
    traced, summary, last = RolesTraced(migration, story), MigrationSummary(id=migration), None
    for recorded, message in zip(story[:count], messages, strict=False):
        traced.take(recorded, message.subject, message.time_ns)
        summary, last = fold(summary, recorded), recorded
    states = traced.states()
    roles = (
        RoleThen(lane, phases, states[lane], _legal(lane, phases[0]))
        for lane, phases in traced.phases().items()
    )
    return Instant(last, summary, tuple(roles))


def _legal(lane: Lane, phase: StrEnum) -> tuple[tuple[type[Input], tuple[StrEnum, ...]], ...]:
    table: Any = TABLES[lane]
    return tuple(
        (given, tuple(sorted(table.rows[phase, given].leads_to)))
        for given in legal_inputs(table, phase)
    )
