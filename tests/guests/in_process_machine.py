"""A machine inside the test's process: its regions are anonymous mappings, and a move is a copy."""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from godwit.guests.protocol import Guest

GuestT = TypeVar("GuestT", bound=Guest)

CAPACITY = 64
"""Texts that the index of the session's embedder holds."""


@dataclass(frozen=True)
class InProcessVGpu:
    profile: str
    framebuffer: memoryview


@dataclass(frozen=True)
class InProcessMachine:
    name: str
    ram: memoryview
    vgpus: tuple[InProcessVGpu, ...] = ()
    stop_wanted: bool = False

    @classmethod
    def of(cls, ram_bytes: int, *framebuffer_bytes: int) -> InProcessMachine:
        vgpus = (InProcessVGpu("H100XM-4C", region(size)) for size in framebuffer_bytes)
        return cls("tester", region(ram_bytes), tuple(vgpus))

    def regions(self) -> list[memoryview]:
        return [self.ram, *(vgpu.framebuffer for vgpu in self.vgpus)]

    def like(self) -> InProcessMachine:
        """A machine of the same size on another host."""
        return InProcessMachine.of(*(len(region) for region in self.regions()))

    def image(self) -> list[bytes]:
        return [region.tobytes() for region in self.regions()]


@dataclass(frozen=True)
class Booted:
    """A machine whose framebuffer holds the weights, and the checkpoint of its empty index."""

    machine: InProcessMachine
    checkpoint: bytes


def region(size_bytes: int) -> memoryview:
    return memoryview(mmap.mmap(-1, size_bytes))


def moved(
    guest: GuestT,
    source: InProcessMachine,
    destination: InProcessMachine,
    construct: Callable[[], GuestT] | None = None,
) -> GuestT:
    """Copy the regions, spoil the source's first pages, and load a new guest at the destination."""
    checkpoint = guest.save()
    for theirs, ours in zip(source.regions(), destination.regions(), strict=True):
        ours[:] = theirs
        theirs[:4096] = b"\xff" * 4096
    arrived = construct() if construct else type(guest)()
    arrived.load(destination, checkpoint)
    return arrived


def ask(guest: Guest, op: str, **fields: Any) -> dict[str, Any]:
    (reply,) = guest.step([json.dumps({"op": op, **fields}).encode()])
    answer = json.loads(reply)
    assert isinstance(answer, dict)
    return answer
