"""``godwit capacity``: how much of each profile is in use, and how much more there could be."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from godwit.pictures.figures import count
from godwit.pictures.hosts import BOOKS, Hosts
from godwit_protocol.capacity import ProfileCapacity, capacities
from godwit_protocol.catalogue import Catalogue

from .connection import DirectoryOption, JsonOption, find_catalogue
from .gpus import HostOption, ModelOption
from .watching import View, WatchOption, show


def capacity(
    profile: Annotated[
        list[str] | None,
        typer.Option(metavar="PROFILE", help="Only this profile. May be repeated."),
    ] = None,
    host: HostOption = "",
    model: ModelOption = "",
    watch: WatchOption = False,
    directory: DirectoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show of each profile how many are in use, reserved, and still fit.

    REPACKED is how many more would fit if all that sits on the GPUs of a model were seated anew:
    one number where that is known exactly, else at least and at most.
    """
    catalogue = find_catalogue()

    def draw(hosts: Hosts) -> View:
        return view_of(hosts, catalogue, profile or (), host=host, model=model)

    show(directory, draw, watch=watch, as_json=as_json, sources=BOOKS)


def view_of(
    hosts: Hosts, catalogue: Catalogue, profiles: list[str] | tuple[()], *, host: str, model: str
) -> View:
    """The profiles as a table. Raises ``NotFoundError``, and as ``capacities``."""
    pictures = hosts.pictures(host, model)
    found = capacities(pictures, catalogue, profiles)
    gpus = [gpu for picture in pictures for gpu in picture.gpus]
    simulated = sum(gpu.simulated for gpu in gpus)
    notes = [f"{count(simulated, 'GPU')} of {len(gpus):,} SIMULATED"] if simulated else []
    return View(
        columns=("PROFILE", ">CONSUMED", ">RESERVED", ">REMAINING", ">MAXIMUM", ">REPACKED"),
        rows=[_row(item) for item in found],
        empty="no GPU of the catalogue has been announced",
        notes=notes,
        json={
            "hosts": len(pictures),
            "gpus": len(gpus),
            "simulated_gpus": simulated,
            "profiles": [msgspec.to_builtins(item) for item in found],
        },
    )


def _row(item: ProfileCapacity) -> tuple[str, ...]:
    room = item.repacked
    exact = room.at_least == room.at_most
    return (
        item.profile,
        str(item.consumed),
        str(item.reserved),
        str(item.remaining),
        str(item.maximum),
        str(room.at_least) if exact else f"{room.at_least}-{room.at_most}",
    )
