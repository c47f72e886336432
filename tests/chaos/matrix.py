"""Runs the whole matrix and writes it as a page of the docs: ``make chaos``.

``matrix.py ARENAS [PATTERN …]`` runs the cells whose names match a pattern, or whose steps do (as
``@c10``), in so many arenas at once. What came of each is kept by the code's digest (see
``results``): a run that was interrupted goes on.
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

import aftermath
import structlog
import table
import wires
from arena import Arena, Setting, ViolatedError
from cells import Cell, CellOutcome, Result, is_wired, run_cell, setting_of
from results import ROOT, Results, revision
from sections import all_cells

PAGE: Final = ROOT / "docs" / "chaos.md"
SUMMARY: Final = ROOT / "docs" / "reliability.md"
OPENINGS_MAX: Final = 5
"""Arenas that one worker may fail to open before it gives up."""


class CodeChangedError(Exception):
    """The code is no longer the one whose cells are being run."""


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
        self.late: list[str] = []
        """What was seen to be wrong after the last cell of an arena."""

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
        try:
            await aftermath.look_once_more(arena, arena.subject)
        except ViolatedError as error:
            self.late.append(str(error))
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


def _is_wanted(cell: Cell, patterns: list[str]) -> bool:
    names = (str(cell), f"@{cell.step.key}")
    return any(fnmatch.fnmatch(name, pattern) for name in names for pattern in patterns)


async def _work_all(run: Run, arenas: int) -> None:
    await asyncio.gather(*(run.work(number) for number in range(arenas)))


def main() -> None:
    # What the connections of the runner itself go through is the faults' own doing.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    arenas, patterns = int(sys.argv[1]), sys.argv[2:] or ["*"]
    cells = [each for each in all_cells() if _is_wanted(each, patterns)]
    if not wires.is_possible():
        print("cuts and full disks need root, and are left out")
        cells = [each for each in cells if not is_wired(each.party)]
    found = revision()
    results = Results(found.code)
    print(f"revision {found}: {len(results.outcomes)} cells were run before")
    run = Run(cells, results)
    try:
        asyncio.run(_until_stopped(_work_all(run, arenas)))
    except asyncio.CancelledError:
        print("interrupted; the next run goes on")
    outcomes = [results.outcomes[cell] for cell in cells if cell in results.outcomes]
    print(table.tables(outcomes))
    bad = [each for each in outcomes if each.result is Result.BAD]
    for each in bad:
        print(f"✗ {each.cell}: {each.detail}")
    for late in run.late:
        print(f"✗ after the last cell of an arena: {late}")
    print(f"{len(outcomes)} of {len(cells)} cells, {len(bad) + len(run.late)} bad")
    if len(outcomes) == len(all_cells()) and not run.late:
        PAGE.write_text(table.page(outcomes, date.today(), str(found)))
        summary = table.summary(outcomes, date.today(), str(found))
        SUMMARY.write_text(table.with_summary(SUMMARY.read_text(), summary))
    sys.exit(bool(bad or run.late) or len(outcomes) < len(cells))


if __name__ == "__main__":
    main()
