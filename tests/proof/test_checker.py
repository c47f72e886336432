"""The real cores, through every interleaving of a small, hostile world."""

from __future__ import annotations

import pytest

import broken_cores as broken
from godwit.proof.checker import limit, words
from godwit.proof.checker.__main__ import main
from godwit.proof.checker.beginnings import go_given, preparation, stun_intended
from godwit.proof.checker.cores import DESTINATION, SOURCE, Work
from godwit.proof.checker.facts import Fact, FactTypes
from godwit.proof.checker.happenings import What
from godwit.proof.checker.moves import RUNNING, Moves
from godwit.proof.checker.search import Report, Search, runs_or_is_lost
from godwit.proof.checker.world import Budget, Draft, Image, Violation, Vmm, World

SECONDS_MAX = 100.0

SEARCHES = {
    "a crash, two lost writes and a broken link": Budget(crashes=1, lost_writes=2, link_losses=1),
    "two crashes": Budget(crashes=2),
    "both hosts die": Budget(host_deaths=2),
    "messages are lost, and the link": Budget(lost_messages=1, link_losses=1),
    "a message comes twice": Budget(doubled_messages=1),
    "a write comes late": Budget(strays=1),
    "a VMM dies": Budget(vmm_deaths=1),
    "a crash, and a VMM dies": Budget(crashes=1, vmm_deaths=1),
    "a crash, and both hosts die": Budget(crashes=1, host_deaths=2),
    "a crash, and something local fails": Budget(crashes=1, local_failures=1),
    "a crash, and a message comes twice": Budget(crashes=1, doubled_messages=1),
    "a crash, and a message is lost": Budget(crashes=1, lost_messages=1),
    "a message comes twice, and a write is lost": Budget(doubled_messages=1, lost_writes=1),
    "something local fails": Budget(local_failures=1),
    "an operator orders what nobody asked for": Budget(orders=1),
}


@pytest.mark.parametrize("budget", SEARCHES.values(), ids=SEARCHES.keys())
def test_nothing_breaks_a_rule(budget: Budget, clean: list[Report]) -> None:
    moves = Moves(SOURCE, DESTINATION)
    clean.append(assert_holds(moves, stun_intended(moves, budget)))


@pytest.mark.parametrize("budget", [Budget(crashes=1), Budget(lost_messages=1)])
def test_nothing_breaks_a_rule_from_the_preparation_on(budget: Budget, clean: list[Report]) -> None:
    moves = Moves(SOURCE, DESTINATION)
    clean.append(assert_holds(moves, preparation(moves, budget)))


def assert_holds(moves: Moves, start: World) -> Report:
    report = Search(moves, start).run(seconds_max=SECONDS_MAX)
    print(words.report_line(report))
    assert report.finding is None, words.tell(moves, report.finding)
    assert report.is_complete, words.report_line(report)
    assert report.states > 2000
    assert report.depth > 20
    return report


def given_up(moves: Moves, budget: Budget) -> World:
    """Both hosts died after GO, and an operator has given the machine up."""
    world = go_given(moves, Budget(host_deaths=2, host_returns=2))
    for what, who in ((What.HOST_DIES, 0), (What.HOST_DIES, 1), (What.GIVE_UP, 0)):
        world = next(move.world for move in moves.of(world) if move.label[:2] == (what, who))
    return world._replace(left=budget)


def test_hosts_that_come_back_after_the_machine_was_given_up_run_nothing(
    clean: list[Report],
) -> None:
    moves = Moves(SOURCE, DESTINATION)
    start = given_up(moves, Budget(host_returns=2, crashes=1, link_losses=1))
    report = Search(moves, start).run(seconds_max=SECONDS_MAX)
    assert report.finding is None, words.tell(moves, report.finding)
    assert report.is_complete
    clean.append(report)
    worlds = all_worlds(moves, start)
    assert all(world.is_given_up for world in worlds)
    assert not any(side.vmm is Vmm.RUNNING for world in worlds for side in world[:2])
    known = [moves.known(world, who) for world in worlds for who in (0, 1)]
    ends = {each.phase for each in known if each and each.is_finished}
    assert {"released", "discarded"} <= ends


def test_an_order_excuses_one_run_of_the_side_that_it_was_given_to() -> None:
    """What the other side has is no less stale for it; what was ordered to run is current then."""
    moves = Moves(SOURCE, DESTINATION)
    draft = Draft(stun_intended(moves, Budget()))
    draft.sides[0] = draft.sides[0]._replace(vmm=Vmm.PAUSED, image=Image.CURRENT)
    draft.sides[1] = draft.sides[1]._replace(vmm=Vmm.LOADED, image=Image.STALE)
    draft.order(1)
    ordered = draft.copy()
    ordered.run(1)
    assert ordered.violation is None
    assert [side.image for side in ordered.sides] == [Image.STALE, Image.CURRENT]
    ordered.pause(1)
    ordered.run(0)
    assert ordered.violation is Violation.STALE_RUNS
    draft.sides[1] = draft.sides[1]._replace(vmm=Vmm.RUNNING)
    draft.pause(1)
    draft.sides[0] = draft.sides[0]._replace(image=Image.STALE)
    draft.run(0)
    assert draft.violation is Violation.STALE_RUNS


def test_an_order_whose_write_is_not_taken_excuses_nothing_later() -> None:
    moves = Moves(SOURCE, DESTINATION)
    kept = 0
    for world in all_worlds(moves, go_given(moves, Budget(host_deaths=1))):
        for who in (0, 1):
            side, known = world.side(who), moves.known(world, who)
            works = {operation.work for operation in side.pending}
            if world.ordered & 1 << who and known is not None and not known.is_finished:
                kept += 1
                assert works & (RUNNING | {Work.FREE}) or moves.may_win(world, who), known
    assert kept


def test_a_lost_write_and_a_dead_host_together_are_the_limit() -> None:
    """Two independent disasters at once are more than two witnesses can bear. It is documented."""
    told = limit.shortest_trace()
    assert told.startswith("I3 is broken")
    assert "The register loses its last acknowledged write" in told
    assert "host dies" in told


def test_past_a_tolerated_rule_the_search_goes_on() -> None:
    moves = Moves(broken.resumes_on_a_timeout_after_go(), DESTINATION)
    start = stun_intended(moves, Budget())
    broken_off = Search(moves, start).run()
    report = Search(moves, start, tolerated={Violation.TWO_RUN}).run()
    assert report.is_complete
    assert report.states > broken_off.states


def test_only_what_another_state_covers_is_left_out() -> None:
    moves = Moves(SOURCE, DESTINATION)
    start = stun_intended(moves, Budget(lost_writes=1))
    reached = all_worlds(moves, start)
    report = Search(moves, start).run()
    assert len({world._replace(left=Budget()) for world in reached}) <= report.states < len(reached)


def all_worlds(moves: Moves, start: World) -> set[World]:
    """Every world that can come of ``start``: a search that leaves nothing out."""
    seen = {start}
    fresh = [start]
    while fresh:
        after = {move.world for move in moves.of(fresh.pop())} - seen
        seen |= after
        fresh += after
    return seen


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
    for world in all_worlds(moves, stun_intended(moves, Budget())):
        assert runs_or_is_lost(world) or moves.of(world)
        known = moves.known(world, 0), moves.known(world, 1)
        if all(known) and all(each.is_finished for each in known if each):
            ends.add((known[0].phase if known[0] else "", known[1].phase if known[1] else ""))
    assert ends == {("released", "active"), ("abandoned", "discarded")}


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
        (["--lost-writes", "1", "--tolerate", "stale_runs"], 0, "(all that there are)"),
    ],
)
def test_the_command_prints_what_it_saw(
    arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == status
    assert said in capsys.readouterr().out
