"""The counts that a right solver gives, and what it never does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from godwit_protocol.catalogue import Catalogue, GpuMode, GpuModel
from godwit_protocol.placement import layouts
from godwit_protocol.placement.geometry import Seat
from godwit_protocol.placement.layouts import Count
from godwit_protocol.placement.policy import Policy
from godwit_protocol.placement.shapes import Shape, Solver, Tables

MEDIA = "1g.10gb+me"


def test_an_h100s_layouts(h100: GpuModel) -> None:
    assert layouts.count(layouts.mig_pieces(h100, [MEDIA]), 7) == Count(
        placements=18,
        states=723,
        maximal=78,
        maximal_multisets=38,
        full=16,
        full_multisets=11,
    )


def test_an_h100s_layouts_without_double_memory(h100: GpuModel) -> None:
    found = layouts.count(layouts.mig_pieces(h100, [MEDIA, "1g.20gb"]), 7)
    assert (found.placements, found.states) == (14, 298)
    assert (found.maximal, found.maximal_multisets) == (19, 14)


@pytest.mark.parametrize("start", range(7))
def test_where_a_single_small_instance_goes(start: int, h100_tables: Tables) -> None:
    """Starts 0 to 3 lose 4g, 4 to 6 keep it, and 6 keeps the most."""
    seat = Seat("1g.10gb", GpuMode.MIG, start, 1)
    left = h100_tables.extend(h100_tables.empty, seat)
    best = h100_tables.extend(h100_tables.empty, Seat("1g.10gb", GpuMode.MIG, 6, 1))
    assert left.fits("4g.40gb") == (1 if start >= 4 else 0)
    assert left.places < best.places or start == 6
    chosen = h100_tables.empty.best("1g.10gb", Policy.CONSOLIDATE)
    assert chosen is not None
    assert chosen[1].start == 6


def test_the_tables_reach_exactly_the_legal_layouts(h100: GpuModel, h100_tables: Tables) -> None:
    """Two ways to the same thing: seats placed one by one, and every legal set counted."""
    every = set(layouts.legal(layouts.mig_pieces(h100), 7))
    names = [piece.base for piece in layouts.mig_pieces(h100)]
    reached: set[frozenset[Seat]] = set()
    todo: list[tuple[frozenset[Seat], Shape]] = [(frozenset(), h100_tables.empty)]
    while todo:
        seats, shape = todo.pop()
        if seats in reached:
            continue
        reached.add(seats)
        for name in names:
            for choice in shape.choices(name):
                todo.append((seats | {choice.piece.seat(name, choice.start)}, choice.after))
    assert reached == every


def test_at_most_one_instance_has_the_media_engines(h100_tables: Tables) -> None:
    seat = Seat(MEDIA, GpuMode.MIG, 6, 1)
    shape = h100_tables.extend(h100_tables.empty, seat)
    assert shape.choices(MEDIA) == ()
    assert shape.choices("H100XM-1-10CME") == ()
    assert shape.fits(MEDIA) == 0
    assert shape.fits("1g.10gb") == 6


def maxima(catalogue: Catalogue) -> Iterator[tuple[str, str, int, int]]:
    for model in catalogue.models.values():
        for item in model.time_sliced.profiles if model.time_sliced else ():
            yield model.model, item.name, item.equal_most, item.mixed_most


def test_as_many_fit_as_the_time_sliced_maxima_say(shipped: Catalogue, solving: Solver) -> None:
    for model, profile, equal_most, mixed_most in maxima(shipped):
        tables = solving.tables(model)
        for mode, most in ((GpuMode.EQUAL, equal_most), (GpuMode.MIXED, mixed_most)):
            shape, filled = tables.empty, 0
            while fitting := [c for c in shape.choices(profile) if c.piece.mode is mode]:
                shape, filled = fitting[0].after, filled + 1
            assert filled == most, (profile, mode)


def shapes_of(tables: Tables, names: list[str]) -> list[Shape]:
    seen, todo = {tables.empty}, [tables.empty]
    while todo:
        shape = todo.pop()
        for name in names:
            new = {choice.after for choice in shape.choices(name)} - seen
            seen |= new
            todo += new
    return list(seen)


@pytest.mark.parametrize("model", ["H100-80GB", "A100-40GB"])
def test_consolidation_never_strands_what_another_choice_would_have_kept(
    model: str, solving: Solver
) -> None:
    """Over every MIG shape of the GPU, every profile, and every other legal choice."""
    tables = solving.tables(model)
    names = [piece.base for piece in layouts.mig_pieces(tables.model)]
    decisions = 0
    for shape in shapes_of(tables, names):
        for name in names:
            best = shape.best(name, Policy.CONSOLIDATE)
            choices = shape.choices(name)
            assert (best is None) == (not choices)
            if best is not None and len(choices) > 1:
                decisions += 1
                kept = {other for other in names if best[1].after.fits(other)}
                for choice in choices:
                    assert {other for other in names if choice.after.fits(other)} <= kept
    assert decisions > 1000
