"""Whole migrations in figures: how they ended, what they waited for, the stun taken apart.

Takes every event of every migration, in the log's order, as a coordinator reads them. A migration
is counted by the replica that ended it, so that the figures of all replicas add up. Hosts may hand
over the stun's events after the end: it is counted when it is known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from godwit_protocol.estimation.record import is_whole
from godwit_protocol.events import Lane, Recorded
from godwit_protocol.events import migration as ev
from godwit_protocol.events.migration import Outcome
from godwit_protocol.projections import MigrationSummary, fold

from . import definitions as metrics
from .figures import Figures, Reading

FOLLOWED_MAX: Final = 11_000
"""Migrations that are followed at a time, the newest: those that are open, and some that ended."""
_NS: Final = 1e9


@dataclass(slots=True)
class _Followed:
    """One migration. Instants in ns since the epoch, by the log server's clock; 0: not yet."""

    summary: MigrationSummary
    requested_ns: int = 0
    prepared_ns: int = 0
    released_ns: int = 0
    """When the source heard that the machine runs, by its monotonic clock."""
    is_ours: bool = False
    """It was ended by this replica."""


class Migrations:
    """Turns migrations into a coordinator's figures."""

    def __init__(
        self, figures: Figures, coordinator: str, wall_ns: Callable[[], int] = time.time_ns
    ) -> None:
        """``coordinator``: the name of this replica; ``wall_ns``: its clock."""
        self._figures = figures
        self._wall_ns = wall_ns
        self._name = coordinator
        self._followed: dict[str, _Followed] = {}
        self._counting = False
        figures.ask(self._now)

    def begin(self) -> None:
        """What was learned so far is history: it is known and not counted."""
        self._counting = True

    def learn(self, recorded: Recorded, time_ns: int) -> None:
        """Take an event of a migration, which the log stored at ``time_ns``."""
        migration, event = recorded.envelope.migration, recorded.event
        if isinstance(event, ev.MigrationRequested):
            self._follow(migration, time_ns)
        followed = self._followed.get(migration)
        if followed is None:
            return
        followed.summary = fold(followed.summary, recorded)
        is_own = recorded.envelope.lane is Lane.COORDINATOR and (
            recorded.envelope.host == self._name
        )
        match event:
            case ev.PreparationOrdered():
                followed.prepared_ns = time_ns
                if is_own:
                    waited_ns = time_ns - followed.requested_ns
                    self._observe(metrics.QUEUE_WAIT_SECONDS, waited_ns)
            case ev.MigrationStarted() if is_own:
                self._observe(metrics.PREPARATION_SECONDS, time_ns - followed.prepared_ns)
            case ev.MachineReleased():
                followed.released_ns = recorded.envelope.monotonic_ns
            case ev.MigrationEnded():
                followed.is_ours = is_own and self._counting
                if followed.is_ours:
                    self._count_end(followed, event, time_ns)
            case _:
                pass
        if is_whole(followed.summary):
            del self._followed[migration]
            if followed.is_ours:
                self._count_stun(followed)

    def _follow(self, migration: str, time_ns: int) -> None:
        if migration in self._followed:
            return
        self._followed[migration] = _Followed(MigrationSummary(id=migration), time_ns)
        if len(self._followed) > FOLLOWED_MAX:
            del self._followed[next(iter(self._followed))]

    def _observe(self, metric: metrics.Metric, value_ns: int, *labels: str) -> None:
        if self._counting:
            self._figures.observe(metric, max(value_ns, 0) / _NS, *labels)

    def _count_end(self, followed: _Followed, ended: ev.MigrationEnded, time_ns: int) -> None:
        reason = ended.reason or metrics.NO_REASON
        self._figures.add(metrics.MIGRATIONS_ENDED, ended.outcome, reason)
        took_ns = time_ns - followed.requested_ns
        self._observe(metrics.MIGRATION_SECONDS, took_ns, ended.outcome)

    def _count_stun(self, followed: _Followed) -> None:
        summary = followed.summary
        stun_ns = summary.stun_ns
        if stun_ns is None and summary.outcome is Outcome.COMPLETED and followed.released_ns:
            stun_ns = followed.released_ns - summary.marks.stopped_ns
        if not stun_ns:
            return
        self._observe(metrics.STUN_SECONDS, stun_ns, summary.outcome)
        if summary.outcome is not Outcome.COMPLETED:
            return
        for name, component_ns in summary.marks.parts_ns().items():
            self._observe(metrics.STUN_COMPONENT_SECONDS, component_ns, name)
        if stun_ns > summary.limits.longest_stun_ns:
            self._figures.add(metrics.STUN_LIMIT_EXCEEDED)

    def _now(self) -> Iterator[Reading]:
        outcomes = [followed.summary.outcome for followed in self._followed.values()]
        doubtful = outcomes.count(Outcome.IN_DOUBT)
        yield Reading(metrics.MIGRATIONS_OPEN, outcomes.count(Outcome.RUNNING) + doubtful)
        yield Reading(metrics.MIGRATIONS_IN_DOUBT, doubtful)
        yield Reading(metrics.OLDEST_WAIT_SECONDS, self._oldest_wait_ns() / _NS)

    def _oldest_wait_ns(self) -> int:
        since = (
            followed.requested_ns
            for followed in self._followed.values()
            if followed.summary.outcome is Outcome.RUNNING and not followed.prepared_ns
        )
        first_ns = min(since, default=None)
        return 0 if first_ns is None else max(self._wall_ns() - first_ns, 0)
