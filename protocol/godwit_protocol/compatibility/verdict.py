"""What one check says. Knows nothing of what is checked."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Check(StrEnum):
    """What is compared. The order is that in which people are shown the verdicts."""

    PROFILE_AVAILABLE = "profile_available"
    GPU_BOARD = "gpu_board"
    GPU_MEMORY = "gpu_memory"
    GPU_DIVISION = "gpu_division"
    ECC_MODE = "ecc_mode"
    DRIVER = "driver"
    VGPU_MANAGER = "vgpu_manager"
    UNIFIED_MEMORY = "unified_memory"
    DEBUGGER_OR_PROFILER = "debugger_or_profiler"
    NVLINK_GROUP = "nvlink_group"
    NVML_VERDICT = "nvml_verdict"
    HYPERVISOR = "hypervisor"
    HYPERVISOR_VERSION = "hypervisor_version"
    KERNEL_FEATURES = "kernel_features"
    FREE_RAM = "free_ram"
    HOST_LINK = "host_link"


class Status(StrEnum):
    """``UNKNOWN`` refuses as ``REFUSED`` does: a fact is missing."""

    OK = "ok"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One check's answer. ``reason`` has both sides' values; ``about`` names a vGPU, if of one."""

    check: Check
    status: Status
    reason: str
    hint: str = ""
    about: str = ""

    @property
    def refuses(self) -> bool:
        """Whether the machine must not move because of it."""
        return self.status is not Status.OK


def ok(check: Check, reason: str) -> Verdict:
    """Nothing is in the way."""
    return Verdict(check=check, status=Status.OK, reason=reason)


def refused(check: Check, reason: str, hint: str = "") -> Verdict:
    """The two sides do not go together."""
    return Verdict(check=check, status=Status.REFUSED, reason=reason, hint=hint)


def unknown(check: Check, reason: str, hint: str = "") -> Verdict:
    """A fact is missing."""
    return Verdict(check=check, status=Status.UNKNOWN, reason=reason, hint=hint)
