"""The real cores, through every interleaving of a small, hostile world."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import broken_cores as broken
import pytest

from godwit.proof.checker import words
from godwit.proof.checker.__main__ import main
from godwit.proof.checker.beginnings import preparation, stun_intended
from godwit.proof.checker.cores import DESTINATION, SOURCE, Fact, FactTypes
from godwit.proof.checker.moves import Moves
from godwit.proof.checker.search import Search, runs_or_is_lost
from godwit.proof.checker.world import Budget, Violation, World

SECONDS_MAX = 100.0
GOLDEN = Path(__file__).parent / "resumed_on_a_timeout_after_go.txt"

SEARCHES = {
    "a crash and a lost write": (Budget(crashes=1, lost_writes=1), stun_intended),
    "both hosts die": (Budget(host_deaths=2), stun_intended),
    "the link breaks": (Budget(link_losses=1), stun_intended),
    "a write comes late": (Budget(strays=1), stun_intended),
    "a VMM dies": (Budget(vmm_deaths=1), stun_intended),
    "something local fails": (Budget(local_failures=1), stun_intended),
    "a crash, from the preparation on": (Budget(crashes=1), preparation),
}


@pytest.mark.parametrize(("budget", "beginning"), SEARCHES.values(), ids=SEARCHES.keys())
def test_nothing_breaks_a_rule(budget: Budget, beginning: Callable[[Moves, Budget], World]) -> None:
    moves = Moves(SOURCE, DESTINATION)
    report = Search(moves, beginning(moves, budget)).run(seconds_max=SECONDS_MAX)
    assert report.finding is None, words.tell(moves, report.finding)
    assert report.is_complete, words.report_line(report)
    assert report.states > 2000
    assert report.depth > 20


def test_a_lost_write_and_a_dead_host_together_are_the_limit() -> None:
    """Two independent disasters at once are more than two witnesses can bear. It is documented."""
    moves = Moves(SOURCE, DESTINATION)
    budget = Budget(lost_writes=1, host_deaths=1)
    report = Search(moves, stun_intended(moves, budget)).run(seconds_max=SECONDS_MAX)
    assert report.finding is not None
    assert report.finding.violation is Violation.STALE_RUNS
    told = words.tell(moves, report.finding)
    assert "The register loses its last acknowledged write" in told
    assert "host dies" in told


def test_a_search_is_the_same_each_time() -> None:
    def figures() -> tuple[int, int, int]:
        moves = Moves(SOURCE, DESTINATION)
        report = Search(moves, stun_intended(moves, Budget())).run()
        return report.states, report.transitions, report.depth

    assert figures() == figures()


def test_a_search_that_is_cut_short_says_so() -> None:
    moves = Moves(SOURCE, DESTINATION)
    report = Search(moves, stun_intended(moves, Budget())).run(states_max=100)
    assert not report.is_complete
    assert report.finding is None
    assert "not all that there are" in words.report_line(report)


def test_without_a_fault_the_machine_ends_at_the_destination_or_where_it_was() -> None:
    moves = Moves(SOURCE, DESTINATION)
    ends = set()
    seen = {stun_intended(moves, Budget())}
    fresh = [*seen]
    while fresh:
        world = fresh.pop()
        assert runs_or_is_lost(world) or moves.of(world)
        known = moves.known(world, 0), moves.known(world, 1)
        if all(known) and all(each.is_finished for each in known if each):
            ends.add((known[0].phase if known[0] else "", known[1].phase if known[1] else ""))
        for move in moves.of(world):
            if move.world not in seen:
                seen.add(move.world)
                fresh.append(move.world)
    assert ends == {("released", "active"), ("abandoned", "discarded")}


def test_a_trace_reads_as_prose() -> None:
    moves = Moves(broken.resumes_on_a_timeout_after_go(), DESTINATION)
    report = Search(moves, stun_intended(moves, Budget())).run()
    assert report.finding is not None
    assert words.tell(moves, report.finding) + "\n" == GOLDEN.read_text(encoding="utf-8")


def test_recovery_may_not_ask_for_what_the_checker_forgets() -> None:
    facts = FactTypes({"machine_stunned"})
    assert "machine_stunned" in facts
    assert "go_given" not in facts
    with pytest.raises(AssertionError, match="does not keep"):
        assert "precopy_started" in facts


def test_each_fact_has_a_bit_and_words_of_its_own() -> None:
    assert len({fact.value for fact in Fact}) == len(Fact)
    assert all(fact & (fact - 1) == 0 for fact in Fact)
    assert len({words.fact_words(fact) for fact in Fact}) == len(Fact)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([], 0, "(all that there are)"),
        (["--states", "100"], 2, "(not all that there are)"),
        (["--lost-writes", "1", "--host-deaths", "1"], 1, "I3 is broken"),
    ],
)
def test_the_command_prints_what_it_saw(
    arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == status
    assert said in capsys.readouterr().out
