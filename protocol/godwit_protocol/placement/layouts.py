"""Every legal layout of one GPU, counted: what a solver can be held against.

A layout is a set of placements, each a piece at a start, no two on one slot. Exhaustive, hence for
one model and a few pieces at a time; a decision does not come here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from ..catalogue import GpuMode, GpuModel
from .geometry import Piece, Seat, pieces

Layout = frozenset[Seat]


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """What there is. ``maximal``: layouts to which nothing can be added; multisets of profiles."""

    placements: int
    states: int
    maximal: int
    maximal_multisets: int
    full: int
    """Maximal layouts that take every memory slot and every compute slice."""
    full_multisets: int


def mig_pieces(model: GpuModel, without: Iterable[str] = ()) -> tuple[Piece, ...]:
    """The model's GPU instances, but for those in ``without``."""
    found = {way.base: way for ways in pieces(model).values() for way in ways}
    left_out = set(without)
    return tuple(
        piece for name, piece in found.items() if piece.mode is GpuMode.MIG and name not in left_out
    )


def placements(of: Sequence[Piece]) -> tuple[Seat, ...]:
    """Each piece at each of its starts."""
    return tuple(piece.seat(piece.base, start) for piece in of for start in piece.starts)


def legal(of: Sequence[Piece], compute_slices: int) -> tuple[Layout, ...]:
    """Every legal layout of the pieces, the empty one too."""
    compute = {piece.base: piece.compute for piece in of}
    most = {piece.base: piece.most for piece in of}
    found: list[Layout] = []

    def extend(chosen: tuple[Seat, ...], rest: tuple[Seat, ...]) -> None:
        found.append(frozenset(chosen))
        for index, seat in enumerate(rest):
            if _may_join(seat, chosen, compute, most, compute_slices):
                extend((*chosen, seat), rest[index + 1 :])

    extend((), placements(of))
    return tuple(found)


def _may_join(
    seat: Seat,
    chosen: tuple[Seat, ...],
    compute: dict[str, int],
    most: dict[str, int],
    compute_slices: int,
) -> bool:
    names = [other.profile for other in chosen]
    return (
        not any(seat.mask & other.mask for other in chosen)
        and sum(compute[name] for name in (*names, seat.profile)) <= compute_slices
        and names.count(seat.profile) < most[seat.profile]
    )


def maximal(layouts: Iterable[Layout]) -> Iterator[Layout]:
    """Those of all legal layouts to which no placement can be added."""
    known = set(layouts)
    smaller = {layout - {seat} for layout in known for seat in layout}
    return (layout for layout in known if layout not in smaller)


def multisets(layouts: Iterable[Layout]) -> int:
    """How many different combinations of profiles the layouts are."""
    return len({frozenset(Counter(seat.profile for seat in item).items()) for item in layouts})


def count(of: Sequence[Piece], compute_slices: int) -> Count:
    """Count what the pieces allow."""
    states = legal(of, compute_slices)
    ends = tuple(maximal(states))
    compute = {piece.base: piece.compute for piece in of}
    width = of[0].width
    full = tuple(
        layout
        for layout in ends
        if sum(seat.slots for seat in layout) == width
        and sum(compute[seat.profile] for seat in layout) == compute_slices
    )
    return Count(
        placements=len(placements(of)),
        states=len(states),
        maximal=len(ends),
        maximal_multisets=multisets(ends),
        full=len(full),
        full_multisets=multisets(full),
    )
