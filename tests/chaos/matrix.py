"""Runs the whole matrix and writes it as a table: ``make chaos``.

``matrix.py ARENAS [PATTERN …]`` runs the cells whose names match a pattern, in so many arenas at
once; the table is written when all cells were run.
"""

from __future__ import annotations

import asyncio
import fnmatch
import shutil
import signal
import sys
import tempfile
from collections.abc import Coroutine
from datetime import date
from pathlib import Path
from typing import Any

import table
import wires
from arena import Arena
from cells import FAULTS, Cell, CellOutcome, Party, Result, run_cell
from steps import STEPS

PAGE = Path(__file__).parents[2] / "docs" / "chaos.md"


def all_cells() -> list[Cell]:
    """What this user may do."""
    return [
        Cell(party, fault, step) for party in Party for fault in FAULTS[party] for step in STEPS
    ]


async def run(cells: list[Cell], arenas: int) -> list[CellOutcome]:
    queue = list(reversed(cells))
    outcomes: list[CellOutcome] = []

    async def work(number: int) -> None:
        while queue:
            place = Path(tempfile.mkdtemp(prefix="gwc"))
            async with Arena.open(place / "c", wired=wires.is_possible()) as arena:
                is_good = True
                while queue and is_good:
                    outcome = await run_cell(arena, queue.pop())
                    outcomes.append(outcome)
                    is_good = outcome.result not in (Result.BAD, Result.DOUBT)
                    say(f"{len(outcomes)}/{len(cells)}", outcome)
            if is_good:
                shutil.rmtree(place)
            else:
                print(f"  its files are kept in {place}", flush=True)

    await asyncio.gather(*(work(number) for number in range(arenas)))
    return outcomes


def say(count: str, outcome: CellOutcome) -> None:
    """One line a cell, as it ends."""
    head = f"{count} {outcome.result} {outcome.took_s:5.1f} s"
    print(f"{head} {outcome.cell}: {outcome.detail}", flush=True)


async def _until_stopped(work: Coroutine[Any, Any, list[CellOutcome]]) -> list[CellOutcome]:
    """End the arenas in an orderly way when told to end."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


def main() -> None:
    arenas, patterns = int(sys.argv[1]), sys.argv[2:] or ["*"]
    cells = [each for each in all_cells() if any(fnmatch.fnmatch(str(each), p) for p in patterns)]
    outcomes = asyncio.run(_until_stopped(run(cells, arenas)))
    bad = [each for each in outcomes if each.result is Result.BAD]
    if len(cells) == len(all_cells()):
        PAGE.write_text(table.page(outcomes, date.today(), may_wire=wires.is_possible()))
    print(f"{len(outcomes)} cells, {len(bad)} bad")
    for each in bad:
        print(" ", each.cell, each.detail)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
