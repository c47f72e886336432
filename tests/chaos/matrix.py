"""Runs the whole matrix and writes it as a table: ``make chaos``."""

from __future__ import annotations

import asyncio
import fnmatch
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]

from arena import Arena
from cells import Cell, Fault, Outcome_, Party, Result, run_cell
from steps import STEPS


def all_cells() -> list[Cell]:
    return [Cell(party, fault, step) for fault in Fault for party in Party for step in STEPS]


async def run(cells: list[Cell], arenas: int) -> list[Outcome_]:
    queue = list(reversed(cells))
    outcomes: list[Outcome_] = []

    async def work(number: int) -> None:
        if place := tempfile.mkdtemp(prefix="gwc"):
            async with Arena.open(Path(place) / "c") as arena:
                while queue:
                    outcome = await run_cell(arena, queue.pop())
                    outcomes.append(outcome)
                    print(
                        f"{len(outcomes)}/{len(cells)} [{number}] {outcome.result} {outcome.took_s:5.1f} s {outcome.cell}: {outcome.detail}",
                        flush=True,
                    )

    await asyncio.gather(*(work(number) for number in range(arenas)))
    return outcomes


def main() -> None:
    arenas, patterns = int(sys.argv[1]), sys.argv[2:] or ["*"]
    cells = [each for each in all_cells() if any(fnmatch.fnmatch(str(each), p) for p in patterns)]
    outcomes = asyncio.run(run(cells, arenas))
    bad = [each for each in outcomes if each.result is Result.BAD]
    print(f"{len(outcomes)} cells, {len(bad)} bad")
    for each in bad:
        print(" ", each.cell, each.detail)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
