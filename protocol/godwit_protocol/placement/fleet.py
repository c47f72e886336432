"""The choice among many GPUs: one vGPU, or all vGPUs of one machine at once. Exact.

GPUs are kept by their shape, so that a decision looks at each shape once, however many GPUs have
it. A fleet is an index, made from what somebody else holds to be true; it decides and is told, and
keeps no reservations of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from ..errors import RefusedError
from .geometry import Seat
from .policy import DeviceGroup, Policy
from .shapes import Choice, Rank, Shape, Solver

SEARCH_STEPS_MAX: Final = 20_000
"""Choices that are tried for one machine's vGPUs before it is left undecided."""


class GpuAt(NamedTuple):
    """Which GPU."""

    host: str
    gpu: int


class Place(msgspec.Struct, frozen=True):
    """A vGPU's place on one GPU."""

    gpu: GpuAt
    seat: Seat


class UndecidedError(RefusedError):
    """Whether a machine's vGPUs fit was not found out within ``SEARCH_STEPS_MAX``."""

    code = "undecided"


_Groups = dict[Shape, tuple[GpuAt, ...]]


class Fleet:
    """GPUs by shape."""

    def __init__(self, solver: Solver) -> None:
        self._solver = solver
        self._shapes: dict[GpuAt, Shape] = {}
        self._islands: dict[GpuAt, str] = {}
        self._groups: dict[str, dict[Shape, dict[GpuAt, None]]] = {}
        """By model, for a profile is offered by a few."""

    def put(self, gpu: GpuAt, model: str, seats: Iterable[Seat] = (), *, island: str = "") -> None:
        """Say what sits on a GPU, new or known. ``island``: whose GPUs are linked by NVLink.

        Raises ``InvalidInputError`` for a model that the catalogue lacks, ``CorruptError`` for
        seats that no legal layout has.
        """
        self._set(gpu, self._solver.tables(model).of(seats))
        self._islands[gpu] = island

    def take(self, place: Place) -> None:
        """Seat a vGPU. Raises ``CorruptError`` if something sits there."""
        shape = self._shapes[place.gpu]
        tables = self._solver.tables(shape.model.model)
        self._set(place.gpu, tables.extend(shape, place.seat))

    def _set(self, gpu: GpuAt, shape: Shape) -> None:
        if (before := self._shapes.get(gpu)) is not None:
            shapes = self._groups[before.model.model]
            del shapes[before][gpu]
            if not shapes[before]:
                del shapes[before]
        shape.prepare()
        self._shapes[gpu] = shape
        self._groups.setdefault(shape.model.model, {}).setdefault(shape, {})[gpu] = None

    def _offering(self, profile: str) -> Iterator[tuple[Shape, dict[GpuAt, None]]]:
        """The GPUs of the models that offer a profile. Raises ``InvalidInputError``."""
        for model in self._solver.catalogue.profile(profile).models:
            yield from self._groups.get(model, {}).items()

    def knows(self, gpu: GpuAt) -> bool:
        """Whether the GPU is part of the fleet."""
        return gpu in self._shapes

    def shape(self, gpu: GpuAt) -> Shape:
        """What is taken on a GPU."""
        return self._shapes[gpu]

    def remaining(self, profile: str, model: str = "") -> int:
        """How many more of a profile fit, if nothing else comes; on GPUs of one model if it is
        given. Raises ``InvalidInputError``.
        """
        groups = self._groups.get(model, {}).items() if model else self._offering(profile)
        return sum(shape.fits(profile) * len(gpus) for shape, gpus in groups)

    def choose(self, profile: str, policy: Policy) -> Place | None:
        """The best place for one vGPU; None if there is none. Raises ``InvalidInputError``."""
        best: tuple[Rank, GpuAt, Choice] | None = None
        for shape, gpus in self._offering(profile):
            found = shape.best(profile, policy)
            if found is None or (best is not None and best[0] < found[0]):
                continue
            candidate = (found[0], min(gpus), found[1])
            if best is None or candidate[:2] < best[:2]:
                best = candidate
        return None if best is None else _place(best[1], profile, best[2])

    def choose_all(
        self,
        profiles: Sequence[str],
        policy: Policy,
        group: DeviceGroup = DeviceGroup.NONE,
    ) -> tuple[Place, ...] | None:
        """Places for all of one machine's vGPUs, in their order; None if there are none.

        Exact in whether there are. The policy is followed one vGPU at a time, the largest first;
        a group goes where its first would best go.
        Raises ``UndecidedError``, and ``InvalidInputError`` for a profile that the catalogue lacks.
        """
        order = sorted(range(len(profiles)), key=lambda i: (self._solver.size_rank(profiles[i]), i))
        wanted = [profiles[index] for index in order]
        for groups in self._domains(group, wanted, policy):
            search = _Search(self._solver, wanted, policy, apart=group is DeviceGroup.NVLINK)
            found = search.run(groups)
            if found is not None:
                by_index = dict(zip(order, found, strict=True))
                return tuple(by_index[index] for index in range(len(profiles)))
        return None

    def _domains(
        self, group: DeviceGroup, wanted: Sequence[str], policy: Policy
    ) -> Iterable[_Groups]:
        """Within which GPUs to look, one set after the other."""
        match group:
            case DeviceGroup.NONE:
                return [{shape: tuple(sorted(gpus)) for shape, gpus in self._all()}]
            case DeviceGroup.ONE_GPU:
                domains: list[_Groups] = [{shape: (min(gpus),)} for shape, gpus in self._all()]
            case DeviceGroup.NVLINK:
                islands = sorted({name for name in self._islands.values() if name})
                domains = [self._within(island) for island in islands]
        ranked = [(_first_rank(domain, wanted, policy), domain) for domain in domains]
        fitting = [(rank, domain) for rank, domain in ranked if rank is not None]
        return [domain for _, domain in sorted(fitting, key=lambda item: item[0])]

    def _all(self) -> Iterator[tuple[Shape, dict[GpuAt, None]]]:
        for shapes in self._groups.values():
            yield from shapes.items()

    def _within(self, island: str) -> _Groups:
        groups: dict[Shape, tuple[GpuAt, ...]] = {}
        for gpu in sorted(gpu for gpu, name in self._islands.items() if name == island):
            shape = self._shapes[gpu]
            groups[shape] = (*groups.get(shape, ()), gpu)
        return groups


def _first_rank(
    domain: _Groups, wanted: Sequence[str], policy: Policy
) -> tuple[Rank, GpuAt] | None:
    """How well the first of those wanted could sit there; None if it could not."""
    bests = [
        (shape.best(name, policy), min(gpus))
        for name in wanted[:1]
        for shape, gpus in domain.items()
    ]
    return min(((best[0], gpu) for best, gpu in bests if best is not None), default=None)


class _Search:
    """Depth first, the best choice first; what has failed once is not tried again."""

    def __init__(
        self, solver: Solver, wanted: Sequence[str], policy: Policy, *, apart: bool
    ) -> None:
        self._solver = solver
        self._wanted = wanted
        self._policy = policy
        self._apart = apart
        self._failed: set[tuple[int, frozenset[tuple[Shape, int]]]] = set()
        self._steps = 0

    def run(self, groups: _Groups) -> list[Place] | None:
        return self._from(0, groups)

    def _from(self, index: int, groups: _Groups) -> list[Place] | None:
        if index == len(self._wanted):
            return []
        key = (index, frozenset((shape, len(gpus)) for shape, gpus in groups.items()))
        if key in self._failed or not self._may_fit(index, groups):
            return None
        profile = self._wanted[index]
        for _, gpu, shape, choice in self._options(profile, groups):
            self._count_step()
            rest = self._from(index + 1, self._after(groups, gpu, shape, choice))
            if rest is not None:
                return [_place(gpu, profile, choice), *rest]
        self._failed.add(key)
        return None

    def _may_fit(self, index: int, groups: _Groups) -> bool:
        """Whether each profile by itself still has room for as many as are wanted."""
        return all(
            sum(shape.fits(profile) * len(gpus) for shape, gpus in groups.items()) >= times
            for profile, times in Counter(self._wanted[index:]).items()
        )

    def _options(self, profile: str, groups: _Groups) -> list[tuple[Rank, GpuAt, Shape, Choice]]:
        options = [
            (shape.rank(choice, self._policy), gpus[0], shape, choice)
            for shape, gpus in groups.items()
            for choice in shape.choices(profile)
        ]
        return sorted(options, key=lambda option: option[:2])

    def _after(self, groups: _Groups, gpu: GpuAt, shape: Shape, choice: Choice) -> _Groups:
        after = dict(groups)
        after[shape] = after[shape][1:]
        if not after[shape]:
            del after[shape]
        if not self._apart:
            after[choice.after] = tuple(sorted((*after.get(choice.after, ()), gpu)))
        return after

    def _count_step(self) -> None:
        self._steps += 1
        if self._steps > SEARCH_STEPS_MAX:
            count = len(self._wanted)
            message = f"not decided in {SEARCH_STEPS_MAX} steps whether {count} vGPUs fit"
            raise UndecidedError(message, hint="ask for them in fewer or more equal sizes")


def _place(gpu: GpuAt, profile: str, choice: Choice) -> Place:
    return Place(gpu, choice.piece.seat(profile, choice.start))
