"""Choices among many GPUs, held against brute force."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from godwit.catalogue.loading import load
from godwit_protocol.catalogue import GpuMode
from godwit_protocol.errors import CorruptError, InvalidInputError
from godwit_protocol.placement.clearing import Occupant, clear
from godwit_protocol.placement.fleet import Fleet, GpuAt, Place
from godwit_protocol.placement.geometry import Seat, pieces
from godwit_protocol.placement.policy import DeviceGroup, Policy
from godwit_protocol.placement.shapes import Solver, solver

H100, L40S = "H100-80GB", "L40S-48GB"
CATALOGUE = load()
SOLVER = solver(CATALOGUE)
MIG = ["1g.10gb", "1g.10gb+me", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"]
SHARED = ["H100XM-80C", "H100XM-40C", "H100XM-20C", "H100XM-16C", "H100XM-10C", "H100XM-5C"]
PROFILE = st.sampled_from([*MIG, *SHARED, "H100XM-3-40C", "L40S-16C", "L40S-24C"])
POLICY = st.sampled_from(Policy)


def at(gpu: int, host: str = "host-1") -> GpuAt:
    return GpuAt(host, gpu)


def fleet_of(*models: str) -> Fleet:
    fleet = Fleet(SOLVER)
    for index, model in enumerate(models):
        fleet.put(at(index), model)
    return fleet


def seats(mode: GpuMode, *items: tuple[str, int, int]) -> list[Seat]:
    return [Seat(profile, mode, start, slots) for profile, start, slots in items]


def fits_by_force(model: str, taken: list[Seat], profile: str) -> bool:
    """From the catalogue's figures alone, not from the solver's tables."""
    ways = pieces(CATALOGUE.model(model))
    for way in ways.get(profile, ()):
        if any(seat.mode is not way.mode for seat in taken):
            continue
        bases = [next(w.base for w in ways[s.profile] if w.mode is s.mode) for s in taken]
        if way.mode is GpuMode.EQUAL and any(base != way.base for base in bases):
            continue
        if bases.count(way.base) >= way.most:
            continue
        for start in way.starts:
            slots = set(range(start, start + way.slots))
            if all(not slots & set(range(s.start, s.start + s.slots)) for s in taken):
                return True
    return False


@settings(max_examples=150)
@given(
    st.lists(st.sampled_from([H100, H100, L40S]), min_size=1, max_size=3),
    st.lists(st.tuples(PROFILE, POLICY, st.booleans()), max_size=25),
)
def test_nothing_overlaps_and_a_refusal_is_right(
    models: list[str], wanted: list[tuple[str, Policy, bool]]
) -> None:
    fleet = fleet_of(*models)
    held: dict[GpuAt, list[Seat]] = {at(index): [] for index in range(len(models))}
    for profile, policy, then_free in wanted:
        place = fleet.choose(profile, policy)
        possible = any(fits_by_force(models[gpu.gpu], held[gpu], profile) for gpu in held)
        assert (place is not None) == possible
        if place is None:
            continue
        fleet.take(place)
        held[place.gpu].append(place.seat)
        assert legal(models[place.gpu.gpu], held[place.gpu])
        if then_free:
            gone = held[place.gpu].pop(0)
            fleet.put(place.gpu, models[place.gpu.gpu], held[place.gpu])
            assert gone not in held[place.gpu]


def legal(model: str, taken: list[Seat]) -> bool:
    """No slot twice, one mode, one size if sizes are equal, within the GPU's memory."""
    slots = [slot for seat in taken for slot in range(seat.start, seat.start + seat.slots)]
    ways = pieces(CATALOGUE.model(model))
    used = sum(ways[seat.profile][0].framebuffer_bytes for seat in taken)
    return (
        len(slots) == len(set(slots))
        and len({seat.mode for seat in taken}) == 1
        and (taken[0].mode is not GpuMode.EQUAL or len({seat.profile for seat in taken}) == 1)
        and used <= CATALOGUE.model(model).memory_bytes
        and [seat.profile for seat in taken].count("1g.10gb+me") <= 1
    )


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.sampled_from(MIG), max_size=4), min_size=1, max_size=2),
    st.lists(st.sampled_from(MIG), min_size=1, max_size=4),
    st.sampled_from([DeviceGroup.NONE, DeviceGroup.ONE_GPU]),
)
def test_a_machines_vgpus_fit_exactly_if_they_do(
    before: list[list[str]], wanted: list[str], group: DeviceGroup
) -> None:
    fleet = fleet_of(*[H100] * len(before))
    held: list[list[Seat]] = [[] for _ in before]
    for index, names in enumerate(before):
        for name in names:
            choices = fleet.shape(at(index)).choices(name)
            if choices:
                seat = choices[0].piece.seat(name, choices[0].start)
                fleet.take(Place(at(index), seat))
                held[index].append(seat)
    places = fleet.choose_all(wanted, Policy.CONSOLIDATE, group)
    assert (places is not None) == any_assignment(held, wanted, group)
    if places is not None:
        assert [place.seat.profile for place in places] == wanted
        assert group is DeviceGroup.NONE or len({place.gpu for place in places}) == 1
        for place in places:
            fleet.take(place)  # raises if it overlaps
            held[place.gpu.gpu].append(place.seat)
            assert legal(H100, held[place.gpu.gpu])


def any_assignment(held: list[list[Seat]], wanted: list[str], group: DeviceGroup) -> bool:
    """Every GPU and every start for every vGPU."""
    ways = pieces(CATALOGUE.model(H100))
    options = [
        [(gpu, ways[name][0].seat(name, start)) for gpu in range(len(held))
         for start in ways[name][0].starts]
        for name in wanted
    ]  # fmt: skip
    for assignment in product(*options):
        if group is DeviceGroup.ONE_GPU and len({gpu for gpu, _ in assignment}) > 1:
            continue
        taken = [list(items) for items in held]
        for gpu, seat in assignment:
            taken[gpu].append(seat)
        if all(not items or legal(H100, items) for items in taken):
            return True
    return False


@given(st.lists(PROFILE, max_size=12), PROFILE)
def test_consolidation_gives_up_no_larger_profile_than_it_must(
    before: list[str], profile: str
) -> None:
    """Of the largest profile in which two choices differ, the one that is taken leaves more."""
    fleet = fleet_of(H100, H100, L40S)
    for name in before:
        if place := fleet.choose(name, Policy.CONSOLIDATE):
            fleet.take(place)
    chosen = fleet.choose(profile, Policy.CONSOLIDATE)
    left = remaining_after(fleet, chosen) if chosen else None
    for gpu in (at(0), at(1), at(2)):
        for choice in fleet.shape(gpu).choices(profile):
            other = Place(gpu, choice.piece.seat(profile, choice.start))
            assert left is not None
            assert left >= remaining_after(fleet, other)


def remaining_after(fleet: Fleet, place: Place) -> list[int]:
    shape = fleet.shape(place.gpu)
    after = SOLVER.tables(shape.model.model).extend(shape, place.seat)
    return [fleet.remaining(name) + after.fits(name) - shape.fits(name) for name in SOLVER.ranking]


def test_two_small_and_one_large_each_way_round() -> None:
    for order in (("1g.10gb", "1g.10gb", "3g.40gb"), ("3g.40gb", "1g.10gb", "1g.10gb")):
        fleet = fleet_of(H100)
        places = []
        for profile in order:
            place = fleet.choose(profile, Policy.CONSOLIDATE)
            assert place is not None
            fleet.take(place)
            places.append((profile, place.seat.start))
        expected = (
            [("1g.10gb", 6), ("1g.10gb", 4), ("3g.40gb", 0)]
            if order[0] == "1g.10gb"
            else [("3g.40gb", 4), ("1g.10gb", 0), ("1g.10gb", 1)]
        )
        assert places == expected
        assert fleet.choose("3g.40gb", Policy.CONSOLIDATE) is None


def test_what_would_have_to_move_is_the_least() -> None:
    occupants = [
        Occupant(who, seat)
        for who, seat in zip(
            ("large", "one", "two"),
            seats(GpuMode.MIG, ("3g.40gb", 4, 4), ("1g.10gb", 0, 1), ("1g.10gb", 1, 1)),
            strict=True,
        )
    ]
    found = clear(SOLVER, at(0), H100, occupants, "4g.40gb")
    assert found is not None
    assert [item.who for item in found.movers] == ["one", "two"]
    assert found.within == ()
    assert clear(SOLVER, at(0), H100, occupants, "2g.20gb") is None
    assert clear(SOLVER, at(0), H100, occupants, "L40S-8C") is None


def test_what_could_sit_elsewhere_on_the_same_gpu_is_said() -> None:
    occupants = [Occupant("badly placed", Seat("1g.10gb", GpuMode.MIG, 0, 1))]
    found = clear(SOLVER, at(0), H100, occupants, "4g.40gb")
    assert found is not None
    assert found.within == (Seat("1g.10gb", GpuMode.MIG, 6, 1),)


def test_a_limit_or_a_mode_is_in_the_way_too() -> None:
    media = [Occupant("media", Seat("1g.10gb+me", GpuMode.MIG, 6, 1))]
    found = clear(SOLVER, at(0), H100, media, "1g.10gb+me")
    assert found is not None
    assert found.movers == tuple(media)
    shared = [Occupant("shared", Seat("H100XM-5C", GpuMode.MIXED, 0, 1))]
    found = clear(SOLVER, at(0), H100, shared, "1g.10gb")
    assert found is not None
    assert found.movers == tuple(shared)


def test_the_mode_changes_only_while_a_gpu_is_empty() -> None:
    fleet = fleet_of(H100)
    place = fleet.choose("H100XM-20C", Policy.CONSOLIDATE)
    assert place is not None
    assert place.seat.mode is GpuMode.MIXED
    fleet.take(place)
    assert fleet.choose("1g.10gb", Policy.CONSOLIDATE) is None
    assert fleet.shape(at(0)).mode is GpuMode.MIXED
    fleet.put(at(0), H100)
    assert fleet.choose("1g.10gb", Policy.CONSOLIDATE) is not None


def test_policies_choose_differently() -> None:
    fleet = Fleet(SOLVER)
    fleet.put(at(0), H100, seats(GpuMode.MIXED, ("H100XM-20C", 0, 4)))
    fleet.put(at(1), H100, seats(GpuMode.MIXED, ("H100XM-10C", 0, 2)))
    fleet.put(at(2), "A100-80GB")
    fleet.put(at(3), H100)

    def chosen(profile: str, policy: Policy) -> int:
        place = fleet.choose(profile, policy)
        assert place is not None
        return place.gpu.gpu

    assert chosen("H100XM-10C", Policy.CONSOLIDATE) == 1
    assert chosen("H100XM-10C", Policy.SPREAD) == 3
    assert chosen("H100XM-10C", Policy.PERFORMANCE) == 3
    assert chosen("1g.10gb", Policy.PERFORMANCE) == 3, "16 multiprocessors there, 14 on an A100"


def test_device_groups() -> None:
    fleet = Fleet(SOLVER)
    for index, island in enumerate(("a", "a", "b", "b", "")):
        fleet.put(at(index), H100, island=island)
    fleet.take(Place(at(1), Seat("7g.80gb", GpuMode.MIG, 0, 8)))
    pair = ("H100XM-80C", "H100XM-80C")
    peers = fleet.choose_all(pair, Policy.CONSOLIDATE, DeviceGroup.NVLINK)
    assert peers is not None
    assert {place.gpu.gpu for place in peers} == {2, 3}
    assert fleet.choose_all((*pair, "1g.10gb"), Policy.CONSOLIDATE, DeviceGroup.NVLINK) is None
    assert fleet.choose_all(pair, Policy.CONSOLIDATE, DeviceGroup.ONE_GPU) is None
    halves = fleet.choose_all(("3g.40gb", "3g.40gb"), Policy.CONSOLIDATE, DeviceGroup.ONE_GPU)
    assert halves is not None
    assert len({place.gpu for place in halves}) == 1


def test_what_no_layout_has_is_refused() -> None:
    fleet = fleet_of(H100)
    with pytest.raises(CorruptError, match=r"2g\.20gb cannot sit at 6"):
        fleet.put(at(0), H100, seats(GpuMode.MIG, ("2g.20gb", 6, 2)))
    with pytest.raises(CorruptError):
        fleet.put(at(0), H100, seats(GpuMode.MIG, ("3g.40gb", 4, 4), ("1g.10gb", 5, 1)))
    with pytest.raises(InvalidInputError, match="H999"):
        fleet.put(at(1), "H999")


def test_the_ranking_holds_whatever_has_a_place_of_its_own(solving: Solver) -> None:
    assert solving.ranking[0] == "H200X-141C"
    assert solving.size_rank("H100XM-3-40C") == solving.size_rank("3g.40gb")
    assert solving.size_rank("4g.40gb") < solving.size_rank("3g.40gb")
