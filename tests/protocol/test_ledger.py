"""The ledger's fold and decisions, where a case says it more plainly than a property."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit_protocol import ledger
from godwit_protocol.errors import LocalProtocolError
from godwit_protocol.events.machine import GpuInventory
from godwit_protocol.events.migration import Placement, ReservationRefused
from godwit_protocol.ledger import EntryKind, HostPicture, LedgerEntry, ProfileWanted, RefusalCode
from godwit_protocol.roles import tracker
from godwit_protocol.roles.inputs import Tick

H100 = "H100-80GB"


def picture(*memory_bytes: int) -> HostPicture:
    gpus = tuple(
        GpuInventory(index=index, model=H100, memory_bytes=size, simulated=True)
        for index, size in enumerate(memory_bytes)
    )
    return HostPicture(host="host-1", announced=True, gpus=gpus)


def wanted(*sizes: int, models: tuple[str, ...] = (H100,)) -> tuple[ProfileWanted, ...]:
    return tuple(ProfileWanted(profile="p", models=models, framebuffer_bytes=s) for s in sizes)


def held(reservation: str, gpu: int, size: int) -> LedgerEntry:
    placement = Placement(gpu=gpu, profile="p", framebuffer_bytes=size)
    return LedgerEntry(
        kind=EntryKind.HELD,
        reservation=reservation,
        machine="m1",
        host="host-1",
        placements=(placement,),
    )


def test_the_fullest_gpu_that_has_room_is_taken() -> None:
    used = ledger.apply(picture(10, 10), held("r1", 1, 4), 1)
    decided = ledger.decide(used, "host-1", wanted(6, 10))
    assert isinstance(decided, tuple)
    assert [placement.gpu for placement in decided] == [1, 0]


@pytest.mark.parametrize(
    ("where", "sizes", "models", "code", "says"),
    [
        (None, (1,), (H100,), RefusalCode.HOST_UNKNOWN, "host-1 has not announced"),
        (HostPicture(host="host-1"), (1,), (H100,), RefusalCode.HOST_UNKNOWN, "host-1"),
        (picture(), (1,), (H100,), RefusalCode.NO_GPU, "no GPU"),
        (picture(10), (1,), ("L40S-48GB",), RefusalCode.MODEL_MISMATCH, "needs a L40S-48GB"),
        (picture(10), (11,), (H100,), RefusalCode.DOES_NOT_FIT, "at most 10 free"),
        (picture(10), (6, 5), (H100,), RefusalCode.DOES_NOT_FIT, "at most 4 free"),
    ],
)
def test_a_refusal_says_what_is_missing(
    where: HostPicture | None,
    sizes: tuple[int, ...],
    models: tuple[str, ...],
    code: RefusalCode,
    says: str,
) -> None:
    refused = ledger.decide(where, "host-1", wanted(*sizes, models=models))
    assert isinstance(refused, ledger.Refusal)
    assert refused.code is code
    assert says in refused.message


def test_a_machine_without_vgpus_fits_a_host_without_gpus() -> None:
    assert ledger.decide(picture(), "host-1", ()) == ()


def test_what_is_settled_is_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "SETTLED_MAX", 3)
    folded = picture(10)
    for number in range(5):
        name = f"r{number}"
        folded = ledger.apply(folded, held(name, 0, 1), 2 * number + 1)
        over = LedgerEntry(kind=EntryKind.RELEASED, reservation=name, machine="m1", host="host-1")
        folded = ledger.apply(folded, over, 2 * number + 2)
    assert list(folded.settled) == ["r2", "r3", "r4"]
    assert folded.holdings == {}


def test_a_full_queue_refuses_requests_but_forgets_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "WAITING_MAX", 1)
    state = tracker.TrackerState()
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


def test_another_roles_input_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="Tick"):
        tracker.step(tracker.TrackerState(), Tick())


@given(st.lists(st.integers(1, 12), max_size=6), st.lists(st.integers(1, 12), max_size=3))
def test_what_is_placed_has_room(memory: list[int], sizes: list[int]) -> None:
    decided = ledger.decide(picture(*memory), "host-1", wanted(*sizes))
    if isinstance(decided, ledger.Refusal):
        assert max(sizes) > max(memory, default=0) or sum(sizes) > min(memory) or len(sizes) > 1
        return
    used = [0] * len(memory)
    for placement in decided:
        used[placement.gpu] += placement.framebuffer_bytes
    assert all(taken <= size for taken, size in zip(used, memory, strict=True))
    assert [placement.framebuffer_bytes for placement in decided] == sizes
