"""What a host knows of itself and its GPUs: facts, each known or unknown. Pure data.

What could not be read is unknown (``None``, an empty text, ``Setting.UNKNOWN``) and never a number
that looks like an answer. A simulated GPU declares facts as a real one would; whoever shows them
says that they are simulated (``GpuInventory.simulated``).
"""

from __future__ import annotations

from enum import IntFlag, StrEnum
from typing import Final

import msgspec

XIDS_MAX: Final = 16
"""XIDs that a host remembers of a GPU, the newest."""


class Setting(StrEnum):
    """Whether something is on."""

    ON = "on"
    OFF = "off"
    UNKNOWN = "unknown"


class VersionRange(msgspec.Struct, frozen=True):
    """Versions from ``low`` to ``high``, both included."""

    low: int
    high: int


class MigInstance(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU instance that exists: ``slices`` of the memory axis from ``start`` on."""

    id: int
    profile: str
    start: int
    slices: int


class VgpuType(msgspec.Struct, frozen=True, kw_only=True):
    """A vGPU type that the driver offers on a GPU. ``starts``: where it may sit, as NVML counts."""

    name: str
    id: int
    framebuffer_bytes: int | None = None
    most: int | None = None
    slots: int | None = None
    starts: tuple[int, ...] | None = None


class VgpuInstance(msgspec.Struct, frozen=True, kw_only=True):
    """A vGPU that exists on a GPU, whoever made it. What it uses is in its telemetry."""

    id: int
    type: str = ""
    uuid: str = ""
    vm: str = ""
    placement: int | None = None


class GpuFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one GPU beyond its model and memory.

    ``board``: NVML's name of the product. ``nvlink``: whether it has NVLink peers, which the
    inventory names. ``vgpu_versions``: those that its vGPU manager speaks. ``unanswered``: by
    field, why it is unknown.
    """

    uuid: str = ""
    pci_address: str = ""
    board: str = ""
    ecc: Setting = Setting.UNKNOWN
    mig: Setting = Setting.UNKNOWN
    mig_instances: tuple[MigInstance, ...] | None = None
    vgpu_types: tuple[VgpuType, ...] | None = None
    vgpus: tuple[VgpuInstance, ...] | None = None
    vgpu_versions: VersionRange | None = None
    unified_memory: Setting = Setting.UNKNOWN
    debugger: Setting = Setting.UNKNOWN
    profiler: Setting = Setting.UNKNOWN
    nvlink: Setting = Setting.UNKNOWN
    metadata: bytes = b""
    """What NVML wants to know of a destination's GPU to judge a move; only NVML can read it."""
    xids: tuple[int, ...] | None = None
    unanswered: dict[str, str] = {}


class DeclaredFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Facts by an operator's word. Unknown or empty: not declared.

    NVML cannot tell whether a vGPU may use unified memory, debuggers and profilers: they are
    parameters of whoever created it. What NVML does tell, nobody can declare otherwise.
    """

    unified_memory: Setting = Setting.UNKNOWN
    debugger: Setting = Setting.UNKNOWN
    profiler: Setting = Setting.UNKNOWN
    ecc: Setting = Setting.UNKNOWN
    driver: str = ""

    def beside(self, facts: GpuFacts) -> GpuFacts:
        """What NVML told, with the operator's word for what it cannot tell."""
        return msgspec.structs.replace(
            facts,
            unified_memory=self.unified_memory,
            debugger=self.debugger,
            profiler=self.profiler,
        )


class Compatibility(IntFlag):
    """In which states NVML says that a vGPU can move: ``nvmlVgpuVmCompatibility_t``."""

    NONE = 0
    COLD = 1
    HIBERNATE = 2
    SLEEP = 4
    LIVE = 8


class Limit(IntFlag):
    """What NVML says is in the way: ``nvmlVgpuPgpuCompatibilityLimitCode_t``."""

    NONE = 0
    HOST_DRIVER = 1
    GUEST_DRIVER = 2
    GPU = 4
    OTHER = 0x80000000


class NvmlVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What NVML on the source said of moving one of its vGPUs to a GPU with ``metadata_digest``.

    ``states`` and ``limits`` are the bits of ``Compatibility`` and ``Limit``.
    """

    gpu: int
    vgpu_type: str
    metadata_digest: bytes
    states: int
    limits: int


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a host beyond its memory, kernel and GPUs.

    ``hypervisor_versions`` by hypervisor. ``link_address`` is where its destination listens.
    ``unreadable_gpus``: devices that are there and tell nothing, each in a sentence; nothing can be
    placed on them.
    """

    free_memory_bytes: int | None = None
    kernel_features: tuple[str, ...] | None = None
    hypervisor_versions: dict[str, str] = {}
    link_address: str = ""
    link_version: int | None = None
    driver: str = ""
    unreadable_gpus: tuple[str, ...] = ()
    nvml_verdicts: tuple[NvmlVerdict, ...] = ()


class VgpuTelemetry(msgspec.Struct, frozen=True, kw_only=True):
    """What a vGPU uses now. ``state_bytes``: device state that a move would carry."""

    id: int
    framebuffer_used_bytes: int | None = None
    state_bytes: int | None = None


class GpuTelemetry(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a GPU's health. Nobody relies on it. None: not known.

    The comments name the metric of NVIDIA's DCGM exporter for the same.
    """

    gpu: int
    uuid: str = ""
    memory_used_bytes: int | None = None  # DCGM_FI_DEV_FB_USED
    memory_free_bytes: int | None = None  # DCGM_FI_DEV_FB_FREE
    utilisation_percent: int | None = None  # DCGM_FI_DEV_GPU_UTIL
    temperature_celsius: int | None = None  # DCGM_FI_DEV_GPU_TEMP
    power_milliwatts: int | None = None  # DCGM_FI_DEV_POWER_USAGE
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    xids: tuple[int, ...] | None = None  # DCGM_FI_DEV_XID_ERRORS
    vgpus: tuple[VgpuTelemetry, ...] | None = None


class HostTelemetry(msgspec.Struct, frozen=True, kw_only=True):
    """A host's GPUs at ``wall_ns``, on ``godwit.v1.telemetry.host.<host>.gpus``."""

    wall_ns: int
    gpus: tuple[GpuTelemetry, ...]
