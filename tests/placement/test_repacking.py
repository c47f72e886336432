"""How many more fit after a repacking, held against every packing there is; and what is checked."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import combinations_with_replacement

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from godwit.catalogue.loading import load
from godwit_protocol import ledger
from godwit_protocol.capacity import ProfileCapacity, capacities
from godwit_protocol.catalogue import GpuMode
from godwit_protocol.errors import CorruptError
from godwit_protocol.events.machine import GpuInventory
from godwit_protocol.events.reservation import Placement
from godwit_protocol.ledger import EntryKind, HostPicture, LedgerEntry
from godwit_protocol.placement.geometry import Seat
from godwit_protocol.placement.repacking import Pool, Room, fragmentation
from godwit_protocol.placement.shapes import Shape, solver

CATALOGUE = load()
SOLVER = solver(CATALOGUE)
H100, L40S, H200 = "H100-80GB", "L40S-48GB", "H200-141GB"
MIG = ("1g.10gb", "1g.10gb+me", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb")
L40S_ALL = tuple(f"L40S-{gib}C" for gib in (48, 24, 16, 12, 8, 6, 4))
Multiset = frozenset[tuple[str, int]]


@cache
def fillings(model: str, names: tuple[str, ...]) -> tuple[Counter[str], ...]:
    """Every combination of the profiles on one GPU to which nothing can be added, found by seating
    one vGPU after the other.
    """
    start: tuple[Shape, Multiset] = (SOLVER.tables(model).empty, frozenset())
    seen, todo, full = {start}, [start], set()
    while todo:
        shape, held = todo.pop()
        choices = [(name, choice) for name in names for choice in shape.choices(name)]
        if not choices:
            full.add(held)
        for name, choice in choices:
            after = (choice.after, frozenset((Counter(dict(held)) + Counter({name: 1})).items()))
            if after not in seen:
                seen.add(after)
                todo.append(after)
    return tuple(Counter(dict(held)) for held in full)


def most_by_force(
    model: str, names: tuple[str, ...], gpus: int, demand: Counter[str], wanted: str
) -> int:
    best = -1
    for chosen in combinations_with_replacement(fillings(model, names), gpus):
        held: Counter[str] = Counter()
        for filling in chosen:
            held.update(filling)
        if all(held[name] >= times for name, times in demand.items()):
            best = max(best, held[wanted] - demand[wanted])
    return best


def seated_at_random(
    data: st.DataObject, model: str, names: tuple[str, ...], gpus: int
) -> Counter[str]:
    held: Counter[str] = Counter()
    for _ in range(gpus):
        shape = SOLVER.tables(model).empty
        for name in data.draw(st.lists(st.sampled_from(names), max_size=4)):
            if choices := shape.choices(name):
                shape = data.draw(st.sampled_from(choices)).after
                held[name] += 1
    return held


@pytest.mark.parametrize(("model", "names", "gpus_max"), [(H100, MIG, 2), (L40S, L40S_ALL, 2)])
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_best_packing_lies_between_the_two_numbers(
    model: str, names: tuple[str, ...], gpus_max: int, data: st.DataObject
) -> None:
    gpus = data.draw(st.integers(1, gpus_max))
    demand = seated_at_random(data, model, names, gpus)
    wanted = data.draw(st.sampled_from(names))
    room = Pool(SOLVER, model, gpus, demand).room(wanted, 0)
    best = most_by_force(model, names, gpus, demand, wanted)
    assert room.at_least <= best <= room.at_most


@pytest.mark.parametrize(
    ("model", "gpus", "seated", "wanted", "room"),
    [
        (H100, 2, {"1g.20gb": 3}, "4g.40gb", Room(2, 2)),
        (H100, 2, {"1g.20gb": 3}, "7g.80gb", Room(1, 1)),
        (H100, 100, {}, "1g.10gb", Room(700, 700)),
        (H100, 100, {"1g.10gb": 100, "4g.40gb": 40}, "3g.40gb", Room(135, 135)),
        (H100, 10, {"H100XM-4C": 20, "1g.10gb": 7}, "H100XM-80C", Room(8, 8)),
        (H100, 10, {"H100XM-16C": 9}, "H100XM-16C", Room(41, 41)),
        (H200, 4, {"H200X-70C": 3, "H200X-35C": 1}, "H200X-141C", Room(1, 1)),
        (L40S, 3, {"L40S-16C": 3, "L40S-24C": 2}, "L40S-48C", Room(1, 1)),
        (L40S, 3, {}, "1g.10gb", Room(0, 0)),
    ],
)
def test_what_fits_after_a_repacking(
    model: str, gpus: int, seated: dict[str, int], wanted: str, room: Room
) -> None:
    assert Pool(SOLVER, model, gpus, seated).room(wanted, 0) == room


def test_a_gpu_is_fragmented_by_what_sits_badly() -> None:
    badly = [Seat("1g.10gb", GpuMode.MIG, 0, 1)]
    well = [Seat("1g.10gb", GpuMode.MIG, 6, 1)]
    assert fragmentation(SOLVER, H100, well) == 0.0
    assert 0.0 < fragmentation(SOLVER, H100, badly) < 1.0
    assert fragmentation(SOLVER, H100, []) == 0.0
    assert fragmentation(SOLVER, H100, [Seat("7g.80gb", GpuMode.MIG, 0, 8)]) == 0.0


# The cluster's capacity.


def picture(host: str, *models: str) -> HostPicture:
    gpus = tuple(
        GpuInventory(
            index=at,
            model=model,
            memory_bytes=CATALOGUE.model(model).memory_bytes,
            simulated=True,
        )
        for at, model in enumerate(models)
    )
    return HostPicture(host=host, announced=True, gpus=gpus)


def with_line(where: HostPicture, kind: EntryKind, name: str, *placed: Placement) -> HostPicture:
    entry = LedgerEntry(
        kind=kind, reservation=name, machine=name, host=where.host, placements=placed
    )
    return ledger.apply(where, entry, where.sequence + 1)


def asked(where: HostPicture, name: str, profile: str) -> HostPicture:
    size = CATALOGUE.profile(profile).framebuffer_bytes
    wanted = ledger.wanted((profile,), (size,), CATALOGUE)
    assert isinstance(wanted, tuple)
    decided = ledger.decide(where, where.host, wanted, CATALOGUE)
    if isinstance(decided, ledger.Refusal):
        return where
    return with_line(where, EntryKind.HELD, name, *decided)


PROFILES = st.sampled_from(
    [*MIG, "H100XM-20C", "H100XM-16C", "H100XM-4C", "H100XM-3-40C", "L40S-16C", "L40S-8C"]
)
STEPS = st.lists(st.tuples(st.integers(0, 2), PROFILES, st.sampled_from(["hold", "use", "free"])))


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_what_is_used_held_and_left_is_never_more_than_there_can_be(
    steps: list[tuple[int, str, str]],
) -> None:
    hosts = [picture("a", H100, H100), picture("b", H100, L40S), picture("c", "A100-80GB")]
    for number, (at, profile, then) in enumerate(steps):
        name = f"m{number}"
        hosts[at] = asked(hosts[at], name, profile)
        if name in hosts[at].holdings and then == "use":
            hosts[at] = with_line(hosts[at], EntryKind.CONFIRMED, name)
        if then == "free" and hosts[at].holdings:
            hosts[at] = with_line(hosts[at], EntryKind.RELEASED, next(iter(hosts[at].holdings)))
    found = {item.profile: item for item in capacities(hosts, CATALOGUE)}  # raises if it is more
    held = [item for host in hosts for item in host.holdings.values()]
    placed = [(item.confirmed, p.profile) for item in held for p in item.placements]
    for name, item in found.items():
        assert item.consumed == placed.count((True, name))
        assert item.reserved == placed.count((False, name))
        assert item.remaining <= item.repacked.at_least <= item.repacked.at_most
        assert item.repacked.at_most <= item.maximum - item.consumed - item.reserved


def test_a_ledger_that_books_more_than_there_can_be_is_not_believed() -> None:
    whole = Placement(gpu=0, profile="7g.80gb", framebuffer_bytes=1)
    twice = with_line(picture("a", H100), EntryKind.HELD, "one", whole)
    twice = with_line(twice, EntryKind.HELD, "two", whole)
    with pytest.raises(CorruptError, match=r"of 7g\.80gb, 0 are in use, 2 reserved"):
        capacities([twice], CATALOGUE, ["7g.80gb"])
    right = ProfileCapacity(
        profile="p", consumed=1, reserved=2, remaining=3, maximum=6, repacked=Room(3, 3)
    )
    assert right.checked() is right
    with pytest.raises(CorruptError, match="only 5"):
        replace(right, maximum=5).checked()


def test_a_gpu_on_which_nobody_knows_who_sits_where_takes_nothing_more() -> None:
    old = Placement(gpu=0, profile="1g.10gb", framebuffer_bytes=1)
    where = with_line(picture("a", H100, H100), EntryKind.HELD, "old", old)
    (found,) = capacities([where], CATALOGUE, ["1g.10gb"])
    assert (found.reserved, found.remaining, found.maximum) == (1, 7, 14)
    assert found.repacked == Room(7, 7)


def test_what_the_gpu_of_today_does_not_offer_is_counted_and_takes_no_room() -> None:
    """The host came back with another model in its place, or the catalogue was changed."""
    former = Placement(gpu=0, profile="L40S-4C", framebuffer_bytes=1)
    where = with_line(picture("a", H100, H100), EntryKind.HELD, "former", former)
    (found,) = capacities([where], CATALOGUE, ["1g.10gb"])
    assert found.remaining == 7
    assert found.repacked == Room(7, 7)


def test_a_model_that_the_catalogue_lacks_counts_nowhere() -> None:
    host = replace(
        picture("a", H100),
        gpus=(GpuInventory(index=0, model="H999", memory_bytes=1, simulated=True),),
    )
    assert capacities([host], CATALOGUE) == ()
