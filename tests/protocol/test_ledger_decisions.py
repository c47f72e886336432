"""The ledger where a guard of it alone decides: what is refused, what is counted, what is said."""

from __future__ import annotations

import msgspec
import pytest
from test_ledger import CATALOGUE, H100, L40S, asked, held, linked, picture, refused, with_machine

from godwit_protocol import ledger
from godwit_protocol.errors import CorruptError
from godwit_protocol.events.reservation import Placement
from godwit_protocol.ledger import EntryKind, LedgerEntry, Refusal, RefusalCode
from godwit_protocol.placement.fleet import GpuAt
from godwit_protocol.placement.policy import DeviceGroup, Policy

NVLINK, ONE_GPU = DeviceGroup.NVLINK, DeviceGroup.ONE_GPU
REFUSAL = Refusal(code=RefusalCode.EXPIRED, message="no")
OLD = Placement(gpu=0, profile="1g.10gb", framebuffer_bytes=1)
"""From before places were exact."""


def line(kind: EntryKind, refusal: Refusal | None = None) -> LedgerEntry:
    return LedgerEntry(kind=kind, reservation="r-m1", machine="m1", host="host-1", refusal=refusal)


def message(where: ledger.HostPicture, *profiles: str, group: DeviceGroup) -> str:
    sizes = tuple(CATALOGUE.profile(name).framebuffer_bytes for name in profiles)
    vgpus = ledger.wanted(profiles, sizes, CATALOGUE)
    assert isinstance(vgpus, tuple)
    found = ledger.decide(where, "host-1", vgpus, CATALOGUE, group=group)
    assert isinstance(found, Refusal)
    return found.message


def test_what_is_free_is_counted_for_each_gpu() -> None:
    where = with_machine(picture(L40S, H100), "m1", "1g.10gb")
    small, large = (CATALOGUE.model(name).memory_bytes for name in (L40S, H100))
    assert small != large
    assert where.free_bytes(0) == small
    assert where.free_bytes(1) == large - CATALOGUE.profile("1g.10gb").framebuffer_bytes


def test_a_start_needs_the_whole_margin_before_its_reservation_expires() -> None:
    now_ns = 1000
    assert ledger.may_start(now_ns + ledger.START_MARGIN_NS, now_ns)
    assert not ledger.may_start(now_ns + ledger.START_MARGIN_NS - 1, now_ns)
    assert ledger.may_start(0, now_ns), "it never expires"


@pytest.mark.parametrize("kind", EntryKind)
def test_a_line_has_a_refusal_if_it_ends_with_one_and_else_none(kind: EntryKind) -> None:
    has_one = kind in (EntryKind.REFUSED, EntryKind.EXPIRED)
    right, wrong = (REFUSAL, None) if has_one else (None, REFUSAL)
    assert ledger.decode_entry(ledger.encode_entry(line(kind, right))) == line(kind, right)
    with pytest.raises(CorruptError, match="r-m1 has a refusal or lacks one"):
        ledger.decode_entry(ledger.encode_entry(line(kind, wrong)))


def test_a_line_that_says_that_a_used_reservation_expired_ends_nothing() -> None:
    """It was written on a clock that went wrong, or before the machine was known to run."""
    where = ledger.apply(with_machine(picture(H100), "m1", "1g.10gb"), line(EntryKind.CONFIRMED), 2)
    after = ledger.apply(where, line(EntryKind.EXPIRED, REFUSAL), 3)
    assert after == msgspec.structs.replace(where, sequence=3)


@pytest.mark.parametrize(
    ("profiles", "sizes", "code"),
    [
        (("1g.10gb",), (1, 1), RefusalCode.INVALID_REQUEST),
        (("9g.90gb",), (1,), RefusalCode.PROFILE_UNKNOWN),
        (("1g.10gb",), (2**40,), RefusalCode.PROFILE_TOO_SMALL),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    profiles: tuple[str, ...], sizes: tuple[int, ...], code: RefusalCode
) -> None:
    found = ledger.wanted(profiles, sizes, CATALOGUE)
    assert isinstance(found, Refusal)
    assert found.code is code


def test_one_vgpu_alone_is_any_group() -> None:
    assert asked(picture(H100), "1g.10gb", policy=Policy.SPREAD, group=NVLINK) == [0]


def test_what_fits_nowhere_is_not_refused_for_its_group() -> None:
    full = with_machine(picture(H100), "m1", "7g.80gb")
    for group in (ONE_GPU, NVLINK):
        found = asked(full, "1g.10gb", "1g.10gb", policy=Policy.CONSOLIDATE, group=group)
        assert found is RefusalCode.DOES_NOT_FIT


def test_gpus_without_nvlink_are_no_group_of_each_other() -> None:
    pair = ("7g.80gb", "7g.80gb")
    found = asked(picture(H100, H100), *pair, policy=Policy.CONSOLIDATE, group=NVLINK)
    assert found is RefusalCode.NO_DEVICE_GROUP


def test_gpus_of_two_hosts_are_no_group() -> None:
    """Each host numbers its GPUs from 0, and so do its NVLink groups."""
    here = linked(picture(H100, H100), (0, 1))
    there = msgspec.structs.replace(here, host="host-2")
    fleet = ledger.index((here, there), CATALOGUE)
    assert fleet.choose_all(["7g.80gb"] * 2, Policy.CONSOLIDATE, NVLINK)
    assert fleet.choose_all(["7g.80gb"] * 4, Policy.CONSOLIDATE)
    assert fleet.choose_all(["7g.80gb"] * 3, Policy.CONSOLIDATE, NVLINK) is None


def test_a_gpu_that_nobody_knows_takes_nothing() -> None:
    where = picture("H999", H100)
    assert asked(where, "1g.10gb", policy=Policy.CONSOLIDATE) == [1]
    fleet = ledger.index((where,), CATALOGUE)
    assert not fleet.knows(GpuAt("host-1", 0))
    assert fleet.knows(GpuAt("host-1", 1))


def test_a_refusal_of_a_group_says_which_groups_there_are() -> None:
    pair = ("7g.80gb", "7g.80gb")
    would = "7g.80gb and 7g.80gb would fit on host host-1, but not"
    near = f"{would} each on a GPU of one NVLink group; its NVLink groups:"
    where = picture(H100, H100, H100)
    assert message(where, *pair, group=ONE_GPU) == f"{would} on one GPU"
    assert message(where, *pair, group=NVLINK) == f"{near} none"
    split = with_machine(linked(where, (0, 1)), "m1", "7g.80gb")
    assert message(split, *pair, group=NVLINK) == f"{near} 0,1"


def test_a_refusal_names_no_gpu_of_which_nothing_is_known() -> None:
    unknown = ledger.apply(picture(H100), held("old", OLD), 1)
    assert refused(unknown, "1g.10gb").message == "1g.10gb has no place on host host-1"
    beside = ledger.apply(picture(H100, H100), held("old", OLD), 1)
    said = refused(with_machine(beside, "whole", "7g.80gb"), "1g.10gb").message
    assert said.endswith("on GPU 1, 7g.80gb of whole (from slot 0) would have to move")


def test_a_refusal_names_no_gpu_of_a_model_that_lacks_the_profile() -> None:
    full = with_machine(picture(L40S, H100), "whole", "7g.80gb")
    said = refused(with_machine(full, "other", "L40S-8C"), "1g.10gb").message
    assert said.endswith("on GPU 1, 7g.80gb of whole (from slot 0) would have to move")
