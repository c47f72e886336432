"""NVML's own verdict on moving this host's vGPUs to GPUs of other hosts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from godwit_protocol.facts import NvmlVerdict

from .library import Library, NvmlError, Plain

TARGETS_MAX = 64
"""Different GPUs that are asked about; a cluster has as many as it has boards and drivers."""


def verdicts(library: Library, targets: Sequence[bytes]) -> tuple[NvmlVerdict, ...]:
    """Ask for every kind of vGPU that runs here and every different target, once each.

    What NVML does not answer has no verdict, and so refuses.
    """
    asked: dict[tuple[int, str, bytes], NvmlVerdict] = {}
    try:
        for gpu, vgpu_type, metadata in _running(library):
            for target in list(dict.fromkeys(targets))[:TARGETS_MAX]:
                digest = hashlib.sha256(target).digest()
                if (gpu, vgpu_type, digest) not in asked:
                    answer = library.ask("nvmlGetVgpuCompatibility", metadata, target)
                    asked[gpu, vgpu_type, digest] = _verdict(gpu, vgpu_type, digest, answer)
    except NvmlError:
        return tuple(asked.values())
    return tuple(asked.values())


def _running(library: Library) -> Iterator[tuple[int, str, bytes]]:
    for index in range(library.ask("nvmlDeviceGetCount")):
        device = library.ask("nvmlDeviceGetHandleByIndex", index)
        for instance in library.ask("nvmlDeviceGetActiveVgpus", device):
            kind = library.ask("nvmlVgpuInstanceGetType", instance)
            name = library.ask("nvmlVgpuTypeGetName", kind).rpartition(" ")[2]
            yield index, name, library.ask("nvmlVgpuInstanceGetMetadata", instance)


def _verdict(gpu: int, vgpu_type: str, digest: bytes, answer: Plain) -> NvmlVerdict:
    return NvmlVerdict(
        gpu=gpu,
        vgpu_type=vgpu_type,
        metadata_digest=digest,
        states=answer["vgpuVmCompatibility"],
        limits=answer["compatibilityLimitCode"],
    )
