"""One GPU, asked of NVML: what is announced of it, and its health."""

from __future__ import annotations

from typing import Final

from godwit_protocol.catalogue import Catalogue
from godwit_protocol.events.machine import GpuInventory
from godwit_protocol.facts import (
    DeclaredFacts,
    GpuFacts,
    GpuTelemetry,
    MigInstance,
    Setting,
    VersionRange,
    VgpuInstance,
    VgpuTelemetry,
    VgpuType,
)

from .asking import Asker
from .library import Handle, NvmlError, Plain

MIG_PROFILES: Final = 18
"""NVML_GPU_INSTANCE_PROFILE_COUNT: profiles are asked for by these numbers, whose ids differ."""
MIXED_SIZES: Final = 0
"""NVML_VGPU_PGPU_HETEROGENEOUS_MODE."""
CORRECTED, UNCORRECTED, SINCE_BOOT, GPU_SENSOR = 0, 1, 0, 0
MIB: Final = 2**20


def inventory(
    asker: Asker,
    index: int,
    device: Handle,
    catalogue: Catalogue,
    declared: DeclaredFacts,
    xids: tuple[int, ...] | None,
) -> GpuInventory:
    """What is announced of a GPU. Raises ``NvmlError`` if it tells nothing, or not what it is."""
    board = _must(asker, "board", "nvmlDeviceGetName", device)
    memory = _must(asker, "memory", "nvmlDeviceGetMemoryInfo", device)
    mig = _mig_mode(asker, device)
    pci = asker.ask("pci_address", "nvmlDeviceGetPciInfo", device)
    facts = GpuFacts(
        uuid=asker.ask("uuid", "nvmlDeviceGetUUID", device) or "",
        pci_address=pci["busId"].lower() if pci else "",
        board=board,
        ecc=_ecc(asker, device),
        mig=mig,
        mig_instances=_mig_instances(asker, device, mig),
        vgpu_types=_vgpu_types(asker, device),
        vgpus=_vgpus(asker, device),
        vgpu_versions=_vgpu_versions(asker),
        metadata=asker.ask("metadata", "nvmlDeviceGetVgpuMetadata", device) or b"",
        xids=xids,
        unanswered=asker.unanswered,
    )
    model = catalogue.model_of_board(board)
    return GpuInventory(
        index=index,
        model=board if model is None else model.model,
        memory_bytes=memory["total"],
        simulated=False,
        facts=declared.beside(facts),
    )


def telemetry(asker: Asker, gpu: GpuInventory, device: Handle) -> GpuTelemetry:
    """A GPU's health now. Raises ``NvmlError`` if it tells nothing."""
    memory = asker.ask("memory", "nvmlDeviceGetMemoryInfo", device)
    used = asker.ask("utilisation", "nvmlDeviceGetUtilizationRates", device)
    return GpuTelemetry(
        gpu=gpu.index,
        uuid=gpu.facts.uuid if gpu.facts is not None else "",
        memory_used_bytes=memory["used"] if memory else None,
        memory_free_bytes=memory["free"] if memory else None,
        utilisation_percent=used["gpu"] if used else None,
        temperature_celsius=asker.ask("heat", "nvmlDeviceGetTemperature", device, GPU_SENSOR),
        power_milliwatts=asker.ask("power", "nvmlDeviceGetPowerUsage", device),
        ecc_corrected=_ecc_errors(asker, device, CORRECTED),
        ecc_uncorrected=_ecc_errors(asker, device, UNCORRECTED),
        xids=gpu.facts.xids if gpu.facts is not None else None,
        vgpus=_vgpu_telemetry(asker, gpu),
    )


def _must(asker: Asker, field: str, function: str, device: Handle) -> Plain:
    """Without this answer a GPU cannot be told apart from another."""
    answer = asker.ask(field, function, device)
    if answer is None:
        raise NvmlError(function, 0, asker.unanswered[field])
    return answer


def _ecc(asker: Asker, device: Handle) -> Setting:
    found = asker.ask("ecc", "nvmlDeviceGetEccMode", device)
    return Setting.UNKNOWN if found is None else _setting(found[0])


def _ecc_errors(asker: Asker, device: Handle, kind: int) -> int | None:
    counted: int | None = asker.ask(
        f"ecc_{kind}", "nvmlDeviceGetTotalEccErrors", device, kind, SINCE_BOOT
    )
    return counted


def _setting(value: int) -> Setting:
    return Setting.ON if value else Setting.OFF


def _mig_mode(asker: Asker, device: Handle) -> Setting:
    found = asker.ask("mig", "nvmlDeviceGetMigMode", device)
    return Setting.UNKNOWN if found is None else _setting(found[0])


def _mig_instances(asker: Asker, device: Handle, mig: Setting) -> tuple[MigInstance, ...] | None:
    """The GPU instances that exist; none where MIG mode is off, unknown where it is not known."""
    if mig is not Setting.ON:
        return () if mig is Setting.OFF else None
    found: list[MigInstance] = []
    for number in range(MIG_PROFILES):
        profile = asker.ask(_IGNORED, "nvmlDeviceGetGpuInstanceProfileInfoV", device, number)
        if profile is None:  # this GPU has no such profile
            continue
        listed = asker.ask("mig_instances", "nvmlDeviceGetGpuInstances", device, profile["id"])
        if listed is None:
            return None
        name = _profile_name(profile["name"])
        found += [_mig_instance(asker, name, instance) for instance in listed]
    asker.unanswered.pop(_IGNORED, None)
    return tuple(sorted(found, key=lambda item: (item.start, item.id)))


def _mig_instance(asker: Asker, name: str, instance: Handle) -> MigInstance:
    info = asker.ask("mig_instances", "nvmlGpuInstanceGetInfo", instance)
    if info is None:
        raise NvmlError("nvmlGpuInstanceGetInfo", 0, asker.unanswered["mig_instances"])
    where = info["placement"]
    return MigInstance(id=info["id"], profile=name, start=where["start"], slices=where["size"])


def _vgpu_types(asker: Asker, device: Handle) -> tuple[VgpuType, ...] | None:
    ids = asker.ask("vgpu_types", "nvmlDeviceGetSupportedVgpus", device)
    return None if ids is None else tuple(_vgpu_type(asker, device, item) for item in ids)


def _vgpu_type(asker: Asker, device: Handle, type_id: int) -> VgpuType:
    placed = asker.ask(
        "placements",
        "nvmlDeviceGetVgpuTypeSupportedPlacements",
        device,
        type_id,
        MIXED_SIZES,
    )
    return VgpuType(
        id=type_id,
        name=_type_name(asker, type_id),
        framebuffer_bytes=asker.ask("framebuffer", "nvmlVgpuTypeGetFramebufferSize", type_id),
        most=asker.ask("most", "nvmlVgpuTypeGetMaxInstances", device, type_id),
        slots=placed["placementSize"] if placed else None,
        starts=tuple(placed["placementIds"]) if placed else None,
    )


def _type_name(asker: Asker, type_id: int) -> str:
    return _profile_name(asker.ask("vgpu_types", "nvmlVgpuTypeGetName", type_id) or "")


def _profile_name(told: str) -> str:
    """``MIG 1g.10gb``, ``NVIDIA H100XM-20C`` and ``GRID H100XM-20C`` as the catalogue says it."""
    return told.rpartition(" ")[2]


def _vgpus(asker: Asker, device: Handle) -> tuple[VgpuInstance, ...] | None:
    ids = asker.ask("vgpus", "nvmlDeviceGetActiveVgpus", device)
    return None if ids is None else tuple(_vgpu(asker, item) for item in ids)


def _vgpu(asker: Asker, instance: int) -> VgpuInstance:
    kind = asker.ask("vgpus", "nvmlVgpuInstanceGetType", instance)
    vm = asker.ask("vgpus", "nvmlVgpuInstanceGetVmID", instance)
    return VgpuInstance(
        id=instance,
        type="" if kind is None else _type_name(asker, kind),
        uuid=asker.ask("vgpus", "nvmlVgpuInstanceGetUUID", instance) or "",
        vm=_text(vm[0]) if vm else "",
        placement=asker.ask("vgpus", "nvmlVgpuInstanceGetPlacementId", instance),
    )


def _vgpu_telemetry(asker: Asker, gpu: GpuInventory) -> tuple[VgpuTelemetry, ...] | None:
    vgpus = gpu.facts.vgpus if gpu.facts is not None else None
    return None if vgpus is None else tuple(_vgpu_use(asker, item.id) for item in vgpus)


def _vgpu_use(asker: Asker, instance: int) -> VgpuTelemetry:
    state = asker.ask("state", "nvmlVgpuInstanceGetRuntimeStateSize", instance)
    return VgpuTelemetry(
        id=instance,
        framebuffer_used_bytes=asker.ask("used", "nvmlVgpuInstanceGetFbUsage", instance),
        state_bytes=state["size"] if state else None,
    )


def _text(value: Plain) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _vgpu_versions(asker: Asker) -> VersionRange | None:
    """Those that are in use, of those that the vGPU manager supports."""
    found = asker.ask("vgpu_versions", "nvmlGetVgpuVersion")
    return None if found is None else VersionRange(*found[1])


_IGNORED: Final = "mig_profile"
