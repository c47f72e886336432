"""Every check of a move: what goes together, what does not, and what nobody knows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec.structs import replace

from godwit.catalogue.loading import load
from godwit_protocol.catalogue import GpuMode
from godwit_protocol.compatibility import gpu_checks, host_checks
from godwit_protocol.compatibility.case import Case, Side
from godwit_protocol.compatibility.judging import Judgement, judge
from godwit_protocol.compatibility.verdict import Check, Status, Verdict
from godwit_protocol.events.machine import GpuInventory, HostAnnounced
from godwit_protocol.events.reservation import Placement
from godwit_protocol.facts import (
    Compatibility,
    GpuFacts,
    HostFacts,
    Limit,
    NvmlVerdict,
    Setting,
    VersionRange,
)
from godwit_protocol.ledger import EntryKind, HostPicture, LedgerEntry, apply
from godwit_protocol.link_probe import LinkFound, LinkUnknown
from godwit_protocol.machine import HypervisorKind, MachineSpec, VGpuSpec

CATALOGUE = load()
PROFILE = "3g.40gb"
SIZE = CATALOGUE.profiles[PROFILE].framebuffer_bytes
METADATA = b"what NVML says of the destination's GPU"
OK, REFUSED, UNKNOWN = Status.OK, Status.REFUSED, Status.UNKNOWN

FACTS = GpuFacts(
    uuid="GPU-1",
    pci_address="00000000:3b:00.0",
    board="NVIDIA H100 80GB HBM3",
    ecc=Setting.ON,
    mig=Setting.ON,
    vgpu_versions=VersionRange(5, 9),
    unified_memory=Setting.OFF,
    debugger=Setting.OFF,
    profiler=Setting.OFF,
    nvlink=Setting.OFF,
    metadata=METADATA,
)
GPU = GpuInventory(
    index=0, model="H100-80GB", memory_bytes=80 * 2**30, simulated=False, facts=FACTS
)
LIVE = NvmlVerdict(
    gpu=0,
    vgpu_type=PROFILE,
    metadata_digest=hashlib.sha256(METADATA).digest(),
    states=Compatibility.COLD | Compatibility.LIVE,
    limits=0,
)
HOST_FACTS = HostFacts(
    free_memory_bytes=2**34,
    kernel_features=host_checks.NEEDED_FEATURES[HypervisorKind.NATIVE],
    hypervisor_versions={HypervisorKind.NATIVE: "1.4.0"},
    link_address="10.0.0.2",
    link_version=1,
    driver="570.124.06",
    nvml_verdicts=(LIVE,),
)
REACHED = LinkFound(
    ask="a",
    source="host-1",
    destination="host-2",
    address="10.0.0.2",
    port=4711,
    wall_ns=1,
    own_version=1,
    answered_by="host-2",
    version=1,
    answer_ns=400_000,
)
SEAT = Placement(gpu=0, profile=PROFILE, framebuffer_bytes=SIZE, mode=GpuMode.MIG, start=0, slots=4)


@dataclass
class Half:
    """One host, and what is special about it."""

    gpu: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    host: dict[str, Any] = field(default_factory=dict)
    said: dict[str, Any] = field(default_factory=dict)
    boot: str = ""
    gpus: int = 1

    def side(self, name: str) -> Side:
        gpus = tuple(
            replace(GPU, index=index, facts=replace(FACTS, **self.facts), **self.gpu)
            for index in range(self.gpus)
        )
        said = {
            "hypervisors": (HypervisorKind.NATIVE,),
            "missing": (),
            "memory_bytes": 2**35,
            "kernel": "6.8",
            "gpus": gpus,
            "facts": replace(HOST_FACTS, **self.host),
            **self.said,
        }
        return Side(host=name, announced=HostAnnounced(**said), boot=self.boot or name)


def case(
    source: Half | None = None,
    destination: Half | None = None,
    *,
    profiles: tuple[str, ...] = (PROFILE,),
    seats: tuple[Placement, ...] | None = (SEAT,),
    ram_bytes: int = 2**30,
    link: LinkFound | LinkUnknown | None = None,
) -> Case:
    here, there = (source or Half()).side("host-1"), (destination or Half()).side("host-2")
    sizes = [CATALOGUE.profiles[name].framebuffer_bytes for name in profiles]
    vgpus = tuple(VGpuSpec(name, size) for name, size in zip(profiles, sizes, strict=True))
    assert there.announced is not None
    return Case(
        spec=MachineSpec(name="m", guest="a:B", ram_bytes=ram_bytes, vgpus=vgpus),
        source=here,
        destination=there,
        seats=seats,
        there=HostPicture(host="host-2", announced=True, gpus=there.announced.gpus),
        catalogue=CATALOGUE,
        link=link or REACHED,
    )


def only(judgement: Judgement, check: Check) -> Verdict:
    (found,) = [verdict for verdict in judgement.verdicts if verdict.check is check]
    return found


def test_two_hosts_that_are_alike_in_all_go_together() -> None:
    judged = judge(case())
    assert judged.refusals == ()
    assert judged.gpus == (0,)
    single = set(Check) - {Check.NVLINK_GROUP}
    assert [verdict.check for verdict in judged.verdicts] == [c for c in Check if c in single]


Case_ = tuple[Check, Status, Half, Half, str]
OLD = Half(said={"facts": None})
TABLE: list[Case_] = [
    (Check.GPU_BOARD, REFUSED, Half(), Half(facts={"board": "NVIDIA H200"}), "a NVIDIA H200"),
    (Check.GPU_BOARD, REFUSED, Half(), Half(gpu={"simulated": True}), "simulated, the other"),
    (Check.GPU_BOARD, UNKNOWN, Half(facts={"board": ""}), Half(), "the board of GPU 0 of host-1"),
    (Check.GPU_MEMORY, REFUSED, Half(), Half(gpu={"memory_bytes": 94 * 2**30}), "96256 MiB"),
    (Check.GPU_MEMORY, UNKNOWN, Half(), Half(gpu={"memory_bytes": 0}), "the memory of GPU 0"),
    (Check.GPU_DIVISION, REFUSED, Half(), Half(facts={"mig": Setting.OFF}), "MIG mode is off"),
    (Check.GPU_DIVISION, UNKNOWN, Half(), Half(facts={"mig": Setting.UNKNOWN}), "MIG mode of GPU"),
    (Check.ECC_MODE, REFUSED, Half(), Half(facts={"ecc": Setting.OFF}), "has ECC on, GPU 0 of"),
    (Check.ECC_MODE, UNKNOWN, Half(facts={"ecc": Setting.UNKNOWN}), Half(), "of GPU 0 of host-1"),
    (Check.DRIVER, REFUSED, Half(host={"driver": "535.1"}), Half(), "535.1 on host-1, 570.124.06"),
    (Check.DRIVER, UNKNOWN, Half(), Half(host={"driver": ""}), "driver of host-2 is unknown"),
    (Check.VGPU_MANAGER, REFUSED, Half(), Half(facts={"vgpu_versions": VersionRange(10, 12)}),
     "5 to 9, GPU 0 of host-2 10 to 12"),
    (Check.VGPU_MANAGER, UNKNOWN, Half(), Half(facts={"vgpu_versions": None}), "manager's version"),
    (Check.UNIFIED_MEMORY, REFUSED, Half(facts={"unified_memory": Setting.ON}), Half(),
     "has unified memory on"),
    (Check.UNIFIED_MEMORY, UNKNOWN, Half(facts={"unified_memory": Setting.UNKNOWN}), Half(),
     "whether unified memory is on"),
    (Check.DEBUGGER_OR_PROFILER, REFUSED, Half(facts={"debugger": Setting.ON}), Half(),
     "a debugger on"),
    (Check.DEBUGGER_OR_PROFILER, REFUSED, Half(facts={"profiler": Setting.ON}), Half(),
     "a profiler on"),
    (Check.DEBUGGER_OR_PROFILER, UNKNOWN, Half(facts={"profiler": Setting.UNKNOWN}), Half(),
     "whether a profiler is on"),
    (Check.NVML_VERDICT, REFUSED,
     Half(host={"nvml_verdicts": (replace(LIVE, states=Compatibility.SLEEP),)}),
     Half(), "states sleep, limits none"),
    (Check.NVML_VERDICT, REFUSED,
     Half(host={"nvml_verdicts": (replace(LIVE, limits=Limit.HOST_DRIVER | Limit.GPU),)}),
     Half(), "limits host_driver and gpu"),
    (Check.NVML_VERDICT, UNKNOWN, Half(host={"nvml_verdicts": ()}), Half(), "has not judged"),
    (Check.NVML_VERDICT, UNKNOWN, Half(), Half(facts={"metadata": b"another"}), "has not judged"),
    (Check.HYPERVISOR, REFUSED, Half(),
     Half(said={"hypervisors": (), "missing": ("No userfaultfd.",)}), "host-2 runs none"),
    (Check.HYPERVISOR_VERSION, REFUSED, Half(),
     Half(host={"hypervisor_versions": {"native": "1.3"}}), "1.4.0 on host-1, 1.3 on host-2"),
    (Check.HYPERVISOR_VERSION, UNKNOWN, Half(), Half(host={"hypervisor_versions": {}}),
     "native on host-2"),
    (Check.HYPERVISOR_VERSION, UNKNOWN, Half(), Half(host={"hypervisor_versions": {"native": "x"}}),
     "which of them is newer"),
    (Check.HYPERVISOR_VERSION, UNKNOWN, Half(),
     Half(host={"hypervisor_versions": {"native": "1.4.0rc1"}}), "which of them is newer"),
    (Check.KERNEL_FEATURES, REFUSED, Half(), Half(host={"kernel_features": ("memfd_holes",)}),
     "host-2 lacks populate, dirty_tracking"),
    (Check.KERNEL_FEATURES, UNKNOWN, Half(), Half(host={"kernel_features": None}), "of host-2"),
    (Check.FREE_RAM, REFUSED, Half(), Half(host={"free_memory_bytes": 2**29}),
     "1GiB needed, 512MiB free on host-2"),
    (Check.FREE_RAM, UNKNOWN, Half(), Half(host={"free_memory_bytes": None}), "free on host-2"),
    (Check.HOST_LINK, REFUSED, Half(), Half(host={"link_version": 2}), "version 1 and 2"),
    (Check.HOST_LINK, REFUSED, Half(), Half(host={"link_address": "127.0.0.1"}), "cannot reach"),
    (Check.HOST_LINK, UNKNOWN, Half(), Half(host={"link_address": ""}), "link of host-2"),
    (Check.HOST_LINK, UNKNOWN, Half(host={"link_version": None}), Half(), "link of host-1"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "status", "source", "destination", "said"), TABLE)
def test_a_check(check: Check, status: Status, source: Half, destination: Half, said: str) -> None:
    judged = judge(case(source, destination))
    found = only(judged, check)
    assert found.status is status
    assert said in found.reason
    of_a_gpu = check in gpu_checks.CHECKS
    assert judged.gpus == (() if of_a_gpu else (0,))
    assert found.about == ("vgpu0" if of_a_gpu else "")
    assert found in judged.objections


@pytest.mark.parametrize("check", [c for c in Check if c not in (Check.NVLINK_GROUP,)])
def test_every_check_has_each_of_its_ends_in_the_table(check: Check) -> None:
    ends = {status for name, status, *_ in TABLE if name is check}
    if check in (Check.PROFILE_AVAILABLE, Check.HYPERVISOR):
        return  # the first has tests of its own; a host that announced itself says the second
    assert ends == {REFUSED, UNKNOWN}


def test_all_verdicts_come_at_once() -> None:
    other = Half(
        facts={"ecc": Setting.OFF, "board": "NVIDIA H200"}, host={"driver": "", "link_version": 9}
    )
    refused = {verdict.check for verdict in judge(case(Half(), other)).refusals}
    assert refused == {Check.GPU_BOARD, Check.ECC_MODE, Check.DRIVER, Check.HOST_LINK}


def test_why_a_fact_is_unknown_is_told() -> None:
    there = Half(facts={"ecc": Setting.UNKNOWN, "unanswered": {"ecc": "Not Supported"}})
    found = only(judge(case(Half(), there)), Check.ECC_MODE)
    assert found.reason == "the ECC mode of GPU 0 of host-2 is unknown: Not Supported"


def test_simulated_gpus_are_called_so_and_need_no_nvml() -> None:
    simulated = Half(
        gpu={"simulated": True},
        facts={"mig": Setting.UNKNOWN, "metadata": b""},
        host={"nvml_verdicts": ()},
    )
    judged = judge(case(simulated, simulated))
    assert judged.refusals == ()
    assert "SIMULATED" in only(judged, Check.NVML_VERDICT).reason
    assert "(SIMULATED)" in only(judged, Check.GPU_BOARD).reason


def test_a_model_without_mig_has_it_off_whatever_its_driver_says() -> None:
    l40s = Half(gpu={"model": "L40S-48GB"}, facts={"mig": Setting.UNKNOWN})
    seat = replace(SEAT, profile="L40S-12C", mode=GpuMode.EQUAL)
    judged = judge(case(l40s, l40s, profiles=("L40S-12C",), seats=(seat,)))
    assert only(judged, Check.GPU_DIVISION).status is OK


def test_a_time_sliced_profile_does_not_go_onto_a_gpu_in_mig_mode() -> None:
    seat = replace(SEAT, profile="H100XM-20C", mode=GpuMode.EQUAL)
    off = Half(facts={"mig": Setting.OFF})
    judged = judge(case(off, Half(), profiles=("H100XM-20C",), seats=(seat,)))
    assert only(judged, Check.GPU_DIVISION).status is REFUSED


def test_two_hosts_on_one_machine_reach_each_other_by_loopback() -> None:
    here = Half(boot="one", host={"link_address": "127.0.0.1"})
    assert only(judge(case(here, here)), Check.HOST_LINK).status is OK


def test_the_link_is_what_the_source_found_there() -> None:
    found = only(judge(case()), Check.HOST_LINK)
    assert found.status is OK
    said = "host-1 reaches host-2 at 10.0.0.2:4711, link version 1 and 1; answered in 0.4 ms"
    assert found.reason == said


@pytest.mark.parametrize(
    ("link", "status", "said", "hint"),
    [
        (LinkUnknown(why="nobody said"), UNKNOWN, "reaches the link of host-2 is unknown", ""),
        (LinkUnknown(why="it is silent", hint="look there"), UNKNOWN, "is silent", "look there"),
        (replace(REACHED, error="it is refused", answered_by=""), REFUSED,
         "host-1 does not reach host-2: it is refused", "GODWIT_LINK_HOST on host-2"),
        (replace(REACHED, answered_by="host-3"), REFUSED,
         "host-1 reaches host-3 at 10.0.0.2:4711, not host-2", "an address that is its own"),
        (replace(REACHED, version=2), REFUSED, "link version 1 and 2", "one release"),
    ],
)  # fmt: skip
def test_a_link_that_is_not_found_good_refuses(
    link: LinkFound | LinkUnknown, status: Status, said: str, hint: str
) -> None:
    judged = judge(case(link=link))
    found = only(judged, Check.HOST_LINK)
    assert found.status is status
    assert said in found.reason
    assert hint in found.hint
    assert judged.objections == (found,)


def test_a_newer_hypervisor_takes_what_an_older_one_wrote() -> None:
    newer = Half(host={"hypervisor_versions": {"native": "1.10.0"}})
    assert only(judge(case(Half(), newer)), Check.HYPERVISOR_VERSION).status is OK


def test_where_the_vgpu_sits_must_be_known() -> None:
    judged = judge(case(seats=None))
    assert {v.status for v in judged.verdicts if v.check in gpu_checks.CHECKS} == {UNKNOWN}
    assert judged.gpus == ()


def test_a_gpu_that_is_lost_refuses_and_says_so() -> None:
    lost = Half(gpus=0, host={"unreadable_gpus": ("GPU 0: GPU is lost",)})
    assert "GPU is lost" in only(judge(case(lost)), Check.ECC_MODE).reason


# Places.


def held(there: HostPicture, profile: str, gpu: int, start: int, slots: int) -> HostPicture:
    seat = Placement(
        gpu=gpu, profile=profile, framebuffer_bytes=1, mode=GpuMode.MIG, start=start, slots=slots
    )
    entry = LedgerEntry(
        kind=EntryKind.HELD,
        reservation=f"r{gpu}{start}",
        machine="big",
        host="host-2",
        placements=(seat,),
    )
    return apply(there, entry, there.sequence + 1)


def test_a_full_gpu_is_the_tracker_s_to_refuse_but_is_shown() -> None:
    asked = case()
    judged = judge(replace(asked, there=held(asked.there, "7g.80gb", 0, 0, 8)))
    (refusal,) = judged.refusals
    assert refusal.check is Check.PROFILE_AVAILABLE
    assert "big (from slot 0) would have to move" in refusal.reason
    assert judged.objections == ()


def test_a_host_without_such_a_gpu_is_refused_with_every_check_unknown() -> None:
    judged = judge(case(Half(), Half(gpu={"model": "L40S-48GB"})))
    assert only(judged, Check.PROFILE_AVAILABLE).status is REFUSED
    assert "needs a" in only(judged, Check.PROFILE_AVAILABLE).reason
    assert only(judged, Check.ECC_MODE).status is UNKNOWN
    assert only(judged, Check.ECC_MODE) in judged.objections


def test_only_the_gpus_that_pass_are_offered_to_the_tracker() -> None:
    asked = case(Half(), Half(gpus=3))
    assert asked.destination.announced is not None
    gpus = list(asked.destination.announced.gpus)
    gpus[0] = replace(gpus[0], facts=replace(FACTS, ecc=Setting.OFF))
    announced = replace(asked.destination.announced, gpus=tuple(gpus))
    there = held(replace(asked.there, gpus=tuple(gpus)), "7g.80gb", 1, 0, 8)
    judged = judge(
        replace(asked, destination=replace(asked.destination, announced=announced), there=there)
    )
    assert judged.refusals == ()
    assert judged.gpus == (1, 2)
    assert "on GPU 2" in only(judged, Check.PROFILE_AVAILABLE).reason
    assert "GPU 2 of host-2" in only(judged, Check.ECC_MODE).reason


# Several vGPUs.


def pair(
    linked_here: bool | None, linked_there: bool | None, seats: tuple[int, int] = (0, 1)
) -> Verdict:
    """Two vGPUs that fill a GPU each, on hosts of two GPUs."""
    halves = [
        Half(gpus=2, facts={"nvlink": Setting.UNKNOWN if linked is None else Setting.ON})
        for linked in (linked_here, linked_there)
    ]
    whole = ("7g.80gb", "7g.80gb")
    sat = tuple(replace(SEAT, gpu=gpu, profile="7g.80gb", slots=8) for gpu in seats)
    asked = case(*halves, profiles=whole, seats=sat)
    return only(judge(_linked(asked, linked_here, linked_there)), Check.NVLINK_GROUP)


def _linked(asked: Case, here: bool | None, there: bool | None) -> Case:
    sides = []
    for side, linked in ((asked.source, here), (asked.destination, there)):
        assert side.announced is not None
        gpus = tuple(
            replace(gpu, nvlink_peers=(1 - gpu.index,) if linked else ())
            for gpu in side.announced.gpus
        )
        sides.append(replace(side, announced=replace(side.announced, gpus=gpus)))
    return replace(asked, source=sides[0], destination=sides[1])


@pytest.mark.parametrize(
    ("here", "there", "status"),
    [
        (True, True, OK),
        (False, False, OK),
        (False, None, OK),
        (True, False, REFUSED),
        (True, None, UNKNOWN),
        (None, True, UNKNOWN),
    ],
)
def test_vgpus_on_nvlink_peers_stay_on_nvlink_peers(
    here: bool | None, there: bool | None, status: Status
) -> None:
    assert pair(here, there).status is status


def test_vgpus_on_one_gpu_need_nvlink_where_they_come_apart() -> None:
    assert pair(None, True, seats=(0, 0)).status is OK
    assert pair(None, False, seats=(0, 0)).status is REFUSED


# Hosts of a release that tells no facts.


@pytest.mark.parametrize(("source", "destination"), [(OLD, Half()), (Half(), OLD), (OLD, OLD)])
def test_a_machine_without_a_vgpu_moves_by_what_an_old_host_tells(
    source: Half, destination: Half
) -> None:
    judged = judge(case(source, destination, profiles=(), seats=None))
    assert judged.refusals == ()
    assert judged.gpus is None
    assert only(judged, Check.HYPERVISOR).status is OK


def test_what_an_old_host_does_tell_can_refuse_a_machine_without_a_vgpu() -> None:
    old = Half(said={"facts": None, "hypervisors": ()})
    assert [v.check for v in judge(case(Half(), old, profiles=(), seats=None)).refusals] == [
        Check.HYPERVISOR
    ]


def test_a_vgpu_does_not_move_from_or_to_a_host_that_tells_no_facts() -> None:
    for source, destination in ((OLD, Half()), (Half(), OLD)):
        checks = {v.check for v in judge(case(source, destination)).refusals}
        assert checks >= {Check.DRIVER, Check.HYPERVISOR_VERSION, Check.KERNEL_FEATURES}


def test_a_host_that_never_announced_itself_takes_nothing() -> None:
    asked = case(profiles=(), seats=None)
    judged = judge(replace(asked, destination=Side(host="host-2")))
    assert only(judged, Check.HYPERVISOR).status is UNKNOWN


def test_a_machine_without_a_vgpu_is_asked_about_no_gpu() -> None:
    checks = {verdict.check for verdict in judge(case(profiles=(), seats=None)).verdicts}
    assert checks == set(host_checks.CHECKS)


def test_a_profile_that_nobody_knows_is_refused() -> None:
    asked = case()
    spec = replace(asked.spec, vgpus=(VGpuSpec("99g", 4096),))
    judged = judge(replace(asked, spec=spec))
    assert "99g" in only(judged, Check.PROFILE_AVAILABLE).reason
    assert judged.gpus == ()
