"""What a host wants to know of its GPUs, and nothing of where that comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from godwit_protocol.events.machine import GpuInventory
from godwit_protocol.facts import GpuTelemetry, NvmlVerdict


@dataclass(frozen=True, slots=True)
class GpuLook:
    """One look at all GPUs of a host.

    ``unreadable``: devices that are there and tell nothing, each in a sentence. ``telemetry`` is
    empty where GPUs are simulated: there is nothing to measure.
    """

    gpus: tuple[GpuInventory, ...]
    driver: str = ""
    unreadable: tuple[str, ...] = ()
    telemetry: tuple[GpuTelemetry, ...] = ()


class GpuSource(Protocol):
    """Where a host's GPUs are looked at. Used by one task."""

    @property
    def simulated(self) -> bool:
        """Whether no such device is there."""

    async def look(self) -> GpuLook:
        """Look at all of them. Bounded in time; what cannot be read is unknown, and no error."""

    async def judge(self, targets: Sequence[bytes]) -> tuple[NvmlVerdict, ...]:
        """Ask NVML whether this host's vGPUs could move to GPUs with such metadata."""
