"""The search itself: breadth first, so that the first trace that breaks a rule is a shortest one.

A state in which more faults may still come covers one that differs in nothing else: all that can
happen in the latter can happen in the former, no later. Only the former is searched. What happens
without a fault does not depend on the faults that are left.

Two things are checked: rules that hold in every state and step (the world notes when one is
broken; the coordinator ends no migration wrongly), and, once all states are known, that from each
of them a good end can be reached without any further fault. It must not know what a move means.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from operator import ge
from typing import Final, NamedTuple

from .happenings import Kind, Label
from .moves import Moves
from .world import Image, Side, Violation, Vmm, World

STATES_MAX: Final = 20_000_000
_LOOK_AT_CLOCK: Final = 4096
"""States between two looks at the clock."""


class Step(NamedTuple):
    """One step of a trace, and the world after it. The first has no label."""

    label: Label | None
    world: World


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule is broken, and the shortest way to it."""

    violation: Violation
    trace: tuple[Step, ...]
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What a search has seen. ``is_complete``: there is no state that it has not.

    ``seconds`` of the processor: others may use it too.
    """

    states: int
    transitions: int
    depth: int
    seconds: float
    is_complete: bool
    finding: Finding | None


class Search:
    """One search from one world."""

    def __init__(
        self, moves: Moves, start: World, *, tolerated: AbstractSet[Violation] = frozenset()
    ) -> None:
        """``tolerated``: the search goes on when one of these is broken, to look for others."""
        self._moves = moves
        self._tolerated = tolerated
        self._numbers: dict[tuple[object, ...], list[int]] = {start[:-1]: [0]}
        """States by all that they hold but the faults that are left."""
        self._worlds: list[World] = [start]
        self._parents = array("l", [-1])
        self._labels: list[Label | None] = [None]
        self._depths = array("i", [0])
        self._edges = array("l")
        """Where moves that are no faults lead, state by state."""
        self._edges_end = array("l")
        self._transitions = 0

    def run(self, *, states_max: int = STATES_MAX, seconds_max: float = 3600.0) -> Report:
        """Search until all is seen, a rule is broken, or a bound is reached.

        ``seconds_max``: of the processor.
        """
        started_s = time.process_time()
        finding, is_complete = self._explore(states_max, started_s + seconds_max)
        if finding is None and is_complete:
            finding = self._look_for_ends()
        return Report(
            states=len(self._worlds),
            transitions=self._transitions,
            depth=self._depths[-1],
            seconds=time.process_time() - started_s,
            is_complete=is_complete,
            finding=finding,
        )

    def _explore(self, states_max: int, until_s: float) -> tuple[Finding | None, bool]:
        number = 0
        while number < len(self._worlds):
            if number % _LOOK_AT_CLOCK == 0 and time.process_time() > until_s:
                return None, False
            if len(self._worlds) > states_max:
                return None, False
            finding = self._expand(number)
            if finding is not None:
                return finding, False
            number += 1
        return None, True

    def _expand(self, number: int) -> Finding | None:
        for label, kind, world, violation, refusal in self._moves.of(self._worlds[number]):
            self._transitions += 1
            if violation is not None and violation not in self._tolerated:
                trace = (*self._trace(number), Step(label, world))
                return Finding(violation, trace, refusal)
            found = self._covering(world)
            if found == len(self._worlds):
                self._worlds.append(world)
                self._parents.append(number)
                self._labels.append(label)
                self._depths.append(self._depths[number] + 1)
                if self._ends_wrongly(world):
                    return Finding(Violation.ENDED_WRONGLY, self._trace(found))
            if kind is not Kind.FAULT:
                self._edges.append(found)
        self._edges_end.append(len(self._edges))
        return None

    def _covering(self, world: World) -> int:
        """The state that has been seen instead of ``world``, or the number of a new one."""
        numbers = self._numbers.setdefault(world[:-1], [])
        for number in numbers:
            if all(map(ge, self._worlds[number].left, world.left)):
                return number
        numbers.append(len(self._worlds))
        return numbers[-1]

    def _trace(self, number: int) -> tuple[Step, ...]:
        steps: list[Step] = []
        while number >= 0:
            steps.append(Step(self._labels[number], self._worlds[number]))
            number = self._parents[number]
        return tuple(reversed(steps))

    def _ends_wrongly(self, world: World) -> bool:
        if Violation.ENDED_WRONGLY in self._tolerated:
            return False
        return self._moves.endings.ends_wrongly(world)

    # From every state a good end can be reached.

    def _look_for_ends(self) -> Finding | None:
        for violation, is_good in (
            (Violation.STUCK, runs_or_is_lost),
            (Violation.ENDLESS, self._is_over),
        ):
            stuck = self._never_reaches(is_good)
            if stuck is not None:
                return Finding(violation, self._trace(stuck))
        return None

    def _never_reaches(self, is_good: Callable[[World], bool]) -> int | None:
        """The first state from which no path without a fault leads to a good one."""
        reaches = bytearray(is_good(world) for world in self._worlds)
        changed = True
        while changed:
            changed = self._spread(reaches)
        first = reaches.find(0)
        return None if first < 0 else first

    def _spread(self, reaches: bytearray) -> bool:
        """One pass against the direction of the search; whether it found more."""
        changed = False
        end = len(self._edges)
        for number in range(len(self._worlds) - 1, -1, -1):
            begin = self._edges_end[number - 1] if number else 0
            if not reaches[number]:
                for edge in range(begin, end):
                    if reaches[self._edges[edge]]:
                        reaches[number] = changed = True
                        break
            end = begin
        return changed

    def _is_over(self, world: World) -> bool:
        """The coordinator has ended the migration, or does by what stands in the log."""
        return world.is_given_up or self._moves.endings.can_end(world)


def runs_or_is_lost(world: World) -> bool:
    """The machine runs, or died with the last host that held it."""
    return any(_runs(side) for side in (world.source, world.destination)) or not any(
        side.image is Image.CURRENT for side in (world.source, world.destination)
    )


def _runs(side: Side) -> bool:
    return side.vmm is Vmm.RUNNING
