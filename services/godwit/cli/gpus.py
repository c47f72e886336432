"""``godwit gpus``: each host's GPUs and what sits on them."""

from __future__ import annotations

from collections.abc import Sequence

from . import output
from .connection import DirectoryOption, JsonOption, open_log, run
from .figures import size
from .host_pictures import GpuPicture, all_gpus


def gpus(directory: DirectoryOption = None, as_json: JsonOption = False) -> None:
    """Show each host's GPUs, what sits on them, and what is free.

    A simulated GPU comes from its host's configuration: no such device is there.
    """

    async def work() -> list[GpuPicture]:
        async with open_log(directory) as log:
            return await all_gpus(log)

    pictures = run(work())
    if as_json:
        output.print_json([picture.as_json() for picture in pictures])
        return
    columns = ("HOST", ">GPU", "MODEL", ">MEMORY", ">FREE", "HOLDS")
    rows = [_row(picture) for picture in pictures]
    output.print_table(columns, rows, "no host has announced a GPU")


def _row(picture: GpuPicture) -> Sequence[str]:
    gpu = picture.gpu
    holds = "\n".join(f"{item.machine}: {item.profile} ({item.state})" for item in picture.holds)
    return (
        picture.host,
        str(gpu.index),
        f"{gpu.model} SIMULATED" if gpu.simulated else gpu.model,
        size(gpu.memory_bytes),
        size(picture.free_bytes),
        holds or "-",
    )
