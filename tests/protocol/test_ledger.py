"""The ledger's fold and decisions, where a case says it more plainly than a property."""

from __future__ import annotations

import time

import pytest
from msgspec.structs import replace

from godwit.catalogue.loading import load
from godwit_protocol import ledger, subjects
from godwit_protocol.catalogue import GpuMode
from godwit_protocol.errors import CorruptError, LocalProtocolError
from godwit_protocol.events.machine import GpuInventory
from godwit_protocol.events.reservation import Placement, ReservationRefused
from godwit_protocol.ledger import EntryKind, HostPicture, LedgerEntry, ProfileWanted, RefusalCode
from godwit_protocol.placement.policy import DeviceGroup, Policy
from godwit_protocol.roles import tracker
from godwit_protocol.roles.inputs import Tick
from godwit_protocol.stored import Stored

H100, L40S = "H100-80GB", "L40S-48GB"
CATALOGUE = load()


def picture(*models: str) -> HostPicture:
    gpus = tuple(
        GpuInventory(
            index=index,
            model=model,
            memory_bytes=CATALOGUE.model(model).memory_bytes if model in CATALOGUE.models else 1,
            simulated=True,
        )
        for index, model in enumerate(models)
    )
    return HostPicture(host="host-1", announced=True, gpus=gpus)


def wanted(*profiles: str) -> tuple[ProfileWanted, ...]:
    sizes = tuple(CATALOGUE.profile(name).framebuffer_bytes for name in profiles)
    found = ledger.wanted(profiles, sizes, CATALOGUE)
    assert isinstance(found, tuple)
    return found


def decided(where: HostPicture, *profiles: str) -> tuple[Placement, ...]:
    found = ledger.decide(where, "host-1", wanted(*profiles), CATALOGUE)
    assert isinstance(found, tuple), found
    return found


def refused(where: HostPicture | None, *profiles: str) -> ledger.Refusal:
    found = ledger.decide(where, "host-1", wanted(*profiles), CATALOGUE)
    assert isinstance(found, ledger.Refusal), found
    return found


def held(machine: str, *placements: Placement) -> LedgerEntry:
    return LedgerEntry(
        kind=EntryKind.HELD,
        reservation=f"r-{machine}",
        machine=machine,
        host="host-1",
        placements=placements,
    )


def asked(
    where: HostPicture, *profiles: str, policy: Policy, group: DeviceGroup = DeviceGroup.NONE
) -> list[int] | RefusalCode:
    """The GPUs that a request gets, or why it gets none."""
    found = ledger.decide(where, "host-1", wanted(*profiles), CATALOGUE, policy=policy, group=group)
    return found.code if isinstance(found, ledger.Refusal) else [placed.gpu for placed in found]


def with_machine(where: HostPicture, machine: str, *profiles: str) -> HostPicture:
    entry = held(machine, *decided(where, *profiles))
    return ledger.apply(where, entry, where.sequence + 1)


def starts(where: HostPicture) -> dict[str, list[int]]:
    return {
        holding.machine: [placed.start for placed in holding.placements]
        for holding in where.holdings.values()
    }


def test_the_fullest_gpu_that_has_room_is_taken() -> None:
    used = with_machine(picture(H100, H100), "m1", "3g.40gb")
    first, second = decided(used, "4g.40gb", "7g.80gb")
    assert (first.gpu, first.mode, first.start, first.slots) == (0, GpuMode.MIG, 0, 4)
    assert (second.gpu, second.start, second.slots) == (1, 0, 8)


@pytest.mark.parametrize(
    ("where", "profiles", "code", "says"),
    [
        (None, ("1g.10gb",), RefusalCode.HOST_UNKNOWN, "host-1 has not announced"),
        (HostPicture(host="host-1"), ("1g.10gb",), RefusalCode.HOST_UNKNOWN, "host-1"),
        (picture(), ("1g.10gb",), RefusalCode.NO_GPU, "no GPU"),
        (picture(L40S), ("1g.10gb",), RefusalCode.MODEL_MISMATCH, "host-1 has L40S-48GB"),
        (picture("H999"), ("1g.10gb",), RefusalCode.MODEL_MISMATCH, "host-1 has H999"),
        (picture(H100), ("4g.40gb", "4g.40gb"), RefusalCode.DOES_NOT_FIT, "machine itself"),
        (picture(H100), ("1g.10gb+me",) * 2, RefusalCode.DOES_NOT_FIT, "1g.10gb+me has no place"),
        (picture(H100), ("1g.10gb", "H100XM-4C"), RefusalCode.DOES_NOT_FIT, "H100XM-4C has no"),
    ],
)
def test_a_refusal_says_what_is_missing(
    where: HostPicture | None, profiles: tuple[str, ...], code: RefusalCode, says: str
) -> None:
    refusal = refused(where, *profiles)
    assert refusal.code is code
    assert says in refusal.message


def linked(where: HostPicture, *islands: tuple[int, ...]) -> HostPicture:
    gpus = tuple(
        replace(gpu, nvlink_peers=tuple(i for i in island if i != gpu.index))
        for gpu in where.gpus
        for island in ((*(i for i in islands if gpu.index in i), ())[0],)
    )
    return replace(where, gpus=gpus)


def test_the_policy_of_a_request_is_followed() -> None:
    used = with_machine(picture(H100, H100), "m1", "1g.10gb")
    assert asked(used, "1g.10gb", policy=Policy.CONSOLIDATE) == [0]
    assert asked(used, "1g.10gb", policy=Policy.SPREAD) == [1]
    slower = with_machine(picture("A100-80GB", H100), "m1", "1g.10gb")
    assert asked(slower, "1g.10gb", policy=Policy.CONSOLIDATE) == [0]
    assert asked(slower, "1g.10gb", policy=Policy.PERFORMANCE) == [1]


def test_a_group_on_one_gpu_goes_where_its_first_best_goes() -> None:
    used = with_machine(picture(H100, H100), "m1", "1g.10gb")
    pair = ("1g.10gb", "1g.10gb")
    one = DeviceGroup.ONE_GPU
    assert asked(used, *pair, policy=Policy.CONSOLIDATE, group=one) == [0, 0]
    assert asked(used, *pair, policy=Policy.SPREAD, group=one) == [1, 1]
    both = with_machine(with_machine(picture(H100, H100), "m1", "4g.40gb"), "m2", "4g.40gb")
    halves = ("3g.40gb", "3g.40gb")
    assert asked(both, *halves, policy=Policy.CONSOLIDATE) == [0, 1]
    refused = asked(both, *halves, policy=Policy.CONSOLIDATE, group=one)
    assert refused is RefusalCode.NO_DEVICE_GROUP


def test_a_group_on_nvlink_has_a_gpu_for_each() -> None:
    where = linked(picture(H100, H100, H100, H100), (0, 1), (2, 3))
    used = with_machine(where, "m1", "7g.80gb")
    whole = ("H100XM-80C", "H100XM-80C")
    group = DeviceGroup.NVLINK
    assert asked(used, *whole, policy=Policy.CONSOLIDATE, group=group) == [2, 3]
    assert asked(used, *whole, policy=Policy.CONSOLIDATE) == [1, 2]
    full = with_machine(with_machine(where, "m1", "7g.80gb"), "m2", *whole)
    assert asked(full, "7g.80gb", policy=Policy.CONSOLIDATE, group=group) == [3]
    split = with_machine(linked(picture(H100, H100, H100), (0, 1)), "m1", "7g.80gb")
    assert asked(split, *whole, policy=Policy.CONSOLIDATE, group=group) == (
        RefusalCode.NO_DEVICE_GROUP
    )


def test_a_ring_counts_as_no_group() -> None:
    """Each GPU has two of three others as peers: what is not known to be right is refused."""
    ring = replace(
        picture(H100, H100, H100, H100),
        gpus=tuple(
            replace(gpu, nvlink_peers=((gpu.index + 1) % 4, (gpu.index - 1) % 4))
            for gpu in picture(H100, H100, H100, H100).gpus
        ),
    )
    pair = ("7g.80gb", "7g.80gb")
    found = asked(ring, *pair, policy=Policy.CONSOLIDATE, group=DeviceGroup.NVLINK)
    assert found is RefusalCode.NO_DEVICE_GROUP


def test_a_fourth_that_does_not_fit_is_told_what_would_have_to_move() -> None:
    """Two machines with 1g.10gb and one with 3g.40gb, each way round."""
    small_first = with_machine(picture(H100), "one", "1g.10gb")
    small_first = with_machine(with_machine(small_first, "two", "1g.10gb"), "large", "3g.40gb")
    assert starts(small_first) == {"one": [6], "two": [4], "large": [0]}
    assert refused(small_first, "4g.40gb").message == (
        "4g.40gb has no place on host host-1; on GPU 0, 3g.40gb of large (from slot 0)"
        " would have to move"
    )
    large_first = with_machine(picture(H100), "large", "3g.40gb")
    large_first = with_machine(with_machine(large_first, "one", "1g.10gb"), "two", "1g.10gb")
    assert starts(large_first) == {"large": [4], "one": [0], "two": [1]}
    assert refused(large_first, "4g.40gb").message == (
        "4g.40gb has no place on host host-1; on GPU 0, 1g.10gb of one (from slot 0)"
        " and 1g.10gb of two (from slot 1) would have to move"
    )


def test_what_another_slot_of_the_same_gpu_would_do_for_is_said() -> None:
    """A reservation may have been released, and left another badly placed."""
    placed = Placement(
        gpu=0, profile="1g.10gb", framebuffer_bytes=1, mode=GpuMode.MIG, start=0, slots=1
    )
    left = ledger.apply(picture(H100), held("one", placed), 1)
    assert refused(left, "4g.40gb").message.endswith(
        "1g.10gb of one (from slot 0) would have to move, for which slot 6 of the same GPU would do"
    )


def test_nothing_is_placed_beside_what_sits_nobody_knows_where() -> None:
    """A line from before places were exact."""
    old = Placement(gpu=0, profile="1g.10gb", framebuffer_bytes=1)
    where = ledger.apply(picture(H100, H100), held("old", old), 1)
    assert [placed.gpu for placed in decided(where, "1g.10gb")] == [1]
    where = with_machine(where, "whole", "7g.80gb")
    assert refused(where, "1g.10gb").code is RefusalCode.DOES_NOT_FIT


def test_a_machine_without_vgpus_fits_a_host_without_gpus() -> None:
    assert ledger.decide(picture(), "host-1", (), CATALOGUE) == ()


def test_what_is_settled_is_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "SETTLED_MAX", 3)
    folded = picture(H100)
    for number in range(5):
        name = f"r-m{number}"
        folded = ledger.apply(folded, held(f"m{number}"), 2 * number + 1)
        over = LedgerEntry(kind=EntryKind.RELEASED, reservation=name, machine="m1", host="host-1")
        folded = ledger.apply(folded, over, 2 * number + 2)
    assert list(folded.settled) == ["r-m2", "r-m3", "r-m4"]
    assert folded.holdings == {}


def test_a_long_ledger_folds_fast() -> None:
    """A millisecond and more a line, as it once was, would make a start of minutes."""
    folded = picture(H100)
    settled = dict.fromkeys(map(str, range(ledger.SETTLED_MAX)))
    folded = replace(folded, settled=settled)
    began_s = time.process_time()
    for number in range(2_000):
        over = LedgerEntry(
            kind=EntryKind.RELEASED, reservation=f"r-{number}", machine="m", host="host-1"
        )
        folded = ledger.apply(folded, over, number)
    assert time.process_time() - began_s < 1.5
    assert len(folded.settled) == ledger.SETTLED_MAX


def test_a_full_queue_refuses_requests_but_forgets_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "WAITING_MAX", 1)
    state = tracker.TrackerState(catalogue=CATALOGUE)
    first = tracker.ReservationWanted(reservation="r1", machine="m1", host="h", vgpus=())
    state, _ = tracker.step(state, first)
    second = tracker.ReservationWanted(reservation="r2", machine="m2", host="h", vgpus=())
    state, effects = tracker.step(state, second)
    assert len(effects) == 1
    assert isinstance(effects[0], tracker.Answer)
    refused = effects[0].append.event
    assert isinstance(refused, ReservationRefused)
    assert refused.code == RefusalCode.TOO_MANY_WAITING
    state, _ = tracker.step(state, tracker.ReservationOver(reservation="r1", why="over"))
    assert [item.reservation for item in state.waiting["h"]] == ["r1", "r1"]


def test_whoever_loses_a_write_stands_aside_until_the_next_retry() -> None:
    state = tracker.TrackerState(catalogue=CATALOGUE, hosts={"h": picture()})
    first = tracker.ReservationWanted(reservation="r1", machine="m1", host="h", vgpus=())
    state, effects = tracker.step(state, first)
    assert isinstance(effects[0], tracker.WriteLedger)
    state, effects = tracker.step(state, tracker.LedgerRefused(host="h"))
    second = tracker.ReservationWanted(reservation="r2", machine="m2", host="h", vgpus=())
    state, more = tracker.step(state, second)
    assert effects == more == ()
    state, effects = tracker.retry(state)
    assert [type(effect) for effect in effects] == [tracker.WriteLedger]


def test_another_roles_input_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="Tick"):
        tracker.step(tracker.TrackerState(catalogue=CATALOGUE), Tick())


def test_a_line_stands_in_the_ledger_of_its_own_host_or_in_none() -> None:
    over = LedgerEntry(kind=EntryKind.RELEASED, reservation="r", machine="m1", host="host-1")
    data = ledger.encode_entry(over)
    own, another = (Stored(subjects.ledger(host), 1, 0, data, {}) for host in ("host-1", "host-2"))
    assert ledger.line_of(own) == over
    with pytest.raises(CorruptError, match="a line of host host-1 stands in another's"):
        ledger.line_of(another)
