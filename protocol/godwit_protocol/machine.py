"""What a machine is made of: its specification, regions and pages. Pure data."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from .errors import InvalidInputError
from .placement.policy import DeviceGroup, Policy
from .subjects import checked_name

PAGE_BYTES: Final = 4096
LEAF_BYTES: Final = 65536
RAM_REGION: Final = "ram"
VGPUS_MAX: Final = 63
"""With its RAM, 64 regions: each is a file descriptor that is passed between processes."""
DEFAULT_TENANT: Final = "default"


class HypervisorKind(StrEnum):
    """The driver that runs a machine."""

    NATIVE = "native"
    QEMU = "qemu"


class RegionSpec(msgspec.Struct, frozen=True):
    """One contiguous block of machine memory. ``size_bytes`` is a multiple of the page size."""

    name: str
    size_bytes: int


class VGpuSpec(msgspec.Struct, frozen=True):
    """One vGPU: its profile's name and the size of its framebuffer."""

    profile: str
    framebuffer_bytes: int


class MachineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All that is needed to create a machine, the same on every host.

    ``guest`` is ``module:Class``, or ``NAME.py:Class`` with the file's text in ``guest_source``, so
    that a host needs no copy of the user's file. ``placement_policy`` and ``device_group`` say
    where its vGPUs go, here and on every host that it moves to. Content is shared between machines
    of one ``tenant`` only.
    """

    name: str
    guest: str
    guest_source: str = ""
    hypervisor: HypervisorKind = HypervisorKind.NATIVE
    ram_bytes: int
    vgpus: tuple[VGpuSpec, ...] = ()
    env: dict[str, str] = {}
    placement_policy: Policy = Policy.CONSOLIDATE
    device_group: DeviceGroup = DeviceGroup.NONE
    tenant: str = DEFAULT_TENANT

    def regions(self) -> tuple[RegionSpec, ...]:
        """Return the machine's regions: ``ram``, then ``vgpu0.framebuffer`` and so on."""
        framebuffers = (
            RegionSpec(f"vgpu{index}.framebuffer", vgpu.framebuffer_bytes)
            for index, vgpu in enumerate(self.vgpus)
        )
        return (RegionSpec(RAM_REGION, self.ram_bytes), *framebuffers)

    def checked(self) -> MachineSpec:
        """Return self if every region is a positive whole number of pages, the tenant a name, each
        variable one that a process can be given, and there are not too many vGPUs.

        Raises ``InvalidInputError`` naming what is wrong.
        """
        checked_name(self.tenant, "tenant")
        if len(self.vgpus) > VGPUS_MAX:
            raise InvalidInputError(
                f"machine {self.name} has {len(self.vgpus)} vGPUs",
                hint=f"a machine has at most {VGPUS_MAX}",
            )
        for name, value in self.env.items():
            if not name or "=" in name or "\0" in name + value:
                raise InvalidInputError(
                    f"machine {self.name} cannot be given the variable {name!r}",
                    hint="a name has at least one character and no '=', and nothing has a NUL",
                )
        for region in self.regions():
            if region.size_bytes <= 0 or region.size_bytes % PAGE_BYTES:
                raise InvalidInputError(
                    f"region {region.name} of machine {self.name} has {region.size_bytes} bytes",
                    hint=f"give a positive multiple of {PAGE_BYTES} bytes",
                )
        return self
