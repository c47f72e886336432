"""What still fits on one GPU, and what each choice would leave. Exact, and computed once.

A ``Shape`` is all that decides what else fits: the mode, the slots that are taken, how many sit
there, and how many of the few profiles whose number is limited by more than room. GPUs of one model
with one shape are interchangeable. A shape is made when it is first met and kept with what was
computed for it: ``prepare`` computes once all that a decision may ask, so that a decision over many
GPUs is a dictionary look-up a shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from math import lcm
from operator import itemgetter
from typing import Final

import msgspec

from ..catalogue import SLOTS_MAX, Catalogue, GpuMode, GpuModel
from ..errors import CorruptError
from .geometry import Piece, Seat, pieces
from .policy import Policy

WHOLE: Final = lcm(*range(1, SLOTS_MAX + 1))
"""A whole, so that any share of a GPU is a whole number of its parts: ranks compare exactly."""
DIGIT_BITS: Final = SLOTS_MAX.bit_length()
"""Bits of one digit of a ``worth``: more than ``SLOTS_MAX`` of a profile fit on no GPU."""
CATALOGUES_MAX: Final = 4
"""Catalogues whose tables are kept; a process has one, its tests a few."""


class Choice(msgspec.Struct, frozen=True, eq=False):
    """One legal place on a GPU of some shape. ``after``: the shape that the GPU would have."""

    piece: Piece
    start: int
    after: Shape


Rank = tuple[int, int, int, int]
"""Of a choice; the least is the best."""
_Key = tuple[GpuMode, str, int, int, int, tuple[tuple[str, int], ...]]


class Shape:
    """What is taken on one GPU. Made by its ``Tables`` only, one object a shape."""

    __slots__ = ("_best", "_choices", "_measures", "_tables", "compute", "count", "equal",
                 "mode", "scarce", "taken")  # fmt: skip

    def __init__(self, tables: Tables, key: _Key) -> None:
        self.mode, self.equal, self.taken, self.compute, self.count, self.scarce = key
        self._tables = tables
        self._choices: dict[str, tuple[Choice, ...]] = {}
        self._best: dict[tuple[str, Policy], tuple[Rank, Choice]] | None = None
        self._measures: tuple[int, int] | None = None

    @property
    def model(self) -> GpuModel:
        """The GPUs' model."""
        return self._tables.model

    @property
    def worth(self) -> int:
        """How many more of each profile fit, of one profile at a time, as one number.

        It has a digit a profile, that of the largest first: less of a larger one is less worth.
        """
        return self._measured()[0]

    @property
    def places(self) -> int:
        """How many placements are legal now: each profile at each start that is left for it."""
        return self._measured()[1]

    def _measured(self) -> tuple[int, int]:
        if self._measures is None:
            most: dict[int, int] = {}
            places = 0
            for shift, piece in self._tables.digits(self.mode, self.equal):
                fit, free = self._room(piece)
                most[shift] = max(fit, most.get(shift, 0))
                places += free
            self._measures = sum(fit << shift for shift, fit in most.items()), places
        return self._measures

    def _openings(self, profile: str) -> Iterator[tuple[Piece, tuple[tuple[int, int], ...]]]:
        """The ways in which the profile may come, each with its free starts and their masks."""
        for piece in self._tables.ways(profile):
            if self.admits(piece):
                yield piece, piece.free_starts(self.taken)

    def prepare(self) -> None:
        """Compute whatever a decision may ask of this shape, unless that has been done."""
        if self._best is None:
            self._best = {}
            for base in {piece.base for _, piece in self._tables.digits(self.mode, self.equal)}:
                losses = [(choice, self._loss(choice)) for choice in self.choices(base)]
                for policy in Policy if losses else ():
                    ranked = [((self._first(item, policy), *loss), item) for item, loss in losses]
                    self._best[base, policy] = min(ranked, key=itemgetter(0))

    def fits(self, profile: str) -> int:
        """How many more of one profile fit, if nothing else comes."""
        return max((self._room(piece)[0] for piece in self._tables.ways(profile)), default=0)

    def _room(self, piece: Piece) -> tuple[int, int]:
        """How many more of it fit, and at how many starts one may begin."""
        if not self.admits(piece):
            return 0, 0
        fit, free = piece.room_beside(self.taken)
        fit = min(fit, piece.most - self._held(piece))
        if piece.compute:
            fit = min(fit, (self._tables.compute_slices - self.compute) // piece.compute)
        return fit, free

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
        base = self._tables.base(profile)
        if base not in self._choices:
            self._choices[base] = tuple(
                Choice(piece, start, self._tables.with_piece(self, piece, mask))
                for piece, starts in self._openings(base)
                for start, mask in starts
            )
        return self._choices[base]

    def best(self, profile: str, policy: Policy) -> tuple[Rank, Choice] | None:
        """The best place on this GPU with its rank among those on all GPUs; None: it has none."""
        self.prepare()
        assert self._best is not None
        return self._best.get((self._tables.base(profile), policy))

    def rank(self, choice: Choice, policy: Policy) -> Rank:
        """How good a choice is; the least is the best.

        After what the policy asks for: of each profile, largest first, how many fewer could be
        placed then; how many fewer placements would be legal; and the start.
        """
        return self._first(choice, policy), *self._loss(choice)

    def _loss(self, choice: Choice) -> tuple[int, int, int]:
        worth, places = self._measured()
        worth_after, places_after = choice.after._measured()
        return worth - worth_after, places - places_after, choice.start

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
        last = len(ranking) - 1
        every = [
            (DIGIT_BITS * (last - place), way)
            for place, name in enumerate(ranking)
            for way in self.ways(name)
        ]
        self._bases = {name: ways[0].base for name, ways in self._ways.items()}
        self._scarce = {way.base for _, way in every if way.most < way.fit}
        self._digits = {
            mode: tuple((shift, way) for shift, way in every if mode in (GpuMode.NONE, way.mode))
            for mode in GpuMode
        }
        self._shapes: dict[_Key, Shape] = {}
        self.empty = self._shape((GpuMode.NONE, "", 0, 0, 0, ()))

    def ways(self, profile: str) -> tuple[Piece, ...]:
        """In which modes the profile may sit, and how; nothing if the model does not offer it."""
        return self._ways.get(profile, ())

    def digits(self, mode: GpuMode, equal: str) -> Iterable[tuple[int, Piece]]:
        """The pieces that a GPU may take in a mode (``equal``: the one size of its vGPUs, or
        nothing), each with the place of its digit in a shape's worth.
        """
        digits = self._digits[mode]
        return digits if not equal else (item for item in digits if item[1].base == equal)

    def base(self, profile: str) -> str:
        """The profile whose place it takes: itself, unless it is MIG-backed."""
        return self._bases.get(profile, profile)

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
        scarce = shape.scarce
        if piece.base in self._scarce:
            counts = dict(scarce)
            counts[piece.base] = counts.get(piece.base, 0) + 1
            scarce = tuple(sorted(counts.items()))
        key = (
            piece.mode,
            piece.base if piece.mode is GpuMode.EQUAL else "",
            shape.taken | mask,
            shape.compute + piece.compute,
            shape.count + 1,
            scarce,
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
