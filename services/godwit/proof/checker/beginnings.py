"""Where a search begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from . import script
from .cores import Operation, Work, standing
from .facts import Fact
from .happenings import Kind, Move, What
from .moves import Moves
from .world import DESTINATION, NOTHING_LOST, UNBORN, Budget, Draft, Image, Side, Vmm, World

STEPS_MAX: Final = 20


def preparation(moves: Moves, budget: Budget) -> World:
    """The machine runs; the destination has just been told to prepare; the source knows nothing."""
    first = moves.records.number(script.FIRST_RECORD)
    outcome = moves.roles[DESTINATION].begin(standing((first,)))
    world = World(
        source=Side(UNBORN, Vmm.RUNNING, Image.CURRENT),
        destination=Side(outcome.role, Vmm.NONE, Image.NONE),
        is_linked=False,
        register=(first,),
        seen=NOTHING_LOST,
        knowing=0,
        strays=(),
        echoes=(),
        ordered=0,
        is_given_up=False,
        left=budget,
    )
    draft = Draft(world)
    for deed in outcome.deeds:
        assert deed.operation is not None
        draft.begin(DESTINATION, deed.operation)
    return draft.world()


def stun_intended(moves: Moves, budget: Budget) -> World:
    """Pre-copy has converged; the source has written to the log that it is about to stun."""
    return _first(moves, budget, lambda world: Operation(Work.AWAIT_LOG) in world.source.pending)


def go_given(moves: Moves, budget: Budget) -> World:
    """The image is staged, and GO is on its way."""
    return _first(moves, budget, lambda world: bool(world.source.journal & Fact.GO_GIVEN))


def _first(moves: Moves, budget: Budget, is_there: Callable[[World], bool]) -> World:
    """Where a migration without any trouble comes to."""
    world = preparation(moves, Budget())
    for _ in range(STEPS_MAX):
        if is_there(world):
            return world._replace(left=budget)
        world = next(move.world for move in moves.of(world) if _is_progress(move))
    raise AssertionError("a migration without trouble does not come to the search's beginning")


def _is_progress(move: Move) -> bool:
    return move.kind is Kind.DUE and move.label.what in (What.STARTS, What.DONE, What.HEARS)
