"""GPU models and what each can be divided into: the figures that placement goes by. Pure.

The figures themselves stand in data files, each with its source; a loader reads them and hands them
in. What is checked here is what no single figure shows: that slices lie on the GPU, that names are
unambiguous, that what is backed by a GPU instance names one.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Final, TypeVar

import msgspec

from .errors import InvalidInputError
from .machine import PAGE_BYTES

GIB: Final = 1024**3
SLOTS_MAX: Final = 64
"""Into so many parts a GPU's memory is divided at most."""

_Count = Annotated[int, msgspec.Meta(ge=1, le=SLOTS_MAX)]
_Gib = Annotated[float, msgspec.Meta(gt=0, le=4096)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=63)]
_Source = Annotated[str, msgspec.Meta(min_length=1)]
Item = TypeVar("Item")


class GpuMode(StrEnum):
    """How a GPU is divided. It changes only while nothing sits on the GPU."""

    NONE = "none"
    """Nothing sits on it, or it is not known how."""
    MIG = "mig"
    EQUAL = "equal"
    """Time-sliced; all vGPUs have one size."""
    MIXED = "mixed"
    """Time-sliced; sizes differ."""


class MigProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of GPU instance. ``compute`` and ``memory`` in slices; ``gib``: what a guest gets.

    ``id``: the profile's number in NVML. ``most``: so many on one GPU, whatever else has room.
    """

    name: _Name
    id: Annotated[int, msgspec.Meta(ge=0)]
    compute: _Count
    memory: _Count
    starts: Annotated[tuple[int, ...], msgspec.Meta(min_length=1)]
    most: _Count
    gib: _Gib
    sms: Annotated[int, msgspec.Meta(ge=1)]


class MigBackedProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A vGPU type that fills one GPU instance."""

    name: _Name
    instance: _Name


class TimeSlicedProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A vGPU type that shares the GPU's time. ``mixed_most`` 0: never beside another size."""

    name: _Name
    gib: _Gib
    equal_most: _Count
    mixed_most: Annotated[int, msgspec.Meta(ge=0, le=SLOTS_MAX)] = 0


class Mig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model's GPU instances. Placement is on the memory axis, ``memory_slices`` wide."""

    source: _Source
    memory_slices: _Count
    compute_slices: _Count
    profiles: tuple[MigProfile, ...]


class MigBacked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model's MIG-backed vGPU types."""

    source: _Source
    profiles: tuple[MigBackedProfile, ...]


class TimeSliced(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model's time-sliced vGPU types.

    ``mixed_slots``: with mixed sizes the memory is a buddy system of so many slots, in which a
    profile takes ``mixed_slots / mixed_most`` of them, from a multiple of that. 0: not mixed.
    """

    source: _Source
    mixed_slots: Annotated[int, msgspec.Meta(ge=0, le=SLOTS_MAX)] = 0
    profiles: tuple[TimeSlicedProfile, ...]


class GpuModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One GPU model, memory variants apart.

    ``boards``: what NVML calls it. ``nvlink``: its boards come joined by NVLink, all of a host.
    """

    model: _Name
    memory_gib: _Gib
    sms: Annotated[int, msgspec.Meta(ge=1)]
    source: _Source
    boards: tuple[_Name, ...] = ()
    nvlink: bool = False
    mig: Mig | None = None
    mig_backed: MigBacked | None = None
    time_sliced: TimeSliced | None = None

    @property
    def memory_bytes(self) -> int:
        """The GPU's memory."""
        return int(self.memory_gib * GIB)


class Profile(msgspec.Struct, frozen=True):
    """A vGPU type by its name, wherever it is offered.

    ``framebuffer_bytes`` is the least that any of the models gives it: a machine's regions have one
    size, and must fit wherever it goes.
    """

    name: str
    models: tuple[str, ...]
    framebuffer_bytes: int


class CatalogueError(InvalidInputError):
    """The figures contradict each other. ``where``: in which table, as in ``mig.profiles[2]``."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.where = where
        self.reason = reason


class Catalogue(msgspec.Struct, frozen=True, eq=False):
    """All models and profiles, by name. Equal only to itself, so that what is computed from it can
    be kept by it.
    """

    models: dict[str, GpuModel]
    profiles: dict[str, Profile]

    def model(self, name: str) -> GpuModel:
        """Return the GPU model. Raises ``InvalidInputError`` listing what there is."""
        return _found("GPU model", name, self.models)

    def model_of_board(self, board: str) -> GpuModel | None:
        """Return the model that NVML calls ``board``, if there is one."""
        return next((model for model in self.models.values() if board in model.boards), None)

    def profile(self, name: str) -> Profile:
        """Return the profile. Raises ``InvalidInputError`` listing what there is."""
        return _found("vGPU profile", name, self.profiles)


def collect(models: Iterable[GpuModel]) -> Catalogue:
    """Make a catalogue of models that each passed ``check``. A later one replaces its namesake."""
    by_name = {model.model: model for model in models}
    sizes: dict[str, dict[str, int]] = {}
    for model in by_name.values():
        for name, size in framebuffers(model).items():
            sizes.setdefault(name, {})[model.model] = size
    profiles = {
        name: Profile(name, tuple(offered), min(offered.values()))
        for name, offered in sizes.items()
    }
    return Catalogue(models=by_name, profiles=profiles)


def framebuffers(model: GpuModel) -> dict[str, int]:
    """Bytes of whole pages that each profile has on a model, by its name."""
    instances = {item.name: _pages(item.gib) for item in model.mig.profiles} if model.mig else {}
    backed = model.mig_backed.profiles if model.mig_backed else ()
    shared = model.time_sliced.profiles if model.time_sliced else ()
    return {
        **instances,
        **{item.name: instances[item.instance] for item in backed},
        **{item.name: _pages(item.gib) for item in shared},
    }


def check(model: GpuModel) -> None:
    """Raise ``CatalogueError`` for the first figure that cannot be right beside the others."""
    _check_names(model)
    if model.mig is not None:
        for index, profile in enumerate(model.mig.profiles):
            _check_mig(model, model.mig, profile, f"mig.profiles[{index}]")
    if model.mig_backed is not None:
        instances = {item.name for item in model.mig.profiles} if model.mig else set()
        for index, backed in enumerate(model.mig_backed.profiles):
            if backed.instance not in instances:
                reason = f"{backed.name} names the GPU instance {backed.instance!r}, there is none"
                raise CatalogueError(f"mig_backed.profiles[{index}]", reason)
    if model.time_sliced is not None:
        for index, shared in enumerate(model.time_sliced.profiles):
            _check_shared(model, model.time_sliced, shared, f"time_sliced.profiles[{index}]")


def _check_names(model: GpuModel) -> None:
    seen: set[str] = set()
    for table in ("mig", "mig_backed", "time_sliced"):
        section = getattr(model, table)
        for index, profile in enumerate(section.profiles if section else ()):
            if profile.name in seen:
                where = f"{table}.profiles[{index}]"
                raise CatalogueError(where, f"{profile.name} is there twice")
            seen.add(profile.name)


def _check_mig(model: GpuModel, mig: Mig, profile: MigProfile, where: str) -> None:
    if profile.compute > mig.compute_slices:
        reason = f"{profile.name} takes {profile.compute} of {mig.compute_slices} compute slices"
        raise CatalogueError(where, reason)
    outside = [at for at in profile.starts if not 0 <= at <= mig.memory_slices - profile.memory]
    if outside:
        reason = f"{profile.name} at {outside[0]} does not lie on {mig.memory_slices} slices"
        raise CatalogueError(where, reason)
    if sorted(set(profile.starts)) != list(profile.starts):
        raise CatalogueError(where, f"the starts of {profile.name} do not ascend")
    _check_memory(model, profile.name, profile.gib, profile.most, where)


def _check_shared(
    model: GpuModel, section: TimeSliced, profile: TimeSlicedProfile, where: str
) -> None:
    _check_memory(model, profile.name, profile.gib, profile.equal_most, where)
    if profile.mixed_most > profile.equal_most:
        reason = f"{profile.name}: more fit mixed ({profile.mixed_most}) than alone"
        raise CatalogueError(where, reason)
    if profile.mixed_most and section.mixed_slots % profile.mixed_most:
        reason = f"{profile.name}: {section.mixed_slots} slots are not {profile.mixed_most} parts"
        raise CatalogueError(where, reason)
    if profile.mixed_most and not section.mixed_slots:
        raise CatalogueError(where, f"{profile.name} has mixed_most, but mixed_slots is not given")


def _check_memory(model: GpuModel, name: str, gib: float, most: int, where: str) -> None:
    if gib * most > model.memory_gib:
        reason = f"{most} of {name} are {gib * most:g} GiB, {model.model} has {model.memory_gib:g}"
        raise CatalogueError(where, reason)


def _pages(gib: float) -> int:
    return int(gib * GIB) // PAGE_BYTES * PAGE_BYTES


def _found(what: str, name: str, items: dict[str, Item]) -> Item:
    found = items.get(name)
    if found is None:
        raise InvalidInputError(f"no {what} is called {name!r}", hint=f"one of: {', '.join(items)}")
    return found
