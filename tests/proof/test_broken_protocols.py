"""The checker catches protocols that are broken on purpose: a search that finds nothing is worth
what it would have found.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import broken_cores as broken
from godwit.proof.checker import words
from godwit.proof.checker.beginnings import go_given, stun_intended
from godwit.proof.checker.cores import DESTINATION, SOURCE, Core
from godwit.proof.checker.endings import Step
from godwit.proof.checker.happenings import Kind, What
from godwit.proof.checker.moves import Moves
from godwit.proof.checker.search import Report, Search
from godwit.proof.checker.world import DESTINATION as TARGET
from godwit.proof.checker.world import SOURCE as ORIGIN
from godwit.proof.checker.world import Budget, Violation, World

SECONDS_MAX = 60.0
TRACES = Path(__file__).parent / "traces"
REWRITE = os.environ.get("GODWIT_GOLDEN") == "rewrite"
Beginning = Callable[[Moves, Budget], World]


def abort_crosses_claim(moves: Moves, budget: Budget) -> World:
    """B stands; the destination, which has not heard of it, has just asked for D."""
    world = go_given(moves, Budget())
    for what, who in (
        (What.DEADLINE, ORIGIN),
        (What.DONE, ORIGIN),
        (What.DONE, ORIGIN),
        (What.HEARS, TARGET),
    ):
        due = (move for move in moves.of(world) if move.kind is Kind.DUE)
        world = next(move.world for move in due if move.label[:2] == (what, who))
    return world._replace(left=budget)


class Broken(NamedTuple):
    build: Callable[[], Core]
    budget: Budget
    violation: Violation
    beginning: Beginning = stun_intended


DEMANDED = [
    Broken(broken.resumes_on_a_lost_acknowledgement, Budget(), Violation.TWO_RUN),
    Broken(broken.trusts_the_register_alone, Budget(lost_writes=1), Violation.TWO_RUN),
    Broken(broken.claims_without_fencing, Budget(), Violation.TWO_RUN),
    Broken(
        broken.drops_the_image_on_a_local_failure,
        Budget(host_deaths=1, local_failures=1),
        Violation.NONE_LEFT,
    ),
    Broken(broken.resumes_on_a_timeout_after_go, Budget(), Violation.TWO_RUN),
]
GUARDS = [
    Broken(
        broken.forgets_the_vmm_after_a_restart, Budget(crashes=1, lost_writes=1), Violation.TWO_RUN
    ),
    Broken(
        broken.believes_the_register_before_its_promise,
        Budget(crashes=1, lost_writes=1, strays=1),
        Violation.TWO_RUN,
        abort_crosses_claim,
    ),
    Broken(
        broken.claims_what_the_source_took_back,
        Budget(crashes=1, host_deaths=1),
        Violation.STALE_RUNS,
    ),
    Broken(
        broken.discards_what_the_vmm_has_loaded,
        Budget(crashes=1, vmm_deaths=1),
        Violation.NONE_LEFT,
    ),
    Broken(
        broken.refuses_without_a_promise,
        Budget(crashes=1, local_failures=1, host_deaths=1),
        Violation.STALE_RUNS,
    ),
    Broken(broken.aborts_by_the_link_alone, Budget(lost_writes=1, link_losses=1), Violation.STUCK),
    Broken(broken.never_claims, Budget(host_deaths=1), Violation.STUCK),
    Broken(
        broken.opens_the_gate_before_the_register_answers,
        Budget(host_deaths=1),
        Violation.STALE_RUNS,
    ),
    Broken(broken.releases_on_the_register_alone, Budget(), Violation.NONE_LEFT),
    Broken(
        broken.does_not_journal_the_taking_back,
        Budget(crashes=1, host_deaths=1),
        Violation.NONE_LEFT,
        go_given,
    ),
    Broken(broken.ends_without_a_word, Budget(), Violation.ENDLESS),
    Broken(
        broken.takes_its_own_lost_write_for_anothers,
        Budget(crashes=1, lost_writes=1),
        Violation.NONE_LEFT,
    ),
]
CASES = {case.build.__name__: case for case in DEMANDED + GUARDS}


def searched(core: Core, budget: Budget, beginning: Beginning) -> tuple[Moves, Report]:
    is_source = core.doubting is SOURCE.doubting
    pair = (core, DESTINATION) if is_source else (SOURCE, core)
    moves = Moves(*pair, is_strict=False)
    return moves, Search(moves, beginning(moves, budget)).run(seconds_max=SECONDS_MAX)


@pytest.mark.parametrize("name", CASES)
def test_a_broken_protocol_is_caught(name: str) -> None:
    """By the shortest trace, which reviewers have read."""
    case, path = CASES[name], TRACES / f"{name}.txt"
    moves, report = searched(case.build(), case.budget, case.beginning)
    assert report.finding is not None, words.report_line(report)
    told = words.tell(moves, report.finding) + "\n"
    assert report.finding.violation is case.violation, told
    if REWRITE:
        path.write_text(told, encoding="utf-8")
    assert told == path.read_text(encoding="utf-8"), (
        "another trace is the shortest: review it, then set GODWIT_GOLDEN=rewrite"
    )


def test_there_is_no_trace_that_nothing_checks() -> None:
    assert {path.stem for path in TRACES.glob("*.txt")} == set(CASES)


def test_the_register_alone_would_do_if_it_never_lost_a_write(clean: list[Report]) -> None:
    """What makes the second witness necessary is the lost write, and nothing else."""
    core = broken.trusts_the_register_alone()
    moves, report = searched(core, Budget(link_losses=1), stun_intended)
    assert report.finding is None, words.tell(moves, report.finding)
    assert report.is_complete
    clean.append(report)


@pytest.mark.parametrize("host_deaths", [1, 2])
def test_a_coordinator_that_never_gives_a_machine_up_is_caught(host_deaths: int) -> None:
    """It cannot end what only the proof that a host is off ends; also where an alarm stands."""
    moves = Moves(SOURCE, DESTINATION, coordinate=broken.never_gives_up)
    start = stun_intended(moves, Budget(host_deaths=host_deaths))
    report = Search(moves, start).run(seconds_max=SECONDS_MAX)
    assert report.finding is not None
    assert report.finding.violation is Violation.ENDLESS
    assert "host dies" in words.tell(moves, report.finding)


@pytest.mark.parametrize(
    ("coordinate", "budget", "said"),
    [
        (broken.ends_too_early, Budget(), "journals that it discards the image"),
        (broken.writes_off_on_one_proof, Budget(host_deaths=1), "host dies"),
    ],
)
def test_a_coordinator_that_ends_too_early_is_caught(
    coordinate: Step, budget: Budget, said: str
) -> None:
    """It gives up a machine that the other host has, and that may run there."""
    moves = Moves(SOURCE, DESTINATION, coordinate=coordinate)
    report = Search(moves, stun_intended(moves, budget)).run(seconds_max=SECONDS_MAX)
    assert report.finding is not None
    told = words.tell(moves, report.finding)
    assert report.finding.violation is Violation.ENDED_WRONGLY, told
    assert said in told
