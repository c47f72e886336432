"""What an operator may choose between, as variables name it. Knows nothing of who reads them."""

from __future__ import annotations

from enum import StrEnum


class GpuOrigin(StrEnum):
    """Where a host's GPUs come from. ``AUTO``: from NVML where a driver is, else simulated."""

    AUTO = "auto"
    NVML = "nvml"
    SIMULATED = "simulated"


class Retention(StrEnum):
    """What becomes of events."""

    KEEP = "keep"
    """The server refuses to remove any, for ever."""
    ARCHIVE = "archive"
    """A migration may leave the server, once ``godwit archive`` has it whole."""


class DirtyTracking(StrEnum):
    """What finds the pages that were written. ``AUTO``: the kernel, if it has PAGEMAP_SCAN, else
    digests.
    """

    AUTO = "auto"
    PAGEMAP = "pagemap"
    DIGEST = "digest"


class LogFormat(StrEnum):
    """How log lines look. ``AUTO``: for people on a terminal, JSON elsewhere."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"
