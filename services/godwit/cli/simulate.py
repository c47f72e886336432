"""``godwit simulate``: the whole system in a world made of a seed."""

from __future__ import annotations

import os
import re
import time
from typing import Annotated, Final

import typer

from godwit_protocol.errors import DataLossError, InvalidInputError

from .output import print_line as say

SEEDS: Final = "1..40"
_RANGE: Final = re.compile(r"(\d+)\.\.(\d+)")
SHOWN_MAX: Final = 3
"""Failed seeds of which the last events are printed."""


def simulate(
    seed: Annotated[int | None, typer.Option(help="Replay one run, event by event.")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Run many, such as 1..400.", show_default=SEEDS)
    ] = None,
    jobs: Annotated[int, typer.Option(min=0, help="On how many cores; 0 takes all.")] = 0,
) -> None:
    """Run the real services on simulated clocks, disks, links and memory, and look for faults.

    Everything follows from the seed: one that fails, fails again. Exits with 15 if anything that
    must never be has happened.
    """
    if seed is not None and seeds is not None:
        raise InvalidInputError(
            "--seed and --seeds exclude each other",
            hint="one run told event by event, or many as a table",
        )
    failed = _one(seed) if seed is not None else _many(seeds, jobs or os.cpu_count() or 1)
    if failed:
        raise DataLossError(
            f"{failed} of the runs broke an invariant", hint="replay one: godwit simulate --seed N"
        )


def _one(seed: int) -> int:
    from godwit.proof.simulator.report import Tally, silence, table
    from godwit.proof.simulator.run import simulate as run_seed

    silence()
    run = run_seed(seed, say)
    tally = Tally()
    tally.add(run)
    say("")
    say(table(tally))
    for violation in run.violations:
        say(f"seed {seed}: {violation}")
    return len(tally.failed)


def _many(seeds: str | None, jobs: int) -> int:
    from godwit.proof.simulator.report import Tally, simulate_all, table, verdict

    tally, began_s = Tally(), time.monotonic()
    for run in simulate_all(_range(SEEDS if seeds is None else seeds), jobs=jobs):
        tally.add(run)
        if run.violations and len(tally.failed) <= SHOWN_MAX:
            say(verdict(run) + "\n")
    rate = tally.migrations / (time.monotonic() - began_s) / jobs
    say(table(tally))
    say(f"{rate:.0f} migrations a second and core")
    if tally.failed:
        say(f"failed seeds: {', '.join(str(run.seed) for run in tally.failed)}")
    return len(tally.failed)


def _range(text: str) -> range:
    found = _RANGE.fullmatch(text)
    if found is None or int(found[2]) < int(found[1]):
        raise InvalidInputError(f"{text!r} is no range of seeds", hint="such as 1..400")
    return range(int(found[1]), int(found[2]) + 1)
