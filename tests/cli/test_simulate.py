"""``godwit simulate``: a seed told event by event, many as a table, what broke as a status."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import structlog
from conftest import Godwit, Here

from godwit.proof.simulator import report, run
from godwit.proof.simulator.report import SEEDS_A_TURN, Tally
from godwit.proof.simulator.run import Run
from godwit_protocol.errors import DataLossError, InvalidInputError

STORMY = 11
"""A seed with faults of many kinds."""
SEEDS = range(8, 8 + SEEDS_A_TURN + 1)
"""More than one process takes at a time."""
TWO_RUN = "I1: two machines run"
simulate_seed = run.simulate


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """As the command's own processes are: what the services log would be megabytes."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.configure(**before)


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    """What comes of each of the seeds."""
    return [simulate_seed(seed) for seed in SEEDS]


@pytest.fixture
def loud(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command silences the services for good, and would so silence those of later tests."""
    monkeypatch.setattr(report, "silence", lambda: None)


def broken(found: Run) -> Run:
    return replace(found, violations=(TWO_RUN,), notes=(f"the end of {found.seed}",))


def asked(seeds: range) -> str:
    return f"{seeds[0]}..{seeds[-1]}"


def without_rate(out: str) -> list[str]:
    return [line for line in out.splitlines() if "migrations a second and core" not in line]


async def test_a_seed_is_replayed_event_by_event_and_the_same_again(godwit: Godwit) -> None:
    first, again = [await godwit("simulate", "--seed", str(STORMY), url="") for _ in range(2)]
    told: list[str] = []
    found = simulate_seed(STORMY, told.append)
    tally = Tally()
    tally.add(found)
    assert first.status == 0, first.err
    assert first.out == "\n".join([*told, "", report.table(tally), ""])
    assert again == first


def test_many_seeds_come_to_a_table_and_a_rate(here: Here, runs: list[Run]) -> None:
    tally = Tally()
    for found in runs:
        tally.add(found)
    ended = here("simulate", "--seeds", asked(SEEDS), "--jobs", "1")
    assert ended.status == 0, ended.err
    assert without_rate(ended.out) == report.table(tally).splitlines()
    assert {"faults injected", "outcomes", "violations  0"} <= set(ended.out.splitlines())
    rate = ended.out.splitlines()[-1].split()
    assert rate[1:] == ["migrations", "a", "second", "and", "core"]
    assert int(rate[0]) > 0


def test_two_jobs_come_to_the_same(here: Here) -> None:
    one, two = (here("simulate", "--seeds", asked(SEEDS), "--jobs", jobs) for jobs in "12")
    assert without_rate(one.out) == without_rate(two.out)
    assert two.status == 0, two.err


@pytest.mark.parametrize(
    ("given", "jobs"), [(("--jobs", "3"), 3), (("--jobs", "0"), 5), ((), 5)], ids=str
)
def test_the_jobs_are_those_asked_for_or_all_cores(
    here: Here, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], jobs: int
) -> None:
    asked_for = []

    def simulate_all(seeds: range, *, jobs: int) -> Iterator[Run]:
        asked_for.append((seeds, jobs))
        yield from ()

    monkeypatch.setattr(report, "simulate_all", simulate_all)
    monkeypatch.setattr("os.cpu_count", lambda: 5)
    assert here("simulate", *given).status == 0
    assert asked_for == [(range(1, 41), jobs)]


@pytest.mark.parametrize("seeds", ["", "7", "1-4", "1..", "..4", "4..1", "-1..4", "1..4x", "a..b"])
def test_a_range_that_is_none_is_refused_before_anything_runs(
    here: Here, monkeypatch: pytest.MonkeyPatch, seeds: str
) -> None:
    started = []
    monkeypatch.setattr(report, "simulate_all", lambda *_, **__: started.append(seeds) or [])
    ended = here("simulate", f"--seeds={seeds}")
    assert ended.status == InvalidInputError.exit_code == 2
    assert ended.err == f"godwit: {seeds!r} is no range of seeds\n  such as 1..400\n"
    assert not ended.out
    assert not started


def test_one_seed_and_many_are_refused_before_anything_runs(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.setattr(run, "simulate", lambda seed, _listen: started.append(seed))
    monkeypatch.setattr(report, "simulate_all", lambda *_, **__: started.append("all") or [])
    ended = here("simulate", "--seed", "0", "--seeds", "1..40")
    assert ended.status == InvalidInputError.exit_code
    assert ended.err.startswith("godwit: --seed and --seeds exclude each other\n")
    assert not ended.out
    assert not started


@pytest.mark.parametrize("jobs", ["-1", "two"])
def test_jobs_that_are_no_number_of_cores_are_refused(here: Here, jobs: str) -> None:
    ended = here("simulate", "--seeds", asked(SEEDS), f"--jobs={jobs}")
    assert ended.status == InvalidInputError.exit_code
    assert "--jobs" in ended.err
    assert not ended.out


def test_what_broke_ends_with_a_status_the_seeds_and_how_to_replay_one(
    here: Here, monkeypatch: pytest.MonkeyPatch, runs: list[Run]
) -> None:
    """All failed seeds are named; of the first few the end is told."""
    whole, *failed = runs
    assert len(failed) == 4
    found = [whole, *map(broken, failed)]
    monkeypatch.setattr(report, "simulate_all", lambda _seeds, *, jobs: iter(found * jobs))
    ended = here("simulate", "--seeds", asked(SEEDS), "--jobs", "1")
    assert ended.status == DataLossError.exit_code == 15
    lines = ended.out.splitlines()
    named = ", ".join(str(each.seed) for each in failed)
    assert lines[-1] == f"failed seeds: {named}"
    assert "violations  4" in lines
    for each in failed[:3]:
        told = lines.index(f"seed {each.seed}: {TWO_RUN}")
        assert lines[told + 1 : told + 3] == ["the last events:", f"the end of {each.seed}"]
    for silent in (whole, failed[3]):
        assert not any(line.startswith(f"seed {silent.seed}:") for line in lines)
    assert ended.err.splitlines() == [
        "godwit: 4 of the runs broke an invariant",
        "  replay one: godwit simulate --seed N",
    ]


@pytest.mark.usefixtures("loud")
def test_a_seed_that_breaks_something_ends_with_the_same_status(
    here: Here, monkeypatch: pytest.MonkeyPatch, runs: list[Run]
) -> None:
    def simulate(seed: int, listen: Callable[[str], None]) -> Run:
        listen(f"what seed {seed} did")
        return broken(runs[0])

    monkeypatch.setattr(run, "simulate", simulate)
    ended = here("simulate", "--seed", "8")
    assert ended.status == DataLossError.exit_code
    lines = ended.out.splitlines()
    assert lines[0] == "what seed 8 did"
    assert lines[-1] == f"seed 8: {TWO_RUN}"
    assert "violations  1" in lines
    assert "1 of the runs broke an invariant" in ended.err
