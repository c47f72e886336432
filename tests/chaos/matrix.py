"""Runs the whole matrix and writes it as a page of the docs: ``make chaos``.

``matrix.py ARENAS [PATTERN …]`` runs the cells whose names match a pattern, in so many arenas at
once. What came of each is kept by revision (see ``results``): a run that was interrupted goes on.
The page is written when every cell of the matrix was run. Ends with status 1 if anything that must
hold did not, or nothing can be said of some cell.
"""

from __future__ import annotations

import asyncio
import fnmatch
import logging
import shutil
import signal
import sys
import tempfile
from collections.abc import Coroutine, Iterable
from datetime import date
from pathlib import Path
from typing import Any, Final

import structlog
import table
import wires
from arena import Arena, Setting
from cells import (
    Cell,
    CellOutcome,
    Fault,
    Party,
    Result,
    faults_of,
    is_wired,
    run_cell,
    setting_of,
)
from results import ROOT, Results, revision
from steps import STEPS

PAGE: Final = ROOT / "docs" / "chaos.md"
SUMMARY: Final = ROOT / "docs" / "reliability.md"
OPENINGS_MAX: Final = 5
"""Arenas that one worker may fail to open before it gives up."""


def all_cells() -> list[Cell]:
    """The most valuable first: the hardest fault, then in the order of the parties."""
    cells = [
        Cell(party, fault, step) for party in Party for fault in faults_of(party) for step in STEPS
    ]
    rank = {fault: number for number, fault in enumerate(Fault)}
    return sorted(cells, key=lambda cell: rank[cell.fault])


class Queue:
    """The cells that are still to be run, by the setting that they need."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        self._cells: dict[Setting, list[Cell]] = {}
        for cell in cells:
            self._cells.setdefault(setting_of(cell.party), []).append(cell)

    def next_setting(self, worker: int) -> Setting | None:
        """Which arena a worker should open: early on, there is one of each kind."""
        left = [setting for setting in Setting if self._cells.get(setting)]
        return left[min(worker, len(left) - 1)] if left else None

    def take(self, setting: Setting) -> Cell | None:
        """The next cell that such an arena can run."""
        cells = self._cells.get(setting)
        return cells.pop(0) if cells else None


class Run:
    """One run of cells, in several arenas at once."""

    def __init__(self, cells: list[Cell], results: Results) -> None:
        self._results = results
        self._queue = Queue(cell for cell in cells if cell not in results.outcomes)
        self._count = len(cells)
        self._done = sum(cell in results.outcomes for cell in cells)

    async def work(self, worker: int) -> None:
        """Open arenas and run cells in them until there is none."""
        failures = 0
        while (setting := self._queue.next_setting(worker)) is not None:
            place = Path(tempfile.mkdtemp(prefix="gwc"))
            try:
                async with Arena.open(place / "c", setting) as arena:
                    is_good = await self._run_in(arena, setting)
            except Exception as error:  # whatever it was: the cells that are left want an arena
                failures += 1
                print(f"an arena broke: {error!r}; its files are kept in {place}", flush=True)
                if failures == OPENINGS_MAX:
                    raise
                continue
            if is_good:
                shutil.rmtree(place)
            else:
                print(f"  its files are kept in {place}", flush=True)

    async def _run_in(self, arena: Arena, setting: Setting) -> bool:
        """Run cells until there is none, or one after which the arena cannot be relied on."""
        while (cell := self._queue.take(setting)) is not None:
            outcome = await run_cell(arena, cell)
            self._results.add(outcome)
            self._done += 1
            self._say(outcome)
            if outcome.result is Result.BAD:
                return False
        return True

    def _say(self, outcome: CellOutcome) -> None:
        head = f"{self._done}/{self._count} {outcome.result} {outcome.took_s:5.1f} s"
        print(f"{head} {outcome.cell}: {outcome.detail}", flush=True)


async def _until_stopped(work: Coroutine[Any, Any, None]) -> None:
    """End the arenas in an orderly way when told to end."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    await task


async def _work_all(run: Run, arenas: int) -> None:
    await asyncio.gather(*(run.work(number) for number in range(arenas)))


def main() -> None:
    # What the connections of the runner itself go through is the faults' own doing.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    arenas, patterns = int(sys.argv[1]), sys.argv[2:] or ["*"]
    cells = [each for each in all_cells() if any(fnmatch.fnmatch(str(each), p) for p in patterns)]
    if not wires.is_possible():
        print("cuts and full disks need root, and are left out")
        cells = [each for each in cells if not is_wired(each.party)]
    results = Results(revision())
    print(f"revision {results.revision}: {len(results.outcomes)} cells were run before")
    try:
        asyncio.run(_until_stopped(_work_all(Run(cells, results), arenas)))
    except asyncio.CancelledError:
        print("interrupted; the next run goes on")
    outcomes = [results.outcomes[cell] for cell in cells if cell in results.outcomes]
    print(table.tables(outcomes))
    bad = [each for each in outcomes if each.result is Result.BAD]
    for each in bad:
        print(f"✗ {each.cell}: {each.detail}")
    print(f"{len(outcomes)} of {len(cells)} cells, {len(bad)} bad")
    if len(outcomes) == len(all_cells()):
        PAGE.write_text(table.page(outcomes, date.today(), results.revision))
        summary = table.summary(outcomes, date.today(), results.revision)
        SUMMARY.write_text(table.with_summary(SUMMARY.read_text(), summary))
    sys.exit(bool(bad) or len(outcomes) < len(cells))


if __name__ == "__main__":
    main()
