"""What would have to move, so that a profile fits: the least of it, on one GPU.

Least by framebuffer bytes, since those are what a migration moves. Knows occupants by a name that
the caller gives; decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from ..catalogue import GpuMode
from .fleet import Fleet, GpuAt
from .geometry import Piece, Seat
from .policy import DeviceGroup, Policy
from .shapes import Solver, Tables


class Occupant(NamedTuple):
    """Who sits where."""

    who: str
    seat: Seat


class Clearing(msgspec.Struct, frozen=True, kw_only=True):
    """What would make room. ``within``: where the movers could sit on the same GPU; () if not all
    of them could.
    """

    gpu: GpuAt
    seat: Seat
    movers: tuple[Occupant, ...]
    within: tuple[Seat, ...]
    moved_bytes: int


def clear(
    solver: Solver, gpu: GpuAt, model: str, occupants: Sequence[Occupant], profile: str
) -> Clearing | None:
    """The least that would have to leave its place on ``gpu`` for ``profile`` to fit there.

    None if the model does not offer the profile, or nothing is in its way.
    """
    tables = solver.tables(model)
    found = [
        (sum(_bytes(tables, item) for item in movers), len(movers), start, piece, movers)
        for piece in tables.ways(profile)
        for start, mask in zip(piece.starts, piece.masks, strict=True)
        for movers in _in_the_way(tables, occupants, piece, mask)
    ]
    if not found:
        return None
    moved_bytes, count, start, piece, movers = min(found, key=lambda item: item[:3])
    if not count:
        return None
    seat = piece.seat(profile, start)
    staying = [item.seat for item in occupants if item not in movers]
    return Clearing(
        gpu=gpu,
        seat=seat,
        movers=movers,
        within=_reseated(solver, gpu, model, [*staying, seat], movers),
        moved_bytes=moved_bytes,
    )


def _in_the_way(
    tables: Tables, occupants: Sequence[Occupant], piece: Piece, mask: int
) -> Iterator[tuple[Occupant, ...]]:
    """Who must leave for the piece to take the slots of ``mask``: whoever overlaps it or is in
    another mode, and of those that only count against its limit, each one in turn.
    """
    overlapping = tuple(
        item
        for item in occupants
        if item.seat.mode is not piece.mode
        or (piece.mode is GpuMode.EQUAL and _base(tables, item) != piece.base)
        or item.seat.mask & mask
    )
    others = [item for item in occupants if item not in overlapping]
    for also in ((), *((item,) for item in others)):
        rest = [item.seat for item in others if item not in also]
        if tables.of(rest).admits(piece):
            yield (*overlapping, *also)
            if not also:
                return


def _reseated(
    solver: Solver, gpu: GpuAt, model: str, staying: Sequence[Seat], movers: Sequence[Occupant]
) -> tuple[Seat, ...]:
    alone = Fleet(solver)
    alone.put(gpu, model, staying)
    profiles = [item.seat.profile for item in movers]
    places = alone.choose_all(profiles, Policy.CONSOLIDATE, DeviceGroup.ONE_GPU)
    return tuple(place.seat for place in places) if places else ()


def _base(tables: Tables, item: Occupant) -> str:
    return tables.ways(item.seat.profile)[0].base


def _bytes(tables: Tables, item: Occupant) -> int:
    return tables.ways(item.seat.profile)[0].framebuffer_bytes
