"""Runs the whole matrix and writes it as a page of the docs: ``make chaos``.

``matrix.py ARENAS [PATTERN …]`` runs the cells whose names match a pattern, in so many arenas at
once. What came of each is kept by the code's digest (see ``results``): a run that was interrupted
goes on.
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
import time
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


class CodeChangedError(Exception):
    """The code is no longer the one whose cells are being run."""


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
        """Which arena a worker should open: one of each kind, and more where most is to do."""
        left = [setting for setting in Setting if self._cells.get(setting)]
        if worker < len(left):
            return left[worker]
        return max(left, key=lambda setting: len(self._cells[setting]), default=None)

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
        self._done = self._known = sum(cell in results.outcomes for cell in cells)
        self._began_s = time.monotonic()

    async def work(self, worker: int) -> None:
        """Open arenas and run cells in them until there is none."""
        failures = 0
        while (setting := self._queue.next_setting(worker)) is not None:
            place = Path(tempfile.mkdtemp(prefix="gwc"))
            try:
                async with Arena.open(place / "c", setting) as arena:
                    is_good = await self._run_in(arena, setting)
            except CodeChangedError:
                raise
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
            await asyncio.to_thread(self._check_code)
            self._results.add(outcome)
            self._done += 1
            self._say(outcome)
            if outcome.result is Result.BAD:
                return False
        return True

    def _check_code(self) -> None:
        """Raises ``CodeChangedError``: of what ran just now nobody can say what it was."""
        if revision().code != self._results.code:
            raise CodeChangedError(
                "the code was changed while its cells ran: run a copy of its own"
            )

    def _say(self, outcome: CellOutcome) -> None:
        head = f"{self._done}/{self._count} {outcome.result} {outcome.took_s:5.1f} s"
        left = f"{self._left_s() / 60:.0f} min left"
        print(f"{head} {outcome.cell}: {outcome.detail} ({left})", flush=True)

    def _left_s(self) -> float:
        """How long it will still take, if the other cells take as long as those of this run."""
        of_one_s = (time.monotonic() - self._began_s) / (self._done - self._known)
        return of_one_s * (self._count - self._done)


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
    found = revision()
    results = Results(found.code)
    print(f"revision {found}: {len(results.outcomes)} cells were run before")
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
        PAGE.write_text(table.page(outcomes, date.today(), str(found)))
        summary = table.summary(outcomes, date.today(), str(found))
        SUMMARY.write_text(table.with_summary(SUMMARY.read_text(), summary))
    sys.exit(bool(bad) or len(outcomes) < len(cells))


if __name__ == "__main__":
    main()
