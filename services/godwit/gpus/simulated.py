"""GPUs from a host's configuration. No such device is there: all that is told is SIMULATED.

They declare what a host of such GPUs would usually tell, so that everything which goes by facts can
be tried; ``GODWIT_GPU_FACTS`` changes what they declare.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from godwit_protocol.catalogue import Catalogue, GpuModel
from godwit_protocol.events.machine import GpuInventory
from godwit_protocol.facts import DeclaredFacts, GpuFacts, NvmlVerdict, Setting, VersionRange

from .port import GpuLook

DRIVER: Final = "570.0-simulated"
VGPU_VERSIONS: Final = VersionRange(1, 1)


class SimulatedGpus:
    """The port for GPUs that are only configured."""

    simulated = True

    def __init__(
        self, host: str, models: Sequence[str], catalogue: Catalogue, declared: DeclaredFacts
    ) -> None:
        """``models``: one name a GPU. Raises ``InvalidInputError`` if the catalogue lacks one."""
        found = [catalogue.model(name) for name in models]
        self._look = GpuLook(
            gpus=tuple(_gpu(host, index, found, declared) for index in range(len(found))),
            driver=(declared.driver or DRIVER) if found else "",
        )

    async def look(self) -> GpuLook:
        """As ``GpuSource.look``: always the same."""
        return self._look

    async def judge(self, targets: Sequence[bytes]) -> tuple[NvmlVerdict, ...]:
        """As ``GpuSource.judge``: there is no NVML to ask."""
        return ()


def _gpu(
    host: str, index: int, models: Sequence[GpuModel], declared: DeclaredFacts
) -> GpuInventory:
    model = models[index]
    joined = [at for at, other in enumerate(models) if at != index and other.model == model.model]
    peers = tuple(joined) if model.nvlink else ()
    return GpuInventory(
        index=index,
        model=model.model,
        memory_bytes=model.memory_bytes,
        simulated=True,
        nvlink_peers=peers,
        facts=GpuFacts(
            uuid=f"GPU-simulated-{host}-{index}",
            pci_address=f"simulated:{index:02x}:00.0",
            board=f"{model.model} simulated",
            ecc=_or(declared.ecc, Setting.ON),
            mig_instances=(),
            vgpus=(),
            vgpu_versions=VGPU_VERSIONS,
            unified_memory=_or(declared.unified_memory, Setting.OFF),
            debugger=_or(declared.debugger, Setting.OFF),
            profiler=_or(declared.profiler, Setting.OFF),
            nvlink=Setting.ON if peers else Setting.OFF,
            unanswered=_NOT_SIMULATED,
        ),
    )


def _or(declared: Setting, usual: Setting) -> Setting:
    return usual if declared is Setting.UNKNOWN else declared


_NOT_SIMULATED: Final[dict[str, str]] = {
    "mig": "a simulated GPU divides itself as its first vGPU needs",
    "xids": "a simulated GPU has no errors to tell",
}
