"""The simulator itself: a seed is a whole world, and gives the same one again."""

import subprocess
import sys
from pathlib import Path

import pytest

from godwit.proof.simulator.report import Tally, table
from godwit.proof.simulator.run import simulate

HASH_BYTES = 32
STORMY, CALM = 11, 14
"""A seed with faults of many kinds, and one without any."""
REPLAY = """
import hashlib, sys
from godwit.proof.simulator.report import silence
from godwit.proof.simulator.run import simulate
silence()
trace = hashlib.sha256()
simulate(int(sys.argv[1]), lambda line: trace.update(line.encode() + b"\\n"))
print(trace.hexdigest())
"""


def traced(seed: int, hash_seed: str) -> str:
    """The hash of a run's trace, run in a process of its own."""
    command = [sys.executable, "-c", REPLAY, str(seed)]
    environ = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert len(bytes.fromhex(done.stdout.strip())) == HASH_BYTES
    return done.stdout


def test_a_seed_gives_the_same_trace_in_any_process() -> None:
    assert len({traced(STORMY, hash_seed) for hash_seed in ("0", "4711")}) == 1


def test_two_seeds_give_two_traces() -> None:
    assert traced(STORMY, "0") != traced(CALM, "0")


def test_a_run_is_told_event_by_event() -> None:
    told: list[str] = []
    run = simulate(STORMY, told.append)
    assert run.notes == tuple(told[-len(run.notes) :])
    assert sum("log " in line for line in told) >= run.events


def test_without_faults_nothing_is_restarted_and_moves_complete() -> None:
    run = simulate(CALM)
    assert not run.faults
    assert not run.violations
    assert run.restarts == 0
    assert run.outcomes["completed"] > 0
    assert not any("lost" in outcome for outcome in run.outcomes)


def test_the_table_names_every_fault_and_outcome() -> None:
    run, tally = simulate(STORMY), Tally()
    tally.add(run)
    text = table(tally)
    assert all(f"{count}  {fault}" in text for fault, count in run.faults.items())
    assert all(f"{count}  {outcome}" in text for outcome, count in run.outcomes.items())


@pytest.mark.parametrize("module", sorted(Path("services/godwit/proof/simulator").glob("*.py")))
def test_nothing_of_the_real_world_reaches_the_simulator(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    forbidden = ("import time\n", "import os\n", "urandom", "secrets", "to_thread", "SystemClock")
    assert [word for word in forbidden if word in text] == []
