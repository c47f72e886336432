"""What the matrix is made of: steps that belong together, and what is done there to whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import steps
from cells import Cell, Fault, Party, faults_of
from steps import Course, Step

STOPPED: Final = (Fault.KILL, Fault.STOP_LONG, Fault.STOP_SHORT)


@dataclass(frozen=True, slots=True)
class Section:
    """``steps`` are the columns of its table, ``hits`` the rows; ``told`` stands above it."""

    title: str
    steps: tuple[Step, ...]
    hits: Mapping[Party, tuple[Fault, ...]]
    told: str = ""

    def cells(self) -> list[Cell]:
        """All of it, row by row."""
        return [
            Cell(party, fault, step)
            for party, faults in self.hits.items()
            for fault in faults
            for step in self.steps
        ]


_ALL: Final = {party: faults_of(party) for party in Party}
_KILLS: Final = dict.fromkeys(
    (Party.SOURCE, Party.DESTINATION, Party.SOURCE_VMM, Party.NATS, Party.COORDINATOR),
    (Fault.KILL,),
)
_OPENINGS: Final = {
    Course.CANCELLED: "Its stun limit is one that nothing meets, so rounds go out until the end.",
    Course.TAKEN_BACK: "The destination stands at `d7` until the source has come so far.",
    Course.RECLAIMED: "The destination stands at `d8` until the source gives up waiting for it,"
    " after some seconds.",
}

SECTIONS: Final = (
    Section("At each step of the source", steps.OF_SOURCE, _ALL),
    Section("At each step of the destination", steps.OF_DESTINATION, _ALL),
    Section(
        "At each step of the coordinator",
        steps.OF_COORDINATOR,
        {
            Party.NATS: (Fault.KILL,),
            Party.COORDINATOR: STOPPED,
            Party.ONE_OF_TWO: (Fault.STOP_LONG,),
        },
        "Of two coordinators, the one that stands at the step is hit, and the other goes on.",
    ),
    Section("At each step of the tracker", steps.OF_TRACKER, {Party.TRACKER: STOPPED}),
    *(
        Section(f"Where {course}", found, _KILLS, _OPENINGS[course])
        for course, found in (
            (Course.CANCELLED, steps.OF_CANCELLED),
            (Course.TAKEN_BACK, steps.OF_TAKEN_BACK),
            (Course.RECLAIMED, steps.OF_RECLAIMED),
        )
    ),
)


def all_cells() -> list[Cell]:
    """The most valuable first: the hardest fault, then in the order of the parties."""
    rank = {each: number for number, each in enumerate((*Fault, *Party))}
    cells = [cell for section in SECTIONS for cell in section.cells()]
    return sorted(cells, key=lambda cell: (rank[cell.fault], rank[cell.party]))
