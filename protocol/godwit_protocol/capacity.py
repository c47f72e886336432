"""How much of each profile is in use, how much more fits, and what there could be at most. Pure.

A vGPU counts by the name of its own profile. A GPU whose model the catalogue lacks counts nowhere;
one on which it is not known where its vGPUs sit takes nothing more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from .catalogue import Catalogue
from .errors import CorruptError
from .events.machine import GpuInventory
from .ledger import HostPicture, index
from .placement.fleet import GpuAt
from .placement.repacking import Pool, Room
from .placement.shapes import solver


class ProfileCapacity(msgspec.Struct, frozen=True, kw_only=True):
    """One profile's part of the cluster, in vGPUs.

    ``consumed``: a machine runs there. ``reserved``: held for one. ``remaining``: how many more fit
    now, if nothing else comes; ``repacked``: if all were seated anew before. ``maximum``: how many
    there could be if nothing else were there.
    """

    profile: str
    consumed: int
    reserved: int
    remaining: int
    maximum: int
    repacked: Room

    def checked(self) -> ProfileCapacity:
        """Return self. Raises ``CorruptError`` if more is booked than there can be."""
        if self.consumed + self.reserved + self.remaining > self.maximum:
            raise CorruptError(
                f"of {self.profile}, {self.consumed} are in use, {self.reserved} reserved and"
                f" {self.remaining} more fit, but there can be only {self.maximum}"
            )
        return self


def capacities(
    pictures: Sequence[HostPicture], catalogue: Catalogue, profiles: Iterable[str] = ()
) -> tuple[ProfileCapacity, ...]:
    """The capacity for each of the profiles, or for each that one of the GPUs offers, by model.

    Raises ``InvalidInputError`` for a profile that the catalogue lacks, ``CorruptError`` as
    ``ProfileCapacity.checked``.
    """
    count = _Count(pictures, catalogue)
    offered = (
        name for name, item in catalogue.profiles.items() if count.gpus.keys() & {*item.models}
    )
    return tuple(count.of(catalogue.profile(name).name) for name in profiles or offered)


class _Count:
    """What is counted once for all profiles."""

    def __init__(self, pictures: Sequence[HostPicture], catalogue: Catalogue) -> None:
        self._solver = solver(catalogue)
        self._fleet = index(pictures, catalogue)
        self.gpus: Counter[str] = Counter()
        """By model."""
        self._placeable: Counter[str] = Counter()
        self._booked: Counter[tuple[str, bool]] = Counter()
        self._seated: dict[str, Counter[str]] = {}
        for picture in pictures:
            for gpu in picture.gpus:
                if gpu.model in catalogue.models:
                    self._count(picture, gpu)
        self._pools = {
            model: Pool(self._solver, model, gpus, self._seated[model])
            for model, gpus in self._placeable.items()
        }

    def _count(self, picture: HostPicture, gpu: GpuInventory) -> None:
        placeable = self._fleet.knows(GpuAt(picture.host, gpu.index))
        self.gpus[gpu.model] += 1
        self._placeable[gpu.model] += placeable
        seated = self._seated.setdefault(gpu.model, Counter())
        for holding in picture.holdings.values():
            for placed in holding.placements:
                if placed.gpu == gpu.index:
                    self._booked[placed.profile, holding.confirmed] += 1
                    if placeable:
                        seated[placed.profile] += 1

    def of(self, profile: str) -> ProfileCapacity:
        """The capacity for one profile."""
        remaining = {model: self._fleet.remaining(profile, model) for model in self.gpus}
        rooms = (pool.room(profile, remaining[model]) for model, pool in self._pools.items())
        return ProfileCapacity(
            profile=profile,
            consumed=self._booked[profile, True],
            reserved=self._booked[profile, False],
            remaining=sum(remaining.values()),
            maximum=sum(
                self._solver.tables(model).empty.fits(profile) * gpus
                for model, gpus in self.gpus.items()
            ),
            repacked=sum(rooms, start=Room(0, 0)),
        ).checked()
