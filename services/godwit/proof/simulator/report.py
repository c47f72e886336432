"""Many runs on many cores, and what they come to, as a table."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import structlog

from .faults import Fault
from .run import Run, simulate

SEEDS_A_TURN: Final = 4
NOTES_SHOWN: Final = 60


@dataclass
class Tally:
    """The sum of many runs."""

    runs: int = 0
    migrations: int = 0
    restarts: int = 0
    events: int = 0
    steps: int = 0
    virtual_s: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[Fault] = field(default_factory=Counter)
    failed: list[Run] = field(default_factory=list)

    def add(self, run: Run) -> None:
        """Count one more."""
        self.runs += 1
        self.migrations += run.migrations
        self.restarts += run.restarts
        self.events += run.events
        self.steps += run.steps
        self.virtual_s += run.virtual_s
        self.outcomes += run.outcomes
        self.faults += run.faults
        if run.violations:
            self.failed.append(run)


def silence() -> None:
    """Let the services' logs go nowhere, as early as may be. For a process that only simulates."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(50),
        processors=[_drop],
        cache_logger_on_first_use=True,
    )


def simulate_all(seeds: Iterable[int], *, jobs: int) -> Iterator[Run]:
    """Run all seeds on ``jobs`` cores, in processes of their own; the runs come in order."""
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawning, initializer=silence) as pool:
        yield from pool.map(simulate, seeds, chunksize=SEEDS_A_TURN)


def table(tally: Tally) -> str:
    """The tally in words and columns."""
    lines = [
        f"{tally.runs} runs, {tally.migrations} migrations, {tally.virtual_s / 3600:.1f} hours"
        f" of virtual time, {tally.events} events, {tally.restarts} restarts of services",
        "",
        "faults injected",
        *_rows(tally.faults),
        "",
        "outcomes",
        *_rows(tally.outcomes),
        "",
        f"violations  {sum(len(run.violations) for run in tally.failed)}",
    ]
    return "\n".join(lines)


def verdict(run: Run) -> str:
    """What was wrong with one run, and what led to it."""
    told = [f"seed {run.seed}: {what}" for what in run.violations]
    return "\n".join([*told, "the last events:", *run.notes[-NOTES_SHOWN:]])


def _rows(counted: Counter[Fault] | Counter[str]) -> list[str]:
    return [f"  {count:9}  {name}" for name, count in sorted(counted.items(), key=_by_count)]


def _by_count(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _drop(_logger: object, _name: str, _event: object) -> str:
    raise structlog.DropEvent
