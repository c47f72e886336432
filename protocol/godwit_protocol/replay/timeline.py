"""A migration's events in causal order, each with what it came from and what its role did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .. import codec
from ..events import Recorded
from ..projections import MigrationSummary, fold
from ..stored import Stored
from .causes import Causes
from .roles_traced import RolesTraced, Step


class Moment(NamedTuple):
    """An event: because of which other one it was written, and by which step of its role."""

    recorded: Recorded
    cause: Recorded | None
    step: Step | None


class Timeline(NamedTuple):
    """One migration: its events in causal order, and what they fold to."""

    moments: tuple[Moment, ...]
    summary: MigrationSummary


def timeline(migration: str, messages: Iterable[Stored]) -> Timeline:
    """Return the timeline of a migration's messages. Raises ``CorruptError``."""
    stored = list(messages)
    story = [codec.decode(message.data, message.sequence) for message in stored]
    steps = _steps(migration, story, stored)
    causes = Causes(story)
    summary = MigrationSummary(id=migration)
    for recorded in story:
        summary = fold(summary, recorded)
    moments = (
        Moment(recorded, causes.of(recorded), steps.get(recorded.sequence))
        for recorded in causes.ordered()
    )
    return Timeline(tuple(moments), summary)


def _steps(migration: str, story: Sequence[Recorded], stored: Sequence[Stored]) -> dict[int, Step]:
    traced = RolesTraced(migration, story)
    steps: dict[int, Step] = {}
    for recorded, message in zip(story, stored, strict=True):
        step = traced.take(recorded, message.subject, message.time_ns)
        if step is not None:
            steps[recorded.sequence] = step
    return steps
