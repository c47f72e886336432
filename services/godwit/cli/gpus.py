"""``godwit gpus``: each host's GPUs and what sits on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from string import ascii_lowercase
from typing import Final

from godwit_protocol.catalogue import Catalogue, GpuMode
from godwit_protocol.placement.geometry import pieces

from . import output
from .connection import DirectoryOption, JsonOption, find_catalogue, open_log, run
from .figures import size
from .host_pictures import GpuPicture, all_gpus

CELLS: Final = 16
"""Columns that a GPU's slots are drawn in, about."""


def gpus(directory: DirectoryOption = None, as_json: JsonOption = False) -> None:
    """Show each host's GPUs, what sits on them, and what is free, drawn to scale.

    A simulated GPU comes from its host's configuration: no such device is there.
    """

    async def work() -> list[GpuPicture]:
        async with open_log(directory) as log:
            return await all_gpus(log)

    pictures = run(work())
    if as_json:
        output.print_json([picture.as_json() for picture in pictures])
        return
    columns = ("HOST", ">GPU", "MODEL", ">MEMORY", ">FREE", "MODE", "SLOTS", "HOLDS")
    catalogue = find_catalogue()
    rows = [_row(picture, catalogue) for picture in pictures]
    output.print_table(columns, rows, "no host has announced a GPU")


def _row(picture: GpuPicture, catalogue: Catalogue) -> Sequence[str]:
    gpu = picture.gpu
    holds = "\n".join(
        f"{mark} {item.machine}: {item.profile} ({item.state})"
        for mark, item in zip(_marks(), picture.holds, strict=False)
    )
    return (
        picture.host,
        str(gpu.index),
        f"{gpu.model} SIMULATED" if gpu.simulated else gpu.model,
        size(gpu.memory_bytes),
        size(picture.free_bytes),
        "-" if picture.mode is GpuMode.NONE else picture.mode.value,
        slots(picture, width_of(picture, catalogue)),
        holds or "-",
    )


def slots(picture: GpuPicture, width: int) -> str:
    """The GPU's ``width`` slots drawn to scale, each vGPU by its mark and ``·`` for what is free;
    ``-`` if nothing sits there, or it is not known where.
    """
    if not width:
        return "-"
    drawn = ["·"] * width
    for mark, item in zip(_marks(), picture.holds, strict=False):
        drawn[item.start : item.start + item.slots] = mark * item.slots
    return "".join(cell * max(1, CELLS // width) for cell in drawn)


def width_of(picture: GpuPicture, catalogue: Catalogue) -> int:
    """How many slots the GPU has in its mode; 0 if that cannot be told."""
    model = catalogue.models.get(picture.gpu.model)
    if model is None or not picture.holds or any(item.start < 0 for item in picture.holds):
        return 0
    first = picture.holds[0]
    ways = pieces(model).get(first.profile, ())
    return next((way.width for way in ways if way.mode is first.mode), 0)


def _marks() -> Iterator[str]:
    return cycle(ascii_lowercase)
