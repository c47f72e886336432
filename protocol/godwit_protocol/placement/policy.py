"""What a user may ask of placement: which of the legal places, and how near to each other.

Knows no geometry: these are words that stand in a machine's specification and in requests.
"""

from __future__ import annotations

from enum import StrEnum


class Policy(StrEnum):
    """Which of the places that are legal is taken."""

    CONSOLIDATE = "consolidate"
    """The one that keeps the most of the largest profiles placeable."""
    SPREAD = "spread"
    """On the GPU that is used least."""
    PERFORMANCE = "performance"
    """Where the vGPU has the most multiprocessors, counting those that it shares by its share."""


class DeviceGroup(StrEnum):
    """How near to each other one machine's vGPUs must be."""

    NONE = "none"
    ONE_GPU = "one-gpu"
    NVLINK = "nvlink"
    """Each on a GPU of its own, all of them NVLink peers of each other."""
