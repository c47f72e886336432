"""What still fits on one GPU, and what each choice would leave. Exact, and computed once.

A ``Shape`` is all that decides what else fits: the mode, the slots that are taken, how many sit
there, and how many of the few profiles whose number is limited by more than room. GPUs of one model
with one shape are interchangeable. A shape is made when it is first met and kept with what was
computed for it, so that a decision over many GPUs is a dictionary look-up a shape.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from math import lcm
from typing import Final

import msgspec

from ..catalogue import SLOTS_MAX, Catalogue, GpuMode, GpuModel
from ..errors import CorruptError
from .geometry import Piece, Seat, pieces
from .policy import Policy

WHOLE: Final = lcm(*range(1, SLOTS_MAX + 1))
"""A whole, so that any share of a GPU is a whole number of its parts: ranks compare exactly."""
CATALOGUES_MAX: Final = 4
"""Catalogues whose tables are kept; a process has one, its tests a few."""


class Choice(msgspec.Struct, frozen=True, eq=False):
    """One legal place on a GPU of some shape. ``after``: the shape that the GPU would have."""

    piece: Piece
    start: int
    after: Shape


Room = tuple[int, ...]
"""By the catalogue's ranking, largest profile first: how many more of it a GPU could take."""
Rank = tuple[int, Room, int, int]
"""Of a choice; the least is the best."""
_Key = tuple[GpuMode, str, int, int, int, tuple[tuple[str, int], ...]]


class Shape:
    """What is taken on one GPU. Made by its ``Tables`` only, one object a shape."""

    __slots__ = ("_best", "_choices", "_places", "_room", "_tables", "compute", "count", "equal",
                 "mode", "scarce", "taken")  # fmt: skip

    def __init__(self, tables: Tables, key: _Key) -> None:
        self.mode, self.equal, self.taken, self.compute, self.count, self.scarce = key
        self._tables = tables
        self._choices: dict[str, tuple[Choice, ...]] = {}
        self._best: dict[tuple[str, Policy], tuple[Rank, Choice] | None] = {}
        self._room: Room | None = None
        self._places: int | None = None

    @property
    def model(self) -> GpuModel:
        """The GPUs' model."""
        return self._tables.model

    @property
    def room(self) -> Room:
        """How many more of each profile fit, of one profile at a time."""
        if self._room is None:
            room = [0] * len(self._tables.ranking)
            for place, name in self._tables.own:
                room[place] = self.fits(name)
            self._room = tuple(room)
        return self._room

    @property
    def places(self) -> int:
        """How many placements are legal now: each profile at each start that is left for it."""
        if self._places is None:
            self._places = sum(
                len(piece.free_starts(self.taken))
                for _, name in self._tables.own
                for piece in self._tables.ways(name)
                if self.admits(piece)
            )
        return self._places

    def fits(self, profile: str) -> int:
        """How many more of one profile fit, if nothing else comes."""
        return max((self._fits(piece) for piece in self._tables.ways(profile)), default=0)

    def _fits(self, piece: Piece) -> int:
        if not self.admits(piece):
            return 0
        found = min(piece.fit_beside(self.taken), piece.most - self._held(piece))
        if piece.compute:
            found = min(found, (self._tables.compute_slices - self.compute) // piece.compute)
        return found

    def admits(self, piece: Piece) -> bool:
        """Whether the mode, the compute slices and the limits let it in, wherever it would sit."""
        if self.mode is GpuMode.NONE:
            return True
        return (
            self.mode is piece.mode
            and self.equal in {"", piece.base}
            and self.compute + piece.compute <= self._tables.compute_slices
            and self._held(piece) < piece.most
        )

    def _held(self, piece: Piece) -> int:
        """How many sit here of a profile whose number is limited by more than room."""
        return next((held for name, held in self.scarce if name == piece.base), 0)

    def choices(self, profile: str) -> tuple[Choice, ...]:
        """Every legal place for the profile."""
        if profile not in self._choices:
            self._choices[profile] = tuple(
                Choice(piece, start, self._tables.with_piece(self, piece, mask))
                for piece in self._tables.ways(profile)
                if self.admits(piece)
                for start, mask in piece.free_starts(self.taken)
            )
        return self._choices[profile]

    def best(self, profile: str, policy: Policy) -> tuple[Rank, Choice] | None:
        """The best place on this GPU with its rank among those on all GPUs; None: it has none."""
        key = (profile, policy)
        if key not in self._best:
            ranked = [(self.rank(choice, policy), choice) for choice in self.choices(profile)]
            self._best[key] = min(ranked, key=lambda item: item[0], default=None)
        return self._best[key]

    def rank(self, choice: Choice, policy: Policy) -> Rank:
        """How good a choice is; the least is the best.

        After what the policy asks for: of each profile, largest first, how many fewer could be
        placed then; how many fewer placements would be legal; and the start.
        """
        after = choice.after
        lost = tuple(a - b for a, b in zip(self.room, after.room, strict=True))
        return self._first(choice, policy), lost, self.places - after.places, choice.start

    def _first(self, choice: Choice, policy: Policy) -> int:
        """What the policy asks for, in parts of ``WHOLE``."""
        piece = choice.piece
        match policy:
            case Policy.CONSOLIDATE:
                return 0
            case Policy.SPREAD:
                return self.taken.bit_count() * (WHOLE // piece.width)
            case Policy.PERFORMANCE:
                sharing = 1 if piece.mode is GpuMode.MIG else self.count + 1
                return -piece.sms * (WHOLE // sharing)


class Tables:
    """All shapes of one GPU model that were met. ``ranking``: profiles, largest first."""

    def __init__(self, model: GpuModel, ranking: tuple[str, ...]) -> None:
        self.model = model
        self.ranking = ranking
        self.compute_slices = model.mig.compute_slices if model.mig else 0
        self._ways = pieces(model)
        own = {way.base for ways in self._ways.values() for way in ways}
        self.own = tuple((place, name) for place, name in enumerate(ranking) if name in own)
        """The model's own profiles, each with its place in the ranking."""
        self._shapes: dict[_Key, Shape] = {}
        self.empty = self._shape((GpuMode.NONE, "", 0, 0, 0, ()))

    def ways(self, profile: str) -> tuple[Piece, ...]:
        """In which modes the profile may sit, and how; nothing if the model does not offer it."""
        return self._ways.get(profile, ())

    def of(self, seats: Iterable[Seat]) -> Shape:
        """The shape of a GPU with these seats. Raises ``CorruptError`` if they are not legal."""
        shape = self.empty
        for seat in seats:
            shape = self.extend(shape, seat)
        return shape

    def extend(self, shape: Shape, seat: Seat) -> Shape:
        """The shape with one more seat. Raises ``CorruptError`` if that is not legal."""
        for choice in shape.choices(seat.profile):
            if _is(choice, seat):
                return choice.after
        raise CorruptError(
            f"{seat.profile} cannot sit at {seat.start} on a {self.model.model}"
            f" in mode {seat.mode.value}, beside what sits there"
        )

    def with_piece(self, shape: Shape, piece: Piece, mask: int) -> Shape:
        """The shape after a legal choice."""
        scarce = dict(shape.scarce)
        if piece.most < piece.fit:
            scarce[piece.base] = scarce.get(piece.base, 0) + 1
        key = (
            piece.mode,
            piece.base if piece.mode is GpuMode.EQUAL else "",
            shape.taken | mask,
            shape.compute + piece.compute,
            shape.count + 1,
            tuple(sorted(scarce.items())),
        )
        return self._shape(key)

    def _shape(self, key: _Key) -> Shape:
        if key not in self._shapes:
            self._shapes[key] = Shape(self, key)
        return self._shapes[key]


def _is(choice: Choice, seat: Seat) -> bool:
    piece = choice.piece
    return (piece.mode, choice.start, piece.slots) == (seat.mode, seat.start, seat.slots)


class Solver:
    """The tables of every model of a catalogue, with one ranking of profiles for all."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.ranking = _ranking(catalogue)
        self._place = {name: place for place, name in enumerate(self.ranking)}
        self._base = {
            name: way.base
            for model in catalogue.models.values()
            for name, ways in pieces(model).items()
            for way in ways
        }
        self._tables = {
            name: Tables(model, self.ranking) for name, model in catalogue.models.items()
        }

    def tables(self, model: str) -> Tables:
        """The model's tables. Raises ``InvalidInputError`` if the catalogue lacks it."""
        self.catalogue.model(model)
        return self._tables[model]

    def size_rank(self, profile: str) -> int:
        """0 for the largest profile. Raises ``InvalidInputError`` if the catalogue lacks it."""
        self.catalogue.profile(profile)
        return self._place[self._base[profile]]


@lru_cache(maxsize=CATALOGUES_MAX)
def solver(catalogue: Catalogue) -> Solver:
    """The catalogue's solver, always the same one."""
    return Solver(catalogue)


def _ranking(catalogue: Catalogue) -> tuple[str, ...]:
    """Profiles that have a place of their own, by memory, then by multiprocessors."""
    sizes: dict[str, tuple[int, int]] = {}
    for model in catalogue.models.values():
        for ways in pieces(model).values():
            for way in ways:
                size = (way.framebuffer_bytes, way.sms)
                sizes[way.base] = max(size, sizes.get(way.base, size))
    return tuple(sorted(sizes, key=lambda name: (*(-part for part in sizes[name]), name)))
