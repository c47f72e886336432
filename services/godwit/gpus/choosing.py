"""Where a host's GPUs are looked at: NVML, if a driver answers; else the host's configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from godwit.runtime.choices import GpuOrigin
from godwit.runtime.config import Config
from godwit_protocol.catalogue import Catalogue
from godwit_protocol.errors import UnsupportedError

from .library import DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND, Library, Nvml, NvmlError
from .nvml import NvmlGpus
from .port import GpuSource
from .simulated import SimulatedGpus

NO_DRIVER: Final = frozenset({DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND})

_log: Final = structlog.get_logger(__name__)


def open_gpus(
    config: Config, catalogue: Catalogue, open_library: Callable[[], Library] = Nvml
) -> GpuSource:
    """The GPUs of this host. A driver that is there but broken is no reason to simulate.

    Raises ``UnsupportedError`` if NVML was asked for and there is none, ``InvalidInputError`` if
    the configuration names a model that the catalogue lacks.
    """
    if config.gpu_origin is not GpuOrigin.SIMULATED:
        why_not = _no_driver(open_library)
        if not why_not:
            return NvmlGpus(open_library, catalogue, config.gpu_facts)
        if config.gpu_origin is GpuOrigin.NVML:
            hint = "install the driver, or leave GODWIT_GPU_ORIGIN out"
            raise UnsupportedError(f"this host has no NVML: {why_not}", hint=hint)
        _log.info("gpus_are_simulated", because=why_not, gpus=len(config.gpus))
    return SimulatedGpus(config.host, config.gpus, catalogue, config.gpu_facts)


def _no_driver(open_library: Callable[[], Library]) -> str:
    """Why there is no driver; empty if there is one, whatever its state."""
    try:
        open_library()
    except NvmlError as error:
        return error.text if error.status in NO_DRIVER else ""
    return ""
