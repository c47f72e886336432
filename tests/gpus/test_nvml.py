"""The NVML adapter over answers written by hand (synthetic), and over what was recorded of them."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Mapping
from typing import Any

import pytest
import synthetic as nv

from godwit.catalogue.loading import load
from godwit.gpus import nvml
from godwit.gpus.library import Handle, NvmlError
from godwit.gpus.nvml import NvmlGpus
from godwit.gpus.port import GpuLook
from godwit.gpus.recording import Failure, Origin, Recorder, Recording, decode, encode
from godwit_protocol.facts import (
    DeclaredFacts,
    GpuFacts,
    MigInstance,
    NvmlVerdict,
    Setting,
    VersionRange,
    VgpuInstance,
    VgpuTelemetry,
    VgpuType,
)
from nvml_player import Player, synthetic

CATALOGUE = load()


def over(answers: Mapping[str, Any], declared: DeclaredFacts | None = None) -> NvmlGpus:
    player = Player(synthetic(answers))
    return NvmlGpus(lambda: player, CATALOGUE, declared or DeclaredFacts())


def look(*gpus: Mapping[str, Any], **changed: Any) -> GpuLook:
    return over(nv.host(*gpus, **changed)).look_now()


def facts(look: GpuLook, index: int = 0) -> GpuFacts:
    found = look.gpus[index].facts
    assert found is not None
    return found


async def test_a_gpu_is_told_as_it_is() -> None:
    source = over(nv.host(nv.gpu(0)))
    assert not source.simulated
    seen = await source.look()
    (gpu,) = seen.gpus
    assert (gpu.model, gpu.memory_bytes, gpu.simulated) == ("H100-80GB", 85520809984, False)
    told = facts(seen)
    assert (told.uuid, told.pci_address) == ("GPU-synthetic-0", "00000000:3b:00.0")
    assert (told.board, told.ecc, told.mig) == (nv.H100, Setting.ON, Setting.OFF)
    assert (told.mig_instances, told.vgpu_types, told.vgpus) == ((), (), ())
    assert told.vgpu_versions == VersionRange(5, 9)
    assert told.metadata == nv.PGPU_METADATA
    assert told.xids == ()
    assert (seen.driver, seen.unreadable) == ("570.124.06", ())


def test_health_is_measured() -> None:
    (health,) = look(nv.gpu(0)).telemetry
    assert (health.memory_used_bytes, health.memory_free_bytes) == (600000000, 84920809984)
    assert (health.utilisation_percent, health.temperature_celsius) == (37, 41)
    assert (health.power_milliwatts, health.ecc_corrected, health.ecc_uncorrected) == (101000, 3, 0)


def test_mig_instances_are_told_by_profile_and_place() -> None:
    placed = {"1g.10gb": ((6, 1), (5, 1)), "3g.40gb": ((0, 4),)}
    seen = look(nv.with_mig(0, placed))
    told = facts(seen)
    assert told.mig is Setting.ON
    assert told.mig_instances == (
        MigInstance(id=2, profile="3g.40gb", start=0, slices=4),
        MigInstance(id=1, profile="1g.10gb", start=5, slices=1),
        MigInstance(id=0, profile="1g.10gb", start=6, slices=1),
    )
    assert seen.telemetry[0].utilisation_percent is None  # NVML has none for a divided GPU


def test_vgpu_types_and_vgpus_are_told_with_their_places() -> None:
    seen = look(nv.with_vgpu(0))
    told = facts(seen)
    assert told.vgpu_types == (
        VgpuType(
            name="H100XM-20C",
            id=1100,
            framebuffer_bytes=20 * 2**30,
            most=4,
            slots=4,
            starts=(0, 4, 8, 12),
        ),
    )
    assert told.vgpus == (
        VgpuInstance(
            id=77,
            type="H100XM-20C",
            uuid="vgpu-uuid",
            vm="vm-7",
            placement=4,
        ),
    )
    assert seen.telemetry[0].vgpus == (
        VgpuTelemetry(id=77, framebuffer_used_bytes=3 * 2**30, state_bytes=123456),
    )


OPTIONAL = {
    "nvmlDeviceGetUUID": ("uuid", ""),
    "nvmlDeviceGetPciInfo": ("pci_address", ""),
    "nvmlDeviceGetEccMode": ("ecc", Setting.UNKNOWN),
    "nvmlDeviceGetMigMode": ("mig", Setting.UNKNOWN),
    "nvmlDeviceGetSupportedVgpus": ("vgpu_types", None),
    "nvmlDeviceGetActiveVgpus": ("vgpus", None),
    "nvmlDeviceGetVgpuMetadata": ("metadata", b""),
}


@pytest.mark.parametrize("function", OPTIONAL)
@pytest.mark.parametrize("failure", [nv.UNSUPPORTED, nv.FORBIDDEN, Failure(999, "Unknown Error")])
def test_what_nvml_does_not_tell_is_unknown_with_its_reason(
    function: str, failure: Failure
) -> None:
    field, unknown = OPTIONAL[function]
    told = facts(look(nv.gpu(0, **{function: failure})))
    assert getattr(told, field) == unknown
    assert told.unanswered[field] == failure.text


def test_where_mig_mode_is_unknown_so_are_its_instances() -> None:
    assert facts(look(nv.gpu(0, nvmlDeviceGetMigMode=nv.UNSUPPORTED))).mig_instances is None


def test_health_that_is_not_told_is_never_zero() -> None:
    gpu = nv.gpu(
        0, nvmlDeviceGetUtilizationRates=nv.UNSUPPORTED, nvmlDeviceGetPowerUsage=nv.FORBIDDEN
    )
    del gpu[nv.of("nvmlDeviceGetTemperature", 0, 0)]
    del gpu[nv.of("nvmlDeviceGetTotalEccErrors", 0, 1, 0)]
    (health,) = look(gpu).telemetry
    assert health.utilisation_percent is None
    assert health.power_milliwatts is None
    assert health.temperature_celsius is None
    assert health.ecc_uncorrected is None


LOSABLE = ["nvmlDeviceGetName", "nvmlDeviceGetEccMode", "nvmlDeviceGetPowerUsage"]


@pytest.mark.parametrize("function", LOSABLE)
def test_a_lost_gpu_is_unreadable_and_the_others_are_told(function: str) -> None:
    seen = look(nv.gpu(0, **{function: nv.LOST}), nv.gpu(1))
    assert [gpu.index for gpu in seen.gpus] == [1]
    assert [health.gpu for health in seen.telemetry] == [1]
    assert seen.unreadable == (f"GPU 0: {function}: GPU is lost",)


@pytest.mark.parametrize("function", ["nvmlDeviceGetName", "nvmlDeviceGetMemoryInfo"])
def test_a_gpu_that_does_not_say_what_it_is_is_unreadable(function: str) -> None:
    seen = look(nv.gpu(0, **{function: nv.UNSUPPORTED}))
    assert seen.gpus == ()
    assert "Not Supported" in seen.unreadable[0]


def test_a_board_that_the_catalogue_lacks_keeps_its_name() -> None:
    assert look(nv.gpu(0, nvmlDeviceGetName="NVIDIA T4")).gpus[0].model == "NVIDIA T4"


# XIDs.


def xid(index: int, number: int) -> dict[str, Any]:
    return {"device": Handle(nv.device(index)), "eventType": 8, "eventData": number}


def test_xids_are_remembered_by_gpu_the_newest_last() -> None:
    waits = f"nvmlEventSetWait({nv.EVENTS}, 0)"
    answers = nv.host(nv.gpu(0), nv.gpu(1))
    answers[waits] = (xid(1, 31), xid(1, 79), nv.NOTHING_NEW)
    for index in (0, 1):
        answers[nv.of("nvmlDeviceGetIndex", index)] = index
    source = over(answers)
    source.look_now()  # listens from here on
    first, second = source.look_now(), source.look_now()
    for seen in (first, second):
        assert (facts(seen, 0).xids, facts(seen, 1).xids) == ((), (31, 79))
    assert second.telemetry[1].xids == (31, 79)


def test_a_gpu_that_reports_no_xids_has_unknown_ones() -> None:
    gpu = nv.gpu(0)
    gpu[nv.of("nvmlDeviceRegisterEvents", 0, 8, nv.EVENTS)] = nv.UNSUPPORTED
    told = facts(look(gpu))
    assert told.xids is None
    assert told.unanswered["xids"] == "Not Supported"


# NVLink.


def test_gpus_that_nvlink_joins_are_peers() -> None:
    seen = look(
        {**nv.gpu(0), **nv.joined(0, nv.address(1))},
        {**nv.gpu(1), **nv.joined(1, nv.address(0))},
        {**nv.gpu(2), nv.of("nvmlDeviceGetNvLinkState", 2, 0): 0},
    )
    assert [gpu.nvlink_peers for gpu in seen.gpus] == [(1,), (0,), ()]
    assert [facts(seen, at).nvlink for at in range(3)] == [Setting.ON, Setting.ON, Setting.OFF]


def test_all_gpus_on_a_switch_are_peers() -> None:
    seen = look(*({**nv.gpu(at), **nv.joined(at, "switch")} for at in range(3)))
    assert [gpu.nvlink_peers for gpu in seen.gpus] == [(1, 2), (0, 2), (0, 1)]


def test_links_that_cannot_be_asked_for_are_unknown_but_a_device_without_has_none() -> None:
    forbidden = {**nv.gpu(0), nv.of("nvmlDeviceGetNvLinkState", 0, 0): nv.FORBIDDEN}
    seen = look(forbidden, nv.gpu(1))
    assert (facts(seen, 0).nvlink, facts(seen, 1).nvlink) == (Setting.UNKNOWN, Setting.OFF)
    assert facts(seen, 0).unanswered["nvlink"] == "Insufficient Permissions"


# What an operator declares.


def test_only_what_nvml_cannot_tell_is_declared() -> None:
    told = DeclaredFacts(unified_memory=Setting.OFF, profiler=Setting.ON, ecc=Setting.OFF)
    found = facts(over(nv.host(nv.gpu(0)), told).look_now())
    assert (found.unified_memory, found.profiler) == (Setting.OFF, Setting.ON)
    assert (found.debugger, found.ecc) == (Setting.UNKNOWN, Setting.ON)


# NVML's own verdict.


def test_nvml_judges_every_kind_of_vgpu_for_every_kind_of_gpu_once() -> None:
    other = b"another GPU"
    answers = nv.host(nv.with_vgpu(0))
    for metadata, states, limits in ((nv.PGPU_METADATA, 9, 0), (other, 1, 4)):
        asked = f"nvmlGetVgpuCompatibility({nv.VGPU_METADATA.hex()}, {metadata.hex()})"
        answers[asked] = {"vgpuVmCompatibility": states, "compatibilityLimitCode": limits}
    source = over(answers)
    source.look_now()
    found = source.judge_now([nv.PGPU_METADATA, other, nv.PGPU_METADATA])
    assert found == tuple(
        NvmlVerdict(
            gpu=0,
            vgpu_type="H100XM-20C",
            metadata_digest=hashlib.sha256(metadata).digest(),
            states=states,
            limits=limits,
        )
        for metadata, states, limits in ((nv.PGPU_METADATA, 9, 0), (other, 1, 4))
    )


def test_what_nvml_does_not_judge_has_no_verdict() -> None:
    source = over(nv.host(nv.with_vgpu(0)))
    source.look_now()
    assert source.judge_now([nv.PGPU_METADATA]) == ()


# A driver that goes, hangs or never came.


def test_a_driver_that_is_replaced_is_opened_again() -> None:
    failing = {"nvmlDeviceGetCount()": Failure(9, "Driver Not Loaded")}
    lives = [Player(synthetic(nv.host(**failing))), Player(synthetic(nv.host(nv.gpu(0))))]
    source = NvmlGpus(lambda: lives.pop(0), CATALOGUE, DeclaredFacts())
    gone = source.look_now()
    assert (gone.gpus, gone.unreadable) == ((), ("nvmlDeviceGetCount: Driver Not Loaded",))
    assert len(source.look_now().gpus) == 1


def test_a_driver_that_is_broken_is_told_as_unreadable() -> None:
    def broken() -> Player:
        raise NvmlError("nvmlInit", 18, "RM has detected an NVML/RM version mismatch.")

    seen = NvmlGpus(broken, CATALOGUE, DeclaredFacts()).look_now()
    assert seen.gpus == ()
    assert "version mismatch" in seen.unreadable[0]


async def test_a_driver_that_hangs_is_waited_for_with_a_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nvml, "LOOK_S_MAX", 0.05)
    freed = threading.Event()

    class Hanging(Player):
        def ask(self, function: str, *arguments: Any) -> Any:
            freed.wait(30)
            return super().ask(function, *arguments)

    hanging = Hanging(synthetic(nv.host(nv.gpu(0))))
    source = NvmlGpus(lambda: hanging, CATALOGUE, DeclaredFacts())
    for _ in range(2):
        seen = await source.look()
        assert (seen.gpus, "did not answer" in seen.unreadable[0]) == ((), True)
    freed.set()
    monkeypatch.setattr(nvml, "LOOK_S_MAX", 30)
    async with asyncio.timeout(30):
        while not (seen := await source.look()).gpus:  # noqa: ASYNC110  # nothing tells when
            await asyncio.sleep(0)
    assert seen.unreadable == ()


# Recordings.


def test_a_recording_plays_back_what_was_answered() -> None:
    answers = nv.host(nv.with_vgpu(0), nv.gpu(1, nvmlDeviceGetEccMode=nv.FORBIDDEN))
    recorder = Recorder(Player(synthetic(answers)))
    seen = NvmlGpus(lambda: recorder, CATALOGUE, DeclaredFacts()).look_now()
    recording = Recording(
        origin=Origin.RECORDED,
        driver=seen.driver,
        boards=(nv.H100,),
        library="none",
        answers=tuple(recorder.answers),
    )
    kept = decode(encode(recording))
    assert kept == recording
    played = NvmlGpus(lambda: Player(kept), CATALOGUE, DeclaredFacts())
    assert played.look_now() == seen


def test_a_recording_that_lacks_a_question_does_not_make_one_up() -> None:
    kept = Recording(origin=Origin.RECORDED, driver="", boards=(), library="", answers=())
    with pytest.raises(AssertionError, match="nobody recorded"):
        Player(kept).ask("nvmlDeviceGetCount")
