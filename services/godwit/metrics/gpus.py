"""The cluster's GPUs in figures, by model, as the tracker's pictures show them.

Looked up when the figures are shown; a host is counted again only if it has changed since. Decides
nothing, and knows of no machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from godwit.pictures.hosts import fragmentation_of
from godwit_protocol.catalogue import Catalogue
from godwit_protocol.ledger import HostPicture

from . import definitions as metrics
from .figures import Reading

Pictures = Callable[[], Mapping[str, HostPicture]]


@dataclass(slots=True)
class _Count:
    """The GPUs of one host, or of all; everything by model."""

    gpus: Counter[tuple[str, bool]] = field(default_factory=Counter)
    """Also by whether they are simulated."""
    memory_bytes: Counter[str] = field(default_factory=Counter)
    held_bytes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Also by whether they are consumed or reserved."""
    known: Counter[str] = field(default_factory=Counter)
    """GPUs whose fragmentation is known."""
    fragmentation: dict[str, float] = field(default_factory=dict)
    """The sum over them."""

    def add(self, other: _Count) -> None:
        self.gpus.update(other.gpus)
        self.memory_bytes.update(other.memory_bytes)
        self.held_bytes.update(other.held_bytes)
        self.known.update(other.known)
        for model, value in other.fragmentation.items():
            self.fragmentation[model] = self.fragmentation.get(model, 0.0) + value


class Gpus:
    """Reads what a tracker knows."""

    def __init__(self, pictures: Pictures, catalogue: Catalogue) -> None:
        self._pictures = pictures
        self._catalogue = catalogue
        self._counts: dict[str, tuple[HostPicture, _Count]] = {}
        """By host: what it was counted from, and the count."""

    def read(self) -> Iterator[Reading]:
        """The figures as they are now."""
        whole = _Count()
        for host, picture in self._pictures().items():
            counted = self._counts.get(host)
            if counted is None or counted[0] is not picture:
                counted = self._counts[host] = picture, self._count(picture)
            whole.add(counted[1])
        for (model, simulated), gpus in whole.gpus.items():
            yield Reading(metrics.GPUS, gpus, (model, str(simulated).lower()))
        for model, memory_bytes in whole.memory_bytes.items():
            yield from _of_model(whole, model, memory_bytes)

    def _count(self, picture: HostPicture) -> _Count:
        count = _Count()
        models = {gpu.index: gpu.model for gpu in picture.gpus}
        for gpu in picture.gpus:
            count.gpus[gpu.model, gpu.simulated] += 1
            count.memory_bytes[gpu.model] += gpu.memory_bytes
            fragmentation = fragmentation_of(picture, gpu, self._catalogue)
            if fragmentation is not None:
                count.known[gpu.model] += 1
                before = count.fragmentation.get(gpu.model, 0.0)
                count.fragmentation[gpu.model] = before + fragmentation
        for holding in picture.holdings.values():
            state = "consumed" if holding.confirmed else "reserved"
            for placement in holding.placements:
                if placement.gpu in models:
                    held = models[placement.gpu], state
                    count.held_bytes[held] += placement.framebuffer_bytes
        return count


def _of_model(whole: _Count, model: str, memory_bytes: int) -> Iterator[Reading]:
    consumed, reserved = (whole.held_bytes[model, state] for state in ("consumed", "reserved"))
    yield Reading(metrics.GPU_MEMORY_BYTES, memory_bytes, (model,))
    yield Reading(metrics.GPU_HELD_BYTES, consumed, (model, "consumed"))
    yield Reading(metrics.GPU_HELD_BYTES, reserved, (model, "reserved"))
    yield Reading(metrics.GPU_OCCUPANCY, (consumed + reserved) / max(memory_bytes, 1), (model,))
    if known := whole.known[model]:
        mean = whole.fragmentation[model] / known
        yield Reading(metrics.GPU_FRAGMENTATION, mean, (model,))
