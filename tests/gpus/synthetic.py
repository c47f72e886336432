"""NVML answers written by hand, after NVML's documentation: SYNTHETIC, no GPU has given them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from godwit.gpus.library import (
    GPU_IS_LOST,
    NOT_SUPPORTED,
    TIMEOUT,
    Handle,
)
from godwit.gpus.recording import Failure

LOST = Failure(GPU_IS_LOST, "GPU is lost")
UNSUPPORTED = Failure(NOT_SUPPORTED, "Not Supported")
FORBIDDEN = Failure(4, "Insufficient Permissions")
NOTHING_NEW = Failure(TIMEOUT, "Timeout")
EVENTS = "nvmlEventSetCreate()"
H100 = "NVIDIA H100 80GB HBM3"
PGPU_METADATA = b"\x00pgpu\xff"
VGPU_METADATA = b"\x00vgpu\xff"

MIG_PROFILES = {0: ("1g.10gb", 19), 2: ("3g.40gb", 9), 4: ("7g.80gb", 0)}
"""NVML's number of each profile: its name and its id."""


def device(index: int) -> str:
    return f"nvmlDeviceGetHandleByIndex({index})"


def of(function: str, index: int, *arguments: object) -> str:
    return f"{function}({', '.join([device(index), *map(str, arguments)])})"


def host(*gpus: Mapping[str, Any], **changed: Any) -> dict[str, Any]:
    """A host with these GPUs, as ``gpu`` gives them."""
    answers: dict[str, Any] = {
        "nvmlSystemGetDriverVersion()": "570.124.06",
        "nvmlDeviceGetCount()": len(gpus),
        "nvmlGetVgpuVersion()": [[1, 12], [5, 9]],
        EVENTS: Handle(EVENTS),
        f"nvmlEventSetWait({EVENTS}, 0)": NOTHING_NEW,
    }
    for one in gpus:
        answers.update(one)
    return {**answers, **changed}


def gpu(index: int, **changed: Any) -> dict[str, Any]:
    """An H100 with MIG off and no vGPU. ``changed``: by function, what it answers instead."""
    functions: dict[str, Any] = {
        "nvmlDeviceGetName": H100,
        "nvmlDeviceGetUUID": f"GPU-synthetic-{index}",
        "nvmlDeviceGetPciInfo": {"busId": address(index)},
        "nvmlDeviceGetMemoryInfo": {
            "total": 85520809984,
            "used": 600000000,
            "free": 84920809984,
        },
        "nvmlDeviceGetEccMode": [1, 1],
        "nvmlDeviceGetMigMode": [0, 0],
        "nvmlDeviceGetSupportedVgpus": [],
        "nvmlDeviceGetActiveVgpus": [],
        "nvmlDeviceGetVgpuMetadata": PGPU_METADATA,
        "nvmlDeviceGetUtilizationRates": {"gpu": 37, "memory": 12},
        "nvmlDeviceGetPowerUsage": 101000,
        **changed,
    }
    answers = {of(function, index): given for function, given in functions.items()}
    answers[device(index)] = Handle(device(index))
    answers.update(
        {
            of("nvmlDeviceGetTemperature", index, 0): 41,
            of("nvmlDeviceGetTotalEccErrors", index, 0, 0): 3,
            of("nvmlDeviceGetTotalEccErrors", index, 1, 0): 0,
            of("nvmlDeviceRegisterEvents", index, 8, EVENTS): None,
        }
    )
    return answers


def address(index: int) -> str:
    return f"00000000:{0x3B + index:02X}:00.0"


def with_mig(index: int, placed: Mapping[str, tuple[tuple[int, int], ...]]) -> dict[str, Any]:
    """A GPU in MIG mode; by profile, the (start, size) of each instance."""
    answers = gpu(index, nvmlDeviceGetMigMode=[1, 1], nvmlDeviceGetUtilizationRates=UNSUPPORTED)
    number = 0
    for profile, (name, profile_id) in MIG_PROFILES.items():
        info = {"id": profile_id, "name": f"MIG {name}"}
        answers[of("nvmlDeviceGetGpuInstanceProfileInfoV", index, profile)] = info
        asked = of("nvmlDeviceGetGpuInstances", index, profile_id)
        instances = []
        for at, (start, size) in enumerate(placed.get(name, ())):
            handle = Handle(f"{asked}[{at}]")
            instances.append(handle)
            answers[f"nvmlGpuInstanceGetInfo({handle.name})"] = {
                "id": number,
                "profileId": profile_id,
                "placement": {"start": start, "size": size},
            }
            number += 1
        answers[asked] = instances
    return answers


def with_vgpu(index: int) -> dict[str, Any]:
    """A GPU that offers H100XM-20C, one of which runs."""
    return {
        **gpu(index, nvmlDeviceGetSupportedVgpus=[1100], nvmlDeviceGetActiveVgpus=[77]),
        "nvmlVgpuTypeGetName(1100)": "NVIDIA H100XM-20C",
        "nvmlVgpuTypeGetFramebufferSize(1100)": 20 * 2**30,
        of("nvmlVgpuTypeGetMaxInstances", index, 1100): 4,
        of("nvmlDeviceGetVgpuTypeSupportedPlacements", index, 1100, 0): {
            "placementSize": 4,
            "placementIds": [0, 4, 8, 12],
        },
        "nvmlVgpuInstanceGetType(77)": 1100,
        "nvmlVgpuInstanceGetUUID(77)": "vgpu-uuid",
        "nvmlVgpuInstanceGetVmID(77)": [b"vm-7", 0],
        "nvmlVgpuInstanceGetPlacementId(77)": 4,
        "nvmlVgpuInstanceGetFbUsage(77)": 3 * 2**30,
        "nvmlVgpuInstanceGetRuntimeStateSize(77)": {"size": 123456},
        "nvmlVgpuInstanceGetMetadata(77)": VGPU_METADATA,
    }


def joined(index: int, *remotes: str) -> dict[str, Any]:
    """Active NVLinks of a GPU, to PCI addresses or to ``switch``."""
    answers: dict[str, Any] = {}
    for link, remote in enumerate(remotes):
        answers[of("nvmlDeviceGetNvLinkState", index, link)] = 1
        kind = 2 if remote == "switch" else 0
        answers[of("nvmlDeviceGetNvLinkRemoteDeviceType", index, link)] = kind
        answers[of("nvmlDeviceGetNvLinkRemotePciInfo", index, link)] = {"busId": remote}
    return answers
