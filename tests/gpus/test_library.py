"""The real library's wrappers, over C functions that a test plays: what crosses ctypes, and how."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pynvml
import pytest

from godwit.gpus.library import NOT_SUPPORTED, Handle, Nvml, NvmlError


class CFunctions:
    """What ``libnvidia-ml.so.1`` would export; each returns NVML's status. SYNTHETIC."""

    def __init__(self, **functions: Callable[..., int]) -> None:
        self.functions = {"nvmlInitWithFlags": lambda _flags: 0, **functions}

    def __getattr__(self, name: str) -> Callable[..., int]:
        try:
            return self.functions[name]
        except KeyError:
            raise AttributeError(name) from None


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Nvml]:
    def opened(**functions: Callable[..., int]) -> Nvml:
        monkeypatch.setattr(pynvml, "nvmlLib", CFunctions(**functions))
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        return Nvml()

    return opened


def device_at(_index: Any, out: Any) -> int:
    ctypes.cast(out, ctypes.POINTER(ctypes.c_void_p))[0] = 0x1234
    return 0


def test_a_handle_is_named_by_the_question_that_gave_it(nvml: Callable[..., Nvml]) -> None:
    asked: list[Any] = []

    def memory(device: Any, out: Any) -> int:
        asked.append(ctypes.cast(device, ctypes.c_void_p).value)
        out._obj.total, out._obj.used, out._obj.free = 30, 10, 20
        return 0

    library = nvml(nvmlDeviceGetHandleByIndex_v2=device_at, nvmlDeviceGetMemoryInfo=memory)
    device = library.ask("nvmlDeviceGetHandleByIndex", 0)
    assert device == Handle("nvmlDeviceGetHandleByIndex(0)")
    found = library.ask("nvmlDeviceGetMemoryInfo", device)
    assert found == {"total": 30, "used": 10, "free": 20}
    assert asked == [0x1234]


def test_an_error_has_its_status_and_its_text(nvml: Callable[..., Nvml]) -> None:
    library = nvml(nvmlDeviceGetCount_v2=lambda _out: NOT_SUPPORTED)
    with pytest.raises(NvmlError, match="Not Supported") as caught:
        library.ask("nvmlDeviceGetCount")
    assert caught.value.status == NOT_SUPPORTED


def test_a_function_that_the_driver_lacks_is_an_error_like_others(
    nvml: Callable[..., Nvml],
) -> None:
    with pytest.raises(NvmlError, match="Function Not Found"):
        nvml().ask("nvmlDeviceGetCount")


def test_a_function_that_the_package_lacks_is_an_error_like_others(
    nvml: Callable[..., Nvml],
) -> None:
    with pytest.raises(NvmlError, match="no such function"):
        nvml().ask("nvmlDeviceGetFutureThing")


def test_placements_and_instances_come_as_lists(nvml: Callable[..., Nvml]) -> None:
    def placements(_device: Any, profile: int, items: Any, count: Any) -> int:
        assert profile == 9
        for at, start in enumerate((0, 4)):
            items[at].start, items[at].size = start, 4
        count._obj.value = 2
        return 0

    def instances(_device: Any, _profile: int, items: Any, count: Any) -> int:
        raw = ctypes.cast(items, ctypes.POINTER(ctypes.c_void_p))
        raw[0] = 0x77
        count._obj.value = 1
        return 0

    library = nvml(
        nvmlDeviceGetGpuInstancePossiblePlacements_v2=placements,
        nvmlDeviceGetGpuInstances=instances,
    )
    device = Handle("d")
    found = library.ask("nvmlDeviceGetGpuInstancePossiblePlacements", device, 9)
    assert found == [{"start": 0, "size": 4}, {"start": 4, "size": 4}]
    assert library.ask("nvmlDeviceGetGpuInstances", device, 9) == [
        Handle("nvmlDeviceGetGpuInstances(d, 9)[0]")
    ]


def test_the_places_of_a_vgpu_type_come_as_numbers(nvml: Callable[..., Nvml]) -> None:
    def most(_device: Any, _type: int, out: Any) -> int:
        out._obj.value = 2
        return 0

    def places(_device: Any, _type: int, out: Any) -> int:
        assert (out._obj.count, out._obj.mode) == (2, 0)
        out._obj.placementSize = 8
        out._obj.placementIds[0], out._obj.placementIds[1] = 0, 8
        return 0

    library = nvml(
        nvmlVgpuTypeGetMaxInstances=most, nvmlDeviceGetVgpuTypeSupportedPlacements=places
    )
    found = library.ask("nvmlDeviceGetVgpuTypeSupportedPlacements", Handle("d"), 1100, 0)
    assert found == {"placementSize": 8, "placementIds": [0, 8]}


def test_metadata_is_whole_though_it_has_zeros_and_goes_back_as_it_came(
    nvml: Callable[..., Nvml],
) -> None:
    secret = b"\x00\xff\x00end"

    def fill(out: Any) -> None:
        where = ctypes.addressof(out._obj) + type(out._obj).opaqueData.offset
        ctypes.memmove(where, secret, len(secret))

    def vgpu(_instance: Any, out: Any, _size: Any) -> int:
        fill(out)
        return 0

    def compatible(here: Any, there: Any, out: Any) -> int:
        assert secret in bytes(here._obj)
        assert secret in bytes(there._obj)
        out._obj.vgpuVmCompatibility, out._obj.compatibilityLimitCode = 9, 0x80000000
        return 0

    library = nvml(
        nvmlVgpuInstanceGetMetadata=vgpu,
        nvmlDeviceGetVgpuMetadata=vgpu,
        nvmlGetVgpuCompatibility=compatible,
    )
    here = library.ask("nvmlVgpuInstanceGetMetadata", 77)
    there = library.ask("nvmlDeviceGetVgpuMetadata", Handle("d"))
    assert secret in here
    assert library.ask("nvmlGetVgpuCompatibility", here, there) == {
        "vgpuVmCompatibility": 9,
        "compatibilityLimitCode": 0x80000000,
    }
