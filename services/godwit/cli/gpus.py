"""``godwit gpus``: each host's GPUs and what sits on them, one by one or grouped."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import cycle, groupby
from string import ascii_lowercase
from typing import Annotated, Final

import typer

from godwit.pictures.figures import count, size
from godwit.pictures.hosts import GpuPicture, Hosts, on_which_fits
from godwit_protocol.catalogue import Catalogue, GpuMode
from godwit_protocol.placement.geometry import pieces

from . import completion
from .connection import DirectoryOption, JsonOption, find_catalogue
from .watching import View, WatchOption, show

CELLS: Final = 16
"""Columns that a GPU's slots are drawn in, about."""
EACH_MAX: Final = 64
"""More GPUs than that are shown by host, unless something else is asked for."""
LEVELS: Final = "·▁▂▃▄▅▆▇█"
"""How much of a GPU's memory is booked: nothing, parts, all."""

HostOption = Annotated[
    str,
    typer.Option(metavar="HOST", help="Only this host's GPUs.", autocompletion=completion.hosts),
]
ModelOption = Annotated[str, typer.Option(metavar="MODEL", help="Only GPUs of this model.")]


_EACH: Final[tuple[str, ...]] = (
    *("HOST", ">GPU", "MODEL", ">MEMORY", ">FREE", "LOAD", "MODE", ">FRAG", "HEALTH"),
    *("SLOTS", "HOLDS"),
)
_GROUP: Final = (">MEMORY", ">FREE", ">EMPTY", ">VGPUS", ">FRAG", "HEALTH", "BOOKED")


class By(StrEnum):
    """What one line is about."""

    GPU = "gpu"
    HOST = "host"
    MODEL = "model"


def gpus(
    host: HostOption = "",
    model: ModelOption = "",
    profile: Annotated[
        str, typer.Option(metavar="PROFILE", help="Only GPUs on which one more of it fits.")
    ] = "",
    by: Annotated[
        By | None,
        typer.Option(help=f"A line for each; by host if there are more than {EACH_MAX} GPUs."),
    ] = None,
    watch: WatchOption = False,
    directory: DirectoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show each host's GPUs, what sits on them, and what is free, drawn to scale.

    A simulated GPU comes from its host's configuration: no such device is there. FRAG is the part
    of the placements that would be legal if what sits on the GPU were seated anew, and is not now.
    """
    catalogue = find_catalogue()

    def draw(hosts: Hosts) -> View:
        pictures = hosts.pictures(host, model)
        found = hosts.gpus(pictures, catalogue, time.time_ns())
        if profile:
            found = on_which_fits(found, pictures, catalogue, profile)
        return view_of(found, catalogue, by)

    show(directory, draw, watch=watch, as_json=as_json)


def view_of(found: Sequence[GpuPicture], catalogue: Catalogue, by: By | None) -> View:
    """The GPUs as a table: a line for each, or for each group."""
    by = by or (By.HOST if len(found) > EACH_MAX else By.GPU)
    if by is By.GPU:
        columns, rows = _EACH, [_row(picture, catalogue) for picture in found]
    else:
        columns = (by.upper(), ">GPUS", "MODEL" if by is By.HOST else "HOSTS", *_GROUP)
        rows = [_group_row(group, by) for group in _grouped(found, by)]
    simulated = sum(picture.gpu.simulated for picture in found)
    notes = [f"{count(simulated, 'GPU')} of {len(found):,} SIMULATED"] if simulated else []
    json = [picture.as_json() for picture in found]
    empty = "no host has announced such a GPU"
    return View(columns=columns, rows=rows, empty=empty, notes=notes, json=json)


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
        load(picture),
        "-" if picture.mode is GpuMode.NONE else picture.mode.value,
        _percent(picture.fragmentation),
        picture.health or "-",
        slots(picture, width_of(picture, catalogue)),
        holds or "-",
    )


def load(picture: GpuPicture) -> str:
    """What the driver last told: ``37 % 12.0 GiB 61 °C``; ``-`` for nothing."""
    told = picture.telemetry
    if told is None:
        return "-"
    parts = (
        None if told.utilisation_percent is None else f"{told.utilisation_percent} %",
        None if told.memory_used_bytes is None else size(told.memory_used_bytes),
        None if told.temperature_celsius is None else f"{told.temperature_celsius} °C",
    )
    return " ".join(part for part in parts if part is not None) or "-"


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


def _grouped(found: Sequence[GpuPicture], by: By) -> list[list[GpuPicture]]:
    """The GPUs of a host and a model together, or all of a model."""

    def key(picture: GpuPicture) -> tuple[str, str]:
        return (picture.host if by is By.HOST else "", picture.gpu.model)

    return [list(group) for _, group in groupby(sorted(found, key=key), key=key)]


def _group_row(group: Sequence[GpuPicture], by: By) -> Sequence[str]:
    first = group[0].gpu
    model = f"{first.model} SIMULATED" if all(item.gpu.simulated for item in group) else first.model
    hosts = len({item.host for item in group})
    known = [item.fragmentation for item in group if item.fragmentation is not None]
    ill = [item.health for item in group if item.health not in ("", "ok")]
    told = any(item.health for item in group)
    return (
        group[0].host if by is By.HOST else model,
        str(len(group)),
        model if by is By.HOST else str(hosts),
        size(sum(item.gpu.memory_bytes for item in group)),
        size(sum(item.free_bytes for item in group)),
        str(sum(not item.holds for item in group)),
        str(sum(len(item.holds) for item in group)),
        _percent(sum(known) / len(known) if known else None),
        ", ".join(sorted(set(ill))) or ("ok" if told else "-"),
        booked(group) if by is By.HOST else spread(group),
    )


def booked(group: Sequence[GpuPicture]) -> str:
    """Each GPU as one character of ``LEVELS``."""
    return "".join(LEVELS[_level(item)] for item in group)


def spread(group: Sequence[GpuPicture]) -> str:
    """How many GPUs there are of each of ``LEVELS``, such as ``12 ·  3 ▄``."""
    levels = Counter(_level(item) for item in group)
    return "  ".join(f"{times} {LEVELS[level]}" for level, times in sorted(levels.items()))


def _level(picture: GpuPicture) -> int:
    total = picture.gpu.memory_bytes
    parts = len(LEVELS) - 1
    return min(-(-(total - picture.free_bytes) * parts // total), parts) if total else 0


def _percent(part: float | None) -> str:
    return "-" if part is None else f"{100 * part:.0f} %"


def _marks() -> Iterator[str]:
    return cycle(ascii_lowercase)
