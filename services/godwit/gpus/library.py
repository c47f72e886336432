"""NVML's functions, asked by name with plain data on both sides.

The seam at which answers can be recorded and played back: whoever asks needs no ctypes. A handle is
named by the question that gave it, so that it means the same in every recording. Knows nothing of
what the answers are for.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

from godwit_protocol.errors import GodwitError

UNINITIALIZED: Final = 1
NOT_SUPPORTED: Final = 3
DRIVER_NOT_LOADED: Final = 9
TIMEOUT: Final = 10
LIBRARY_NOT_FOUND: Final = 12
FUNCTION_NOT_FOUND: Final = 13
GPU_IS_LOST: Final = 15
RESET_REQUIRED: Final = 16


class NvmlError(GodwitError):
    """NVML answered a question with an error. ``code`` is one of its ``NVML_ERROR_…``."""

    code = "nvml"

    def __init__(self, function: str, status: int, text: str) -> None:
        super().__init__(f"{function}: {text}")
        self.function = function
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True)
class Handle:
    """A thing of NVML's. ``name``: the question that gave it; ``raw``: what NVML knows it by."""

    name: str
    raw: Any = field(default=None, compare=False, repr=False)


Plain: TypeAlias = Any
"""None, numbers, text, bytes, handles, and lists and mappings of them."""


class Library(Protocol):
    """NVML, or what stands in for it."""

    def ask(self, function: str, *arguments: Plain) -> Plain:
        """Call a function. Raises ``NvmlError``."""


def spelled(function: str, arguments: tuple[Plain, ...]) -> str:
    """A question as text: ``nvmlDeviceGetName(nvmlDeviceGetHandleByIndex(0))``."""
    return f"{function}({', '.join(_spelled(item) for item in arguments)})"


def _spelled(argument: Plain) -> str:
    if isinstance(argument, Handle):
        return argument.name
    return argument.hex() if isinstance(argument, bytes) else str(argument)


class Nvml:
    """The real one, through nvidia-ml-py. Not thread-safe."""

    def __init__(self) -> None:
        """Initialise NVML. Raises ``NvmlError``: ``LIBRARY_NOT_FOUND`` and ``DRIVER_NOT_LOADED``
        mean that there is no driver.
        """
        import pynvml

        self._pynvml = pynvml
        self._spare: dict[str, Callable[..., Plain]] = {
            "nvmlDeviceGetGpuInstancePossiblePlacements": self._possible_placements,
            "nvmlDeviceGetGpuInstances": self._gpu_instances,
            "nvmlDeviceGetVgpuTypeSupportedPlacements": self._vgpu_placements,
            "nvmlVgpuInstanceGetMetadata": self._vgpu_metadata,
            "nvmlDeviceGetVgpuMetadata": self._pgpu_metadata,
            "nvmlGetVgpuCompatibility": self._compatibility,
        }
        self.ask("nvmlInit")

    def ask(self, function: str, *arguments: Plain) -> Plain:
        """As ``Library.ask``."""
        raw = [item.raw if isinstance(item, Handle) else item for item in arguments]
        call = self._spare.get(function) or getattr(self._pynvml, function, None)
        if call is None:
            raise NvmlError(function, FUNCTION_NOT_FOUND, "nvidia-ml-py has no such function")
        try:
            answer = call(*raw)
        except self._pynvml.NVMLError as error:
            raise NvmlError(function, error.value, str(error)) from error
        return plain(answer, spelled(function, arguments))

    # Functions that want ctypes, or whose wrapper loses something.

    def _possible_placements(self, device: Any, profile_id: int) -> Plain:
        return self._listed(
            self._pynvml.c_nvmlGpuInstancePlacement_t,
            self._pynvml.nvmlDeviceGetGpuInstancePossiblePlacements,
            device,
            profile_id,
        )

    def _gpu_instances(self, device: Any, profile_id: int) -> Plain:
        return self._listed(
            self._pynvml.c_nvmlGpuInstance_t,
            self._pynvml.nvmlDeviceGetGpuInstances,
            device,
            profile_id,
        )

    def _listed(
        self, kind: Any, function: Callable[..., Any], device: Any, profile_id: int
    ) -> list[Any]:
        count = ctypes.c_uint(_LISTED_MAX)
        items = (kind * _LISTED_MAX)()
        function(device, profile_id, items, ctypes.byref(count))
        return list(items[: count.value])

    def _vgpu_placements(self, device: Any, type_id: int, mode: int) -> Plain:
        """``mode`` 0: for mixed sizes, also while the GPU is not in that mode; 1: equal ones."""
        found = self._pynvml.nvmlDeviceGetVgpuTypeSupportedPlacements(device, type_id, mode, 2)
        starts = [int(found.placementIds[at]) for at in range(found.count)]
        return {"placementSize": found.placementSize, "placementIds": starts}

    # A field of characters ends at its first zero: the whole struct is kept.

    def _vgpu_metadata(self, instance: int) -> bytes:
        return bytes(self._pynvml.nvmlVgpuInstanceGetMetadata(instance))

    def _pgpu_metadata(self, device: Any) -> bytes:
        return bytes(self._pynvml.nvmlDeviceGetVgpuMetadata(device))

    def _compatibility(self, vgpu: bytes, pgpu: bytes) -> Plain:
        here = self._pynvml.c_nvmlVgpuMetadata_t.from_buffer_copy(vgpu)
        there = self._pynvml.c_nvmlVgpuPgpuMetadata_t.from_buffer_copy(pgpu)
        return self._pynvml.nvmlGetVgpuCompatibility(here, there)


_LISTED_MAX: Final = 64
"""Instances and placements of one profile; a GPU has eight slices."""


def plain(value: Any, name: str) -> Plain:
    """What pynvml returned, as plain data. A pointer becomes a handle called ``name``."""
    if isinstance(value, ctypes._Pointer):
        return Handle(name, value)
    if isinstance(value, ctypes.Structure):
        fields = [item[0] for item in value._fields_]
        return {item: plain(getattr(value, item), f"{name}.{item}") for item in fields}
    if isinstance(value, ctypes.Array | list | tuple):
        return [plain(item, f"{name}[{at}]") for at, item in enumerate(value)]
    if isinstance(value, ctypes._SimpleCData):
        return value.value
    return value
