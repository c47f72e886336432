"""Many simulated migrations: nothing that must never be, is."""

import os
from typing import Final

import pytest

from godwit.proof.simulator.faults import Fault
from godwit.proof.simulator.report import Tally, simulate_all, table, verdict
from godwit.proof.simulator.run import simulate

SEEDS: Final = range(1, 361)
MIGRATIONS_MIN: Final = 10_000
OUTCOMES_MIN: Final = 10
STRIKES_MIN: Final = 10
SELDOM: Final = frozenset({Fault.FENCED})
"""What few seeds have: it has a test of its own, in ``test_deaths``."""

PAST_FAILURES: Final = {
    25: "a disk full at the record of the activation: the role went on without its other effects",
    56: "a destination came back after the machine had moved on, and claimed it once more",
    6: "two machines whose source could not record that it had resumed them",
}
"""What a seed showed when it first failed."""


@pytest.mark.timeout(600)
def test_ten_thousand_migrations_break_no_invariant() -> None:
    tally = Tally()
    for run in simulate_all(SEEDS, jobs=os.cpu_count() or 1):
        tally.add(run)
    print(table(tally))
    assert not tally.failed, "\n\n".join(verdict(run) for run in tally.failed[:3])
    assert tally.migrations >= MIGRATIONS_MIN
    scarce = {fault for fault in Fault if tally.faults[fault] < STRIKES_MIN}
    assert scarce <= SELDOM, "these faults hardly struck"
    assert len(tally.outcomes) >= OUTCOMES_MIN


@pytest.mark.parametrize("seed", sorted(PAST_FAILURES))
def test_what_failed_once_does_not_again(seed: int) -> None:
    run = simulate(seed)
    assert not run.violations, f"{PAST_FAILURES[seed]}\n{verdict(run)}"
