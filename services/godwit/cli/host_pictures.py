"""Hosts and their GPUs as the log shows them: each inventory with the fold of its ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from godwit_protocol import codec, ledger, subjects
from godwit_protocol.catalogue import GpuMode
from godwit_protocol.events.machine import GpuInventory, HostAnnounced
from godwit_protocol.ledger import EntryKind, HostPicture

from . import reading

if TYPE_CHECKING:
    from godwit.runtime.event_log import EventLog


class OnGpu(msgspec.Struct, frozen=True, kw_only=True):
    """One vGPU on a GPU, or capacity that is held for it. ``start`` -1: nobody knows where."""

    machine: str
    profile: str
    framebuffer_bytes: int
    mode: GpuMode
    start: int
    slots: int
    state: EntryKind
    reservation: str


class GpuPicture(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU and what sits on it. Sizes in bytes."""

    host: str
    gpu: GpuInventory
    free_bytes: int
    holds: tuple[OnGpu, ...]

    @property
    def mode(self) -> GpuMode:
        """How the GPU is divided, as what sits on it says."""
        return next((item.mode for item in self.holds), GpuMode.NONE)

    def as_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        gpu = self.gpu
        return {
            "host": self.host,
            "gpu": gpu.index,
            "model": gpu.model,
            "simulated": gpu.simulated,
            "mode": self.mode.value,
            "memory_bytes": gpu.memory_bytes,
            "free_bytes": self.free_bytes,
            "holds": [msgspec.to_builtins(item) for item in self.holds],
        }


async def all_gpus(log: EventLog) -> list[GpuPicture]:
    """Every GPU of every host, by host and index. Raises ``UnreachableError``."""
    pictures: dict[str, HostPicture] = {}
    announced = await reading.last_of_each(log, (subjects.inventory("*"),))
    for stored in announced.values():
        recorded = codec.decode(stored.data, stored.sequence)
        if isinstance(recorded.event, HostAnnounced):
            host = recorded.envelope.host
            pictures[host] = HostPicture(host=host, announced=True, gpus=recorded.event.gpus)
    async for stored in reading.messages(log, (subjects.ledger("*"),)):
        entry = ledger.decode_entry(stored.data)
        if entry.host in pictures:
            pictures[entry.host] = ledger.apply(pictures[entry.host], entry, stored.sequence)
    return [
        _gpu_picture(picture, gpu)
        for _, picture in sorted(pictures.items())
        for gpu in picture.gpus
    ]


def _gpu_picture(picture: HostPicture, gpu: GpuInventory) -> GpuPicture:
    holds = tuple(
        OnGpu(
            machine=holding.machine,
            profile=placement.profile,
            framebuffer_bytes=placement.framebuffer_bytes,
            mode=placement.mode,
            start=placement.start,
            slots=placement.slots,
            state=EntryKind.CONFIRMED if holding.confirmed else EntryKind.HELD,
            reservation=holding.reservation,
        )
        for holding in picture.holdings.values()
        for placement in holding.placements
        if placement.gpu == gpu.index
    )
    return GpuPicture(
        host=picture.host, gpu=gpu, free_bytes=picture.free_bytes(gpu.index), holds=holds
    )
