"""How many more would fit if all that sits on a pool of GPUs were seated anew. Pure.

A pool is all GPUs of one model, since a vGPU can move to no other. What is asked is a packing
problem, so the answer is two numbers: as many as a packing that was found leaves room for, and a
bound that no packing passes. Where they are equal, the answer is exact.

For the bound of MIG profiles each has a price, such that no legal layout costs more than one GPU;
then at least so many GPUs are needed as all profiles cost together. The prices that bound best
solve a linear program over the legal layouts. Time-sliced profiles need no prices: GPUs of one
size hold the most of it, and the others share a number of slots.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise, product
from operator import itemgetter

import msgspec

from ..catalogue import GpuMode, GpuModel
from .fleet import Fleet, GpuAt, UndecidedError
from .geometry import Piece, Seat
from .layouts import Layout, legal, maximal, mig_pieces
from .policy import DeviceGroup, Policy
from .shapes import Choice, Rank, Shape, Solver, Tables

MODELS_KEPT = 32
SETS_KEPT = 10_000
"""Sets of profiles on one GPU of which it is kept how they would best sit."""
Row = tuple[int, ...]


class Room(msgspec.Struct, frozen=True):
    """How many more fit: ``at_least`` by a packing that was found, ``at_most`` by a bound."""

    at_least: int
    at_most: int

    def __add__(self, other: Room) -> Room:
        """The room of both."""
        return Room(self.at_least + other.at_least, self.at_most + other.at_most)


class Pool:
    """``gpus`` GPUs of one model, and how many of each profile are seated on them somehow."""

    def __init__(self, solver: Solver, model: str, gpus: int, seated: Mapping[str, int]) -> None:
        """Raises ``InvalidInputError`` for a model that the catalogue lacks."""
        self._tables = solver.tables(model)
        self._gpus = gpus
        self._instances = Counter[str]()
        self._shared = Counter[str]()
        for profile, times in seated.items():
            piece = self._tables.ways(profile)[0]
            kind = self._instances if piece.mode is GpuMode.MIG else self._shared
            kind[piece.base] += times

    def room(self, profile: str, now: int) -> Room:
        """How many more of a profile fit after the best repacking, if ``now`` fit without any."""
        ways = self._tables.ways(profile)
        if not ways:
            return Room(0, 0)
        is_instance = ways[0].mode is GpuMode.MIG
        found, bound = self._room_for_instances(ways) if is_instance else self._room_beside(ways)
        assert max(now, found) <= bound, (profile, now, found, bound)
        return Room(max(now, found), bound)

    def _room_for_instances(self, ways: tuple[Piece, ...]) -> tuple[int, int]:
        gpus = self._gpus - _shared_gpus(self._tables, self._shared)
        bound = _bound_by_prices(
            self._tables.model, gpus, self._instances, ways[0].base, ways[0].most
        )
        if not self._is_shared_exact():
            return 0, bound
        packed = _pack(self._tables, gpus, self._instances, ways[0].base, bound)
        return sum(shape.fits(ways[0].base) * times for shape, times in packed.items()), bound

    def _room_beside(self, ways: tuple[Piece, ...]) -> tuple[int, int]:
        limit = self._gpus * max(way.most for way in ways)

        def most(gpus: int) -> int:
            def fits(more: int) -> bool:
                wanted = self._shared + Counter({ways[0].base: more})
                return _shared_gpus(self._tables, wanted) <= gpus

            return _largest(limit, fits) if fits(0) else 0

        bound = most(self._gpus - _instance_gpus(self._tables.model, self._instances))
        packed = _pack(self._tables, self._gpus, self._instances, "", 0)
        return (most(packed[self._tables.empty]) if self._is_shared_exact() else 0), bound

    def _is_shared_exact(self) -> bool:
        """Whether time-sliced profiles of mixed sizes fill slots without a gap: each size divides
        the next.
        """
        pieces = [_time_sliced(self._tables, base)[1] for base in self._shared]
        sizes = sorted({piece.slots for piece in pieces if piece is not None})
        return all(large % small == 0 for small, large in pairwise(sizes))


def fragmentation(solver: Solver, model: str, seats: Sequence[Seat]) -> float:
    """Of the placements that would be legal if a GPU's own vGPUs were seated anew, the part that
    is not legal as they sit: 0.0 to 1.0.

    Raises ``CorruptError`` if the seats are not legal.
    """
    now = solver.tables(model).of(seats).places
    best = max(now, _places_anew(solver, model, tuple(sorted(seat.profile for seat in seats))))
    return 1 - now / best if best else 0.0


@lru_cache(maxsize=SETS_KEPT)
def _places_anew(solver: Solver, model: str, profiles: tuple[str, ...]) -> int:
    """How many placements are legal beside these profiles, well seated; 0 if that is not known."""
    alone, gpu = Fleet(solver), GpuAt("", 0)
    alone.put(gpu, model)
    try:
        places = alone.choose_all(profiles, Policy.CONSOLIDATE, DeviceGroup.ONE_GPU)
    except UndecidedError:
        return 0
    for place in places or ():
        alone.take(place)
    return alone.shape(gpu).places if places is not None else 0


def _pack(
    tables: Tables, gpus: int, demand: Mapping[str, int], base: str, more: int
) -> Counter[Shape]:
    """GPUs by shape after MIG profiles were seated so that much room is left for ``base``, of which
    at most ``more`` fit; if it is empty, so that GPUs are left. No GPUs if not all found a place.

    Most of them sit as the program says that bounds what is possible, in whole GPUs; the others
    where they cost the least room.
    """
    left = Counter(demand)
    packed = Counter({tables.empty: gpus})
    for layout, times in _plan(tables.model, left + Counter({base: more} if more else {})):
        for _ in range(times):
            seats = _taken_from(layout, left)
            _move(packed, tables.empty, tables.of(seats))
    for name in sorted(left, key=tables.ranking.index):
        for _ in range(left[name]):
            cheapest = min(_offers(packed, name, base), default=None, key=itemgetter(0))
            if cheapest is None:
                return Counter()
            _move(packed, cheapest[1], cheapest[2].after)
    return packed


def _taken_from(layout: Layout, left: Counter[str]) -> list[Seat]:
    """Those of the layout's seats that are needed for what is left, which becomes less."""
    taken = []
    for seat in sorted(layout, key=lambda seat: seat.start):
        if left[seat.profile] > 0:
            left[seat.profile] -= 1
            taken.append(seat)
    return taken


def _offers(
    packed: Iterable[Shape], name: str, base: str
) -> Iterator[tuple[tuple[int, Rank], Shape, Choice]]:
    """Every place for one more, with the room for ``base`` that it costs, and its rank."""
    for shape in packed:
        for choice in shape.choices(name):
            lost = shape.fits(base) - choice.after.fits(base) if base else 0
            yield (lost, shape.rank(choice, Policy.CONSOLIDATE)), shape, choice


def _move(packed: Counter[Shape], before: Shape, after: Shape) -> None:
    packed[after] += 1
    packed[before] -= 1
    if packed[before] <= 0:
        del packed[before]


def _time_sliced(tables: Tables, base: str) -> tuple[Piece | None, Piece | None]:
    """How a profile sits among its like, and how among others; None where it does not."""
    ways = {way.mode: way for way in tables.ways(base)}
    return ways.get(GpuMode.EQUAL), ways.get(GpuMode.MIXED)


def _shared_gpus(tables: Tables, demand: Mapping[str, int]) -> int:
    """So many GPUs at least does a demand of time-sliced profiles need.

    Of each profile, as many GPUs as it fills or one more are its own; the others share slots. Fewer
    would be no better: those on one such GPU take at least a whole GPU's slots among others.
    """
    alone, slots, width = 0, 0, 1
    mixable: list[tuple[int, Piece, Piece]] = []
    for base, times in demand.items():
        equal, mixed = _time_sliced(tables, base)
        assert equal is not None
        if mixed is None:
            alone += -(-times // equal.most)
        elif equal.most > mixed.most:
            mixable.append((times, equal, mixed))
            width = mixed.width
        else:
            slots += times * mixed.slots
            width = mixed.width
    own = [(times // equal.most, -(-times // equal.most)) for times, equal, _ in mixable]
    needs = []
    for gpus in product(*own):
        beside = sum(
            max(times - count * equal.most, 0) * mixed.slots
            for count, (times, equal, mixed) in zip(gpus, mixable, strict=True)
        )
        needs.append(sum(gpus) + -(-(slots + beside) // width))
    return alone + min(needs)


def _instance_gpus(model: GpuModel, demand: Mapping[str, int]) -> int:
    """So many GPUs at least does a demand of MIG profiles need."""
    if not demand:
        return 0
    names, rows = _layouts(model)
    prices, whole = _prices(rows, [demand.get(name, 0) for name in names])
    return -(-_cost(names, prices, demand) // whole)


def _bound_by_prices(
    model: GpuModel, gpus: int, demand: Mapping[str, int], base: str, most: int
) -> int:
    """So many more of ``base`` fit at most beside the demand. Each round's prices bound it, and the
    next round's are those that are best there, until they bound it no further.
    """
    names, rows = _layouts(model)
    more = gpus * most
    while more > 0:
        wanted = Counter(demand) + Counter({base: more})
        prices, whole = _prices(rows, [wanted[name] for name in names])
        allowed = gpus * whole - _cost(names, prices, demand)
        price = prices[names.index(base)]
        if more * price <= allowed:
            return more
        more = min(more - 1, allowed // price)
    return 0


def _cost(names: Sequence[str], prices: Row, demand: Mapping[str, int]) -> int:
    return sum(price * demand.get(name, 0) for name, price in zip(names, prices, strict=True))


def _plan(model: GpuModel, demand: Mapping[str, int]) -> Iterator[tuple[Layout, int]]:
    """On how many whole GPUs each layout is used where the fewest hold the demand."""
    names, rows = _layouts(model)
    _, whole, uses = _solve(rows, [demand.get(name, 0) for name in names])
    by_row = _layout_of_each(model)
    for row, used in uses.items():
        yield by_row[rows[row]], used // whole


@lru_cache(maxsize=MODELS_KEPT)
def _layouts(model: GpuModel) -> tuple[tuple[str, ...], tuple[Row, ...]]:
    """The MIG profiles, and how many of each the layouts have to which nothing can be added."""
    rows = _layout_of_each(model)
    names = tuple(piece.base for piece in mig_pieces(model))
    return names, tuple(sorted(row for row in rows if not _is_less(row, rows)))


@lru_cache(maxsize=MODELS_KEPT)
def _layout_of_each(model: GpuModel) -> dict[Row, Layout]:
    """A layout for each combination of MIG profiles to which nothing can be added."""
    pieces = mig_pieces(model)
    compute_slices = model.mig.compute_slices if model.mig else 0
    found: dict[Row, Layout] = {}
    for layout in maximal(legal(pieces, compute_slices)):
        counts = Counter(seat.profile for seat in layout)
        found[tuple(counts[piece.base] for piece in pieces)] = layout
    return found


def _is_less(row: Row, rows: Iterable[Row]) -> bool:
    """Whether another row has as many of each and more of some."""
    return any(
        other != row and all(a <= b for a, b in zip(row, other, strict=True)) for other in rows
    )


def _prices(rows: Sequence[Row], demand: Sequence[int]) -> tuple[Row, int]:
    """Prices that make the demand as dear as can be while no row costs more than the whole.

    Returned as whole numbers, with what the whole is then.
    """
    prices, whole, _ = _solve(rows, demand)
    return prices, whole


def _solve(rows: Sequence[Row], demand: Sequence[int]) -> tuple[Row, int, dict[int, int]]:
    """The prices, the whole, and how often each row is used where the fewest cover the demand (the
    dual program), as parts of the whole.

    The simplex method in whole numbers: entries are minors of the program's matrix, and ``whole``
    is that of the basis. Bland's rule keeps it from going round.
    """
    table = [[*row, 1] for row in rows]
    table.append([*(-times for times in demand), 0])
    columns = list(range(len(demand)))
    basis = [len(demand) + index for index in range(len(rows))]
    whole = 1
    while entering := [at for at in range(len(columns)) if table[-1][at] < 0]:
        column = min(entering, key=columns.__getitem__)
        row = _leaving(table, basis, column)
        whole = _pivot(table, row, column, whole)
        basis[row], columns[column] = columns[column], basis[row]
    found = dict(zip(basis, (line[-1] for line in table), strict=False))
    prices = tuple(found.get(name, 0) for name in range(len(demand)))
    used = zip(columns, table[-1], strict=False)
    return prices, whole, {name - len(demand): use for name, use in used if name >= len(demand)}


def _leaving(table: list[list[int]], basis: list[int], column: int) -> int:
    """The row that bounds the column most; among equal ones that of the least variable."""
    best = -1
    for row in range(len(basis)):
        here = table[row]
        if here[column] <= 0:
            continue
        there = table[best]
        order = here[-1] * there[column] - there[-1] * here[column] if best >= 0 else -1
        if order < 0 or (order == 0 and basis[row] < basis[best]):
            best = row
    return best


def _pivot(table: list[list[int]], row: int, column: int, whole: int) -> int:
    """Exchange the row's variable for the column's; return the new whole."""
    pivot = table[row][column]
    chosen = table[row]
    for at, line in enumerate(table):
        if at != row:
            factor = line[column]
            line[:] = [(a * pivot - factor * b) // whole for a, b in zip(line, chosen, strict=True)]
            line[column] = -factor
    chosen[column] = whole
    return pivot


def _largest(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to ``limit`` that fits, if 0 does, and all below one that does."""
    low, high = 0, max(limit, 0)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
